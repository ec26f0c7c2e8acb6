"""Curves: what every threshold would give - ROC, precision and recall, thresholds. Pure numpy.

1. A score above a threshold says "positive"; equal scores are never told apart: they are one step.
2. An area or precision of nothing (one kind of item is missing) is None, never 0 or 0.5.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shared.model.metrics import roc_area

Floats = NDArray[np.floating]
Flags = NDArray[np.bool_]
POINTS_MAX = 400  # Of a curve that is drawn


@dataclass(frozen=True, slots=True)
class RocCurve:
    """True against false positives, from "nothing is positive" to "everything is"."""

    false_rates: NDArray[np.float64]  # (points,)
    true_rates: NDArray[np.float64]
    area: float


@dataclass(frozen=True, slots=True)
class PrecisionCurve:
    """Precision against recall, from the highest threshold down."""

    recalls: NDArray[np.float64]  # (points,)
    precisions: NDArray[np.float64]
    thresholds: NDArray[np.float64]
    average: float


@dataclass(frozen=True, slots=True)
class ThresholdRow:
    """What one threshold would give."""

    threshold: float
    false_rate: float  # Of negatives that are called positive
    recall: float
    precision: float


def area_under_roc(scores: Floats, is_positive: Flags) -> float | None:
    """Return the chance that a positive scores above a negative; see rule 2."""
    if not is_positive.any() or is_positive.all():
        return None
    return roc_area(scores, is_positive)


def roc_curve(scores: Floats, is_positive: Flags) -> RocCurve | None:
    """Return the whole curve, one point for each different score; see rule 2."""
    area = area_under_roc(scores, is_positive)
    if area is None:
        return None
    right, said, _ = _steps(scores, is_positive)
    wrong = said - right
    return RocCurve(
        false_rates=np.concatenate([[0.0], wrong / wrong[-1]]),
        true_rates=np.concatenate([[0.0], right / right[-1]]),
        area=area,
    )


def precision_curve(scores: Floats, is_positive: Flags) -> PrecisionCurve | None:
    """Return the whole curve; its average is sum (R_n - R_(n-1)) P_n. See rule 2."""
    if not is_positive.any():
        return None
    right, said, thresholds = _steps(scores, is_positive)
    precisions, recalls = right / said, right / right[-1]
    steps = np.diff(recalls, prepend=0.0)
    average = float(np.sum(steps * precisions))
    return PrecisionCurve(recalls, precisions, thresholds, average)


def average_precision(scores: Floats, is_positive: Flags) -> float | None:
    """Return the average of precision_curve."""
    curve = precision_curve(scores, is_positive)
    return None if curve is None else curve.average


def at_false_rate(scores: Floats, is_positive: Flags, *, false_rate: float) -> ThresholdRow | None:
    """Return the lowest threshold at which no more than this share of negatives is flagged.

    Flagged is what scores above it, as shared/model/spec.py says of a threshold. See rule 2.
    """
    if not is_positive.any() or is_positive.all():
        return None
    negatives = np.sort(scores[~is_positive])
    allowed = int(false_rate * negatives.size + 1e-9)
    threshold = float(negatives[negatives.size - 1 - allowed])
    return row_at(scores, is_positive, threshold=threshold)


def row_at(scores: Floats, is_positive: Flags, *, threshold: float) -> ThresholdRow:
    """Return what this threshold gives; a precision of nothing flagged is 1."""
    flagged = scores > threshold
    right, said = int((flagged & is_positive).sum()), int(flagged.sum())
    positives = int(is_positive.sum())
    return ThresholdRow(
        threshold=threshold,
        false_rate=(said - right) / max(1, is_positive.size - positives),
        recall=right / max(1, positives),
        precision=right / said if said else 1.0,
    )


def thinned(count: int, *, points_max: int = POINTS_MAX) -> NDArray[np.int64]:
    """Return the indices of a curve's points that are drawn: first and last are among them."""
    return np.unique(np.linspace(0, count - 1, min(count, points_max)).round()).astype(np.int64)


def _steps(
    scores: Floats, is_positive: Flags
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return right positives, all said positives and the score of each step, highest first."""
    order = np.argsort(-scores, kind="stable")
    ordered = scores[order].astype(np.float64)
    ends = np.flatnonzero(np.diff(ordered, append=-np.inf) != 0)  # The last of each equal run
    right = np.cumsum(is_positive[order])[ends].astype(np.float64)
    return right, (ends + 1).astype(np.float64), ordered[ends]
