"""Metrics: how right decisions are, in numpy, the one copy of it for the gate and the devices.

What must not live here: which number is good enough (the hub's gate says).

1. Boxes match greedily, best first: each to the unmatched true box of its class that it overlaps
   most, if by at least `overlap_min` (as PASCAL VOC counts: Everingham et al., IJCV 2010).
2. Average precision is the area under the interpolated precision-recall curve at every recall
   (VOC 2010). Classes without a true box do not count into the mean.
3. A share of nothing is 0, but the F1 of no boxes where there are none is 1: both are right.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shared.model.postprocess import Boxes, overlaps

OVERLAP_MIN = 0.5

Floats = NDArray[np.floating]
Indices = NDArray[np.integer]


@dataclass(frozen=True, slots=True)
class Matches:
    """What came of comparing boxes found with the true ones."""

    is_right: NDArray[np.bool_]  # (found,) whether each found box matches a true one
    true_count: int

    @property
    def right_count(self) -> int:
        """Return how many found boxes match."""
        return int(self.is_right.sum())

    @property
    def f1(self) -> float:
        """Return the harmonic mean of precision and recall; 1 where both sides are empty."""
        total = int(self.is_right.size) + self.true_count
        return 2.0 * self.right_count / total if total else 1.0


def accuracy(predicted: Indices, true: Indices) -> float:
    """Return the share of items, (n,) class indices each, that are right."""
    assert predicted.shape == true.shape, "one prediction per item"
    return float(np.mean(predicted == true)) if predicted.size else 0.0


def confusion(predicted: Indices, true: Indices, *, classes_count: int) -> NDArray[np.int64]:
    """Return (classes, classes): how often each true class (row) was called each class (column)."""
    assert predicted.shape == true.shape, "one prediction per item"
    table = np.zeros((classes_count, classes_count), dtype=np.int64)
    np.add.at(table, (true, predicted), 1)
    return table


def f1_macro(table: NDArray[np.int64]) -> float:
    """Return the mean F1 over the classes that occur, from a confusion table."""
    right = np.diag(table).astype(np.float64)
    total = table.sum(axis=0) + table.sum(axis=1)
    occurs = table.sum(axis=1) > 0
    return float(np.mean(2.0 * right[occurs] / total[occurs])) if occurs.any() else 0.0


def match_boxes(found: Boxes, true: Boxes, *, overlap_min: float = OVERLAP_MIN) -> Matches:
    """Return which found boxes, best first, match a true one; see rule 1."""
    is_right = np.zeros(len(found), dtype=bool)
    overlap = overlaps(found.corners, true.corners)  # (found, true)
    overlap[found.classes[:, None] != true.classes[None]] = -1.0
    for index in range(len(found)) if len(true) else ():
        best = int(overlap[index].argmax())
        if overlap[index, best] >= overlap_min:
            is_right[index] = True
            overlap[:, best] = -1.0  # A true box is found once
    return Matches(is_right=is_right, true_count=len(true))


def f1_boxes(
    found: Sequence[Boxes], true: Sequence[Boxes], *, overlap_min: float = OVERLAP_MIN
) -> float:
    """Return the F1 over all boxes of all frames."""
    matches = [
        match_boxes(ours, theirs, overlap_min=overlap_min)
        for ours, theirs in zip(found, true, strict=True)
    ]
    right = sum(match.right_count for match in matches)
    total = sum(int(match.is_right.size) + match.true_count for match in matches)
    return 2.0 * right / total if total else 1.0


def mean_average_precision(
    found: Sequence[Boxes],
    true: Sequence[Boxes],
    *,
    classes_count: int,
    overlap_min: float = OVERLAP_MIN,
) -> float:
    """Return the mean over classes of the average precision over frames; see rule 2."""
    matches = [
        match_boxes(ours, theirs, overlap_min=overlap_min)
        for ours, theirs in zip(found, true, strict=True)
    ]
    return mean_precision(matches, found, true, classes_count=classes_count)


def mean_precision(
    matches: Sequence[Matches],
    found: Sequence[Boxes],
    true: Sequence[Boxes],
    *,
    classes_count: int,
) -> float:
    """Return the same of boxes that are matched already: a class never matches another's boxes."""
    is_right = _joined([match.is_right for match in matches], np.bool_)
    scores = _joined([boxes.scores for boxes in found], np.float32)
    classes = _joined([boxes.classes for boxes in found], np.int64)
    true_classes = _joined([boxes.classes for boxes in true], np.int64)
    values = []
    for class_index in range(classes_count):
        true_count = int((true_classes == class_index).sum())
        if true_count:
            chosen = classes == class_index
            values.append(_average_precision(is_right[chosen], scores[chosen], true_count))
    return float(np.mean(values)) if values else 0.0


def roc_area(scores: Floats, is_anomalous: NDArray[np.bool_]) -> float:
    """Return the chance that an anomalous item scores above a normal one; ties count half.

    The Mann-Whitney form of the area under the ROC curve; 0.5 where one kind is missing.
    """
    positive, negative = scores[is_anomalous], scores[~is_anomalous]
    if not positive.size or not negative.size:
        return 0.5
    ordered = np.sort(negative)
    below = np.searchsorted(ordered, positive, side="left")
    up_to = np.searchsorted(ordered, positive, side="right")
    return float(np.mean((below + up_to) / 2.0) / negative.size)


def f1_anomalies(flagged: NDArray[np.bool_], is_anomalous: NDArray[np.bool_]) -> float:
    """Return the F1 of the flags, (n,) each; 1 where nothing is anomalous and nothing flagged."""
    total = int(flagged.sum()) + int(is_anomalous.sum())
    return 2.0 * int((flagged & is_anomalous).sum()) / total if total else 1.0


def _joined(pieces: Sequence[NDArray[Any]], dtype: type[np.generic]) -> NDArray[Any]:
    return np.concatenate([np.zeros(0, dtype), *pieces])


def _average_precision(is_right: NDArray[np.bool_], scores: Floats, true_count: int) -> float:
    order = np.argsort(-scores, kind="stable")
    right = np.cumsum(is_right[order])  # (n,)
    precision = right / np.arange(1, order.size + 1)
    # The best precision at this recall or a higher one, summed over each step of recall.
    best = np.maximum.accumulate(precision[::-1])[::-1] if order.size else precision
    return float(np.sum(best * is_right[order]) / true_count)
