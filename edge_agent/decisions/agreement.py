"""Agreement: whether two releases conclude the same of one item.

1. Two classes agree when they have the same name.
2. Two sets of boxes agree when, matched by class and an overlap of at least OVERLAP_MIN, their F1
   is at least F1_MIN; two empty sets agree.
3. Two scores agree when both or neither are anomalous.
4. Tracks agree as boxes do: their numbers are each release's own.
5. Two lists of numbers agree when, in the mean, they are within VALUES_SHARE_MAX of the larger one.
6. Two segmentations agree when they share at least SHARE_MIN of what either says.
7. Outcomes of different kinds never agree.
"""

from collections.abc import Sequence

import numpy as np

from shared.model.metrics import OVERLAP_MIN, match_boxes
from shared.model.postprocess import Boxes
from shared.wire.records import (
    Box,
    Classified,
    Detected,
    Estimated,
    Outcome,
    Scored,
    Segmented,
    Track,
    Tracked,
)

F1_MIN = 0.5
VALUES_SHARE_MAX = 0.1
SHARE_MIN = 0.8


def agrees(one: Outcome, other: Outcome) -> bool:
    """Return whether both conclude the same; see the rules above."""
    match one, other:
        case Classified(), Classified():
            return one.label == other.label
        case Scored(), Scored():
            return one.is_anomalous == other.is_anomalous
        case Detected(), Detected():
            return _f1(one.boxes, other.boxes) >= F1_MIN
        case Tracked(), Tracked():
            return _f1(one.tracks, other.tracks) >= F1_MIN
        case Estimated(), Estimated():
            return _are_near(one.values, other.values)
        case Segmented(), Segmented():
            return _shared(one.shares, other.shares) >= SHARE_MIN
    return False


def _are_near(ours: tuple[float, ...], theirs: tuple[float, ...]) -> bool:
    if len(ours) != len(theirs):
        return False
    apart = sum(abs(a - b) for a, b in zip(ours, theirs, strict=True))
    return apart <= VALUES_SHARE_MAX * max(sum(map(abs, ours)), sum(map(abs, theirs)))


def _shared(ours: dict[str, float], theirs: dict[str, float]) -> float:
    """Return the smaller of both shares over the larger, summed over all classes; 1 for none."""
    names = ours.keys() | theirs.keys()
    most = sum(max(ours.get(name, 0.0), theirs.get(name, 0.0)) for name in names)
    least = sum(min(ours.get(name, 0.0), theirs.get(name, 0.0)) for name in names)
    return least / most if most > 0 else 1.0


Found = Sequence[Box] | Sequence[Track]


def _f1(ours: Found, theirs: Found) -> float:
    names = sorted({box.label for box in (*ours, *theirs)})
    index_of = {name: index for index, name in enumerate(names)}
    return match_boxes(
        _to_boxes(ours, index_of), _to_boxes(theirs, index_of), overlap_min=OVERLAP_MIN
    ).f1


def _to_boxes(boxes: Found, index_of: dict[str, int]) -> Boxes:
    corners = [(box.left, box.top, box.right, box.bottom) for box in boxes]
    return Boxes(
        corners=np.array(corners, dtype=np.float32).reshape(-1, 4),
        scores=np.array([box.confidence for box in boxes], dtype=np.float32),
        classes=np.array([index_of[box.label] for box in boxes], dtype=np.int64),
    )
