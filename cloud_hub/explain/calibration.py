"""Calibration: whether "90 % sure" is right nine times of ten. Pure numpy.

1. Bins have about equally many items, so that every mean rests on something (equal mass: Nguyen and
   O'Connor 2015); equal confidences are never put into two bins.
2. The expected calibration error is the mean distance of accuracy from confidence, weighted by
   count (Guo et al. 2017).
3. A temperature is fitted on other items than those it is judged by: the validation part's.
"""

import math

import numpy as np
from numpy.typing import NDArray

from cloud_hub.explain.report import CalibrationBin

Floats = NDArray[np.floating]
Indices = NDArray[np.int64]
BINS_MAX = 12
BIN_ITEMS_MIN = 10
TEMPERATURE_MAX = 20.0  # And its inverse: what lies beyond is no calibration
_STEPS = 60
_GOLDEN = (math.sqrt(5.0) - 1.0) / 2.0


def reliability(confidences: Floats, is_right: NDArray[np.bool_]) -> tuple[CalibrationBin, ...]:
    """Return bins by confidence, (n,) each, from unsure to sure; see rule 1."""
    if not confidences.size:
        return ()
    order = np.argsort(confidences, kind="stable")
    ordered = confidences[order].astype(np.float64)
    bins_count = max(1, min(BINS_MAX, ordered.size // BIN_ITEMS_MIN))
    wanted = np.linspace(0, ordered.size, bins_count + 1).round().astype(np.int64)[:-1]
    # A bin begins at the first of its equal confidences: two such bins are one.
    starts = np.unique(np.searchsorted(ordered, ordered[wanted], side="left"))
    ends = np.append(starts[1:], ordered.size)
    right = is_right[order]
    return tuple(
        CalibrationBin(
            low=float(ordered[start]),
            high=float(ordered[end - 1]),
            count=int(end - start),
            confidence=float(ordered[start:end].mean()),
            accuracy=float(right[start:end].mean()),
        )
        for start, end in zip(starts, ends, strict=True)
    )


def calibration_error(bins: tuple[CalibrationBin, ...]) -> float | None:
    """Return the expected calibration error; None where there is no item. See rule 2."""
    count = sum(one.count for one in bins)
    if not count:
        return None
    return sum(one.count * abs(one.confidence - one.accuracy) for one in bins) / count


def fit_temperature(logits: Floats, labels: Indices) -> float | None:
    """Return the temperature that makes the labels likeliest; None where there is no item.

    The loss is convex in 1 / temperature (Guo et al. 2017): a golden section finds its least.

    Args:
        logits: (n, classes), of items the model was not trained on; see rule 3.
        labels: (n,).
    """
    if not labels.size:
        return None
    low, high = 1.0 / TEMPERATURE_MAX, TEMPERATURE_MAX  # Of the inverse temperature
    values = logits.astype(np.float64)
    for _ in range(_STEPS):
        left, right = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
        if _loss(values * left, labels) <= _loss(values * right, labels):
            high = right
        else:
            low = left
    return 2.0 / (low + high)


def _loss(logits: NDArray[np.float64], labels: Indices) -> float:
    highest = logits.max(axis=1, keepdims=True)
    log_sums = np.log(np.exp(logits - highest).sum(axis=1)) + highest[:, 0]
    return float(np.mean(log_sums - logits[np.arange(labels.size), labels]))
