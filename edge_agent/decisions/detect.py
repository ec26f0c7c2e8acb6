"""Detection: boxes to what is told about a frame.

Confidence of a frame is the mean of its boxes' confidences; 0 where there is none.
"""

from collections.abc import Sequence

from shared.model.postprocess import Boxes
from shared.wire.records import BOXES_MAX, Box, Detected


def detect(boxes: Boxes, classes: Sequence[str]) -> Detected:
    """Return the objects of one frame, best first, with the names of their classes."""
    found = zip(boxes.corners.tolist(), boxes.scores.tolist(), boxes.classes.tolist(), strict=True)
    return Detected(
        boxes=tuple(Box(classes[index], score, *corners) for corners, score, index in found)[
            :BOXES_MAX
        ]
    )


def confidence_of(detected: Detected) -> float:
    """Return how sure the device is of a frame; see above."""
    if not detected.boxes:
        return 0.0
    return sum(box.confidence for box in detected.boxes) / len(detected.boxes)
