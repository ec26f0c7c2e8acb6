"""What is wrong with boxes, and what a box is once that is put right. Pure."""

import math
from collections.abc import Iterable

from cloud_hub.datasets.cleaning_report import FindingCode
from cloud_hub.datasets.raw_item import RawBox

OUTSIDE_SHARE_MAX = 0.001  # Rounding of a tool's whole pixels is no mistake of a person's
TINY_SIDE = 0.005  # Of the picture: at 640 pixels, three


def box_fault(box: RawBox) -> FindingCode | None:
    """Return what is wrong with a box, the worst of it."""
    corners = (box.left, box.top, box.right, box.bottom)
    if not all(map(math.isfinite, corners)) or clean_box(box) is None:
        return FindingCode.BOX_DEGENERATE
    if min(corners) < -OUTSIDE_SHARE_MAX or max(corners) > 1.0 + OUTSIDE_SHARE_MAX:
        return FindingCode.BOX_OUTSIDE
    if min(box.right - box.left, box.bottom - box.top) < TINY_SIDE:
        return FindingCode.BOX_TINY
    return None


def clean_box(box: RawBox) -> RawBox | None:
    """Return a box cut off at the picture's edges, or None where nothing of it is left."""
    if not all(map(math.isfinite, (box.left, box.top, box.right, box.bottom))):
        return None
    left, right = max(0.0, box.left), min(1.0, box.right)
    top, bottom = max(0.0, box.top), min(1.0, box.bottom)
    if right <= left or bottom <= top:
        return None
    return RawBox(box.class_name, left, top, right, bottom)


def clean_boxes(boxes: Iterable[RawBox]) -> tuple[RawBox, ...]:
    """Return the boxes of one picture as a manifest can hold them."""
    return tuple(clean for box in boxes if (clean := clean_box(box)) is not None)
