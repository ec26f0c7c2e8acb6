"""Agreement: whether two releases conclude the same of one item.

1. Two classes agree when they have the same name.
2. Two sets of boxes agree when, matched by class and an overlap of at least OVERLAP_MIN, their F1
   is at least F1_MIN; two empty sets agree.
3. Two scores agree when both or neither are anomalous.
4. Outcomes of different kinds never agree.
"""

import numpy as np

from shared.model.metrics import OVERLAP_MIN, match_boxes
from shared.model.postprocess import Boxes
from shared.wire.records import Classified, Detected, Outcome, Scored

F1_MIN = 0.5


def agrees(one: Outcome, other: Outcome) -> bool:
    """Return whether both conclude the same; see the rules above."""
    match one, other:
        case Classified(), Classified():
            return one.label == other.label
        case Scored(), Scored():
            return one.is_anomalous == other.is_anomalous
        case Detected(), Detected():
            return _f1(one, other) >= F1_MIN
    return False


def _f1(one: Detected, other: Detected) -> float:
    names = sorted({box.label for box in (*one.boxes, *other.boxes)})
    index_of = {name: index for index, name in enumerate(names)}
    return match_boxes(
        _to_boxes(one, index_of), _to_boxes(other, index_of), overlap_min=OVERLAP_MIN
    ).f1


def _to_boxes(detected: Detected, index_of: dict[str, int]) -> Boxes:
    boxes = detected.boxes
    corners = [(box.left, box.top, box.right, box.bottom) for box in boxes]
    return Boxes(
        corners=np.array(corners, dtype=np.float32).reshape(-1, 4),
        scores=np.array([box.confidence for box in boxes], dtype=np.float32),
        classes=np.array([index_of[box.label] for box in boxes], dtype=np.int64),
    )
