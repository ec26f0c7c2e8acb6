"""Scores of items in 0..1 where an answer is no class: numbers and masks. Pure numpy.

1. Numbers (regression, forecast): 1 - the mean over an item's values of |value - true| in usual
   spans, at most 1. The usual span of a value lies between the 5th and the 95th percentile of what
   is true of it in held-out items: it knows no model, so new and old are measured by the same.
   Where it is 0, the largest size of the true value counts, or 1.
2. Masks: the mean over the classes that are on a picture, in truth or as told, of intersection over
   union, over the pixels that somebody labelled. A mask of another size is compared at that of the
   truth, each pixel with the nearest.
3. Two forms agree on numbers where an item's values lie within VALUE_NEAR usual spans of the first
   form's on average; of masks every pixel counts.
"""

import numpy as np
from numpy.typing import NDArray

from shared.errors import RefusedError

LOW_PERCENT, HIGH_PERCENT = 5.0, 95.0
VALUE_NEAR = 0.05  # Usual spans; an item this close is counted as right
IOU_RIGHT = 0.5  # A picture is counted as right from here on
NOT_LABELLED = 255

Floats = NDArray[np.float64]
Masks = NDArray[np.uint8]


def usual_spans(true: Floats) -> Floats:
    """Return the scale of each value, (k,), of what is true of items, (n, k); rule 1."""
    low, high = np.percentile(true, [LOW_PERCENT, HIGH_PERCENT], axis=0)
    spans, largest = high - low, np.abs(true).max(axis=0)
    sizes = np.where(largest > 0.0, largest, 1.0)
    return np.asarray(np.where(spans > 0.0, spans, sizes), np.float64)


def value_scores(values: Floats, true: Floats, spans: Floats) -> Floats:
    """Return the score of each item, (n,); rule 1.

    Raises RefusedError `evaluation.values` where the model gives another number of values.
    """
    if values.shape != true.shape:
        raise RefusedError(
            "evaluation.values",
            f"The model gives {values.shape[1]} values of an item; in the set {true.shape[1]} are "
            "true of each.",
            remedy="Add a set whose `labels` have as many values as the model gives.",
        )
    errors = np.minimum(np.abs(values - true) / spans, 1.0)
    return np.asarray(1.0 - errors.mean(axis=1), np.float64)


def mask_score(mask: Masks, true: Masks) -> float:
    """Return the mean IoU of one picture, (h, w) each of any size; rule 2."""
    is_labelled = true != NOT_LABELLED
    told, wanted = resized(mask, true.shape)[is_labelled], true[is_labelled]
    table = np.zeros((NOT_LABELLED, NOT_LABELLED), np.int64)
    pairs, counts = np.unique(wanted.astype(np.int64) * NOT_LABELLED + told, return_counts=True)
    table.reshape(-1)[pairs] = counts
    both = np.diag(table)
    union = table.sum(axis=0) + table.sum(axis=1) - both
    occurs = union > 0
    return float((both[occurs] / union[occurs]).mean()) if occurs.any() else 1.0


def resized(mask: Masks, shape: tuple[int, ...]) -> Masks:
    """Return a mask at another size, each pixel the nearest."""
    if mask.shape == shape:
        return mask
    rows, columns = (
        ((np.arange(wanted) + 0.5) * have / wanted).astype(np.int64)
        for wanted, have in zip(shape, mask.shape, strict=True)
    )
    return np.asarray(mask[rows[:, None], columns[None]], np.uint8)


def values_alike(values: Floats, first: Floats) -> int:
    """Return on how many items two forms agree; rule 3."""
    if not first.size or values.shape != first.shape:
        return 0
    scores = value_scores(values, first, usual_spans(first))
    return int((scores >= 1.0 - VALUE_NEAR).sum())
