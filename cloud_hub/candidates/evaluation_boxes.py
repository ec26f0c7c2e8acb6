"""TrueBoxes: the objects that are truly on the pictures of an evaluation set. Pure numpy.

1. In the .npz: `boxes` (M, 5) float32 rows of class, left, top, right, bottom, corners in shares of
   the picture, those of one picture after those of the one before; `box_starts` (N + 1,) whole
   numbers, so that picture i has rows box_starts[i] to box_starts[i + 1]. No row for a picture says
   that there is nothing on it.
2. In the form that is kept here rows of one picture are one piece of one array: a set of 100 000
   pictures is two arrays, not 100 000 values.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cloud_hub.candidates.evaluation_limits import BOXES_MAX, PICTURE_BOXES_MAX
from shared.model.postprocess import Boxes
from shared.model.spec import CLASSES_MAX

Array = NDArray[np.generic]
COLUMNS = 5  # Class, left, top, right, bottom


@dataclass(frozen=True, slots=True)
class TrueBoxes:
    """See the rules above; `rows` are checked."""

    rows: NDArray[np.float32]  # (M, 5)
    starts: NDArray[np.int64]  # (N + 1,)

    def of(self, index: int) -> Boxes:
        """Return what is on one picture, each with score 1."""
        rows = self.rows[self.starts[index] : self.starts[index + 1]]
        scores = np.ones(rows.shape[0], np.float32)
        return Boxes(rows[:, 1:], scores, rows[:, 0].astype(np.int64))

    def pick(self, indices: Sequence[int]) -> "TrueBoxes":
        """Return those of some pictures."""
        pieces = [self.rows[self.starts[i] : self.starts[i + 1]] for i in indices]
        return _joined(pieces)

    @property
    def class_max(self) -> int:
        """Return the highest class index, or -1 where there is no box."""
        return int(self.rows[:, 0].max()) if self.rows.size else -1


def arrays_of(boxes: Sequence[Boxes]) -> dict[str, Array]:
    """Return the two arrays of rule 1."""
    pieces = [
        np.concatenate([found.classes[:, None].astype(np.float32), found.corners], axis=1)
        for found in boxes
    ]
    joined = _joined(pieces)
    return {"boxes": joined.rows, "box_starts": joined.starts}


def check_boxes(boxes: Array | None, starts: Array | None, count: int) -> TrueBoxes:
    """Return the boxes of `count` pictures. Raises ValueError naming the array."""
    if boxes is None or starts is None:
        missing = "boxes" if boxes is None else "box_starts"
        raise ValueError(f"`{missing}` is missing: `boxes` and `box_starts` belong together")
    if boxes.ndim != 2 or boxes.shape[1] != COLUMNS or boxes.dtype != np.float32:
        raise ValueError(
            f"`boxes` are {boxes.dtype} {boxes.shape}; they must be (M, 5) float32 rows of class, "
            "left, top, right, bottom"
        )
    if boxes.shape[0] > BOXES_MAX:
        raise ValueError(f"`boxes` are {boxes.shape[0]}, over {BOXES_MAX}")
    checked = TrueBoxes(boxes.astype(np.float32), _check_starts(starts, count, boxes.shape[0]))
    _check_rows(checked.rows)
    return checked


def _check_starts(starts: Array, count: int, rows: int) -> NDArray[np.int64]:
    if starts.shape != (count + 1,) or starts.dtype.kind not in "iu":
        raise ValueError(
            f"`box_starts` must be ({count + 1},) whole numbers: one for each item and the end"
        )
    checked = starts.astype(np.int64)
    counts = np.diff(checked)
    if int(checked[0]) != 0 or int(checked[-1]) != rows:
        raise ValueError(f"`box_starts` must go from 0 to {rows}, the number of `boxes`")
    if (counts < 0).any():
        raise ValueError("`box_starts` must never fall")
    if int(counts.max()) > PICTURE_BOXES_MAX:
        most = int(counts.max())
        raise ValueError(f"`box_starts` give one item {most} boxes, over {PICTURE_BOXES_MAX}")
    return checked


def _check_rows(rows: NDArray[np.float32]) -> None:
    if not np.isfinite(rows).all():
        raise ValueError("`boxes` hold NaN or infinity")
    classes, corners = rows[:, 0], rows[:, 1:]
    if ((classes < 0) | (classes >= CLASSES_MAX) | (classes != np.rint(classes))).any():
        raise ValueError("`boxes` must begin with the class, a whole number from 0 on")
    if ((corners < 0.0) | (corners > 1.0)).any():
        raise ValueError("`boxes` must have corners in shares of the picture, 0 to 1")
    if ((corners[:, 2] <= corners[:, 0]) | (corners[:, 3] <= corners[:, 1])).any():
        raise ValueError("`boxes` must have left < right and top < bottom")


def _joined(pieces: Sequence[NDArray[np.float32]]) -> TrueBoxes:
    counts = np.array([piece.shape[0] for piece in pieces], np.int64)
    rows = np.concatenate([np.zeros((0, COLUMNS), np.float32), *pieces]).astype(np.float32)
    return TrueBoxes(rows, np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)]))
