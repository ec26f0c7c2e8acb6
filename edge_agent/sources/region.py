"""Region: places given in shares of a frame, as pixels of a frame of some size. Pure.

1. A region has whole pixels and at least one: its edges are rounded, and what a person drew is
   never lost to rounding.
2. A mask is told in pixels of another picture (the model's input, the small gray one) into which a
   region was brought; a mask that does not meet the region is left out.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shared.pipeline.frames import Point

Shares = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class PixelRegion:
    """A part of a frame of `frame_width` x `frame_height`; right and bottom are not in it."""

    left: int
    top: int
    right: int
    bottom: int
    frame_width: int
    frame_height: int

    @property
    def shares(self) -> Shares:
        """Return left, top, right, bottom as shares of the frame."""
        return (
            self.left / self.frame_width,
            self.top / self.frame_height,
            self.right / self.frame_width,
            self.bottom / self.frame_height,
        )


def to_pixels(region: Shares | None, frame_width: int, frame_height: int) -> PixelRegion:
    """Return `region`, or all of the frame for None, in pixels; see rule 1."""
    left, top, right, bottom = region or (0.0, 0.0, 1.0, 1.0)
    left_px = min(round(left * frame_width), frame_width - 1)
    top_px = min(round(top * frame_height), frame_height - 1)
    return PixelRegion(
        left=left_px,
        top=top_px,
        right=max(round(right * frame_width), left_px + 1),
        bottom=max(round(bottom * frame_height), top_px + 1),
        frame_width=frame_width,
        frame_height=frame_height,
    )


def masks_within(
    masks: Sequence[Sequence[Point]], region: PixelRegion, *, width: int, height: int
) -> list[NDArray[np.int32]]:
    """Return the masks that meet `region`, in pixels of a picture that it was brought into.

    Args: `width` and `height` are what the region measures in that picture.
    """
    left, top, right, bottom = region.shares
    corner = np.array([left, top])
    extent = np.array([right - left, bottom - top])
    found = []
    for mask in masks:
        shares = (np.array(mask, dtype=np.float64) - corner) / extent  # (n, 2) of the region
        if (shares.max(axis=0) <= 0.0).any() or (shares.min(axis=0) >= 1.0).any():
            continue
        found.append(np.rint(shares * (width, height)).astype(np.int32))
    return found
