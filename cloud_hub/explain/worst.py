"""Worst: the items a model got most wrong, so that people look at them. Pure numpy.

1. Highest loss first; equal losses in the order of the items.
2. No more than a few of one class, so that one hard class does not hide the others.
"""

import numpy as np
from numpy.typing import NDArray

from cloud_hub.explain.report import WORST_MAX

PER_CLASS_MAX = 8


def worst_items(
    losses: NDArray[np.floating],
    labels: NDArray[np.int64],
    *,
    count_max: int = WORST_MAX,
    per_class_max: int = PER_CLASS_MAX,
) -> NDArray[np.int64]:
    """Return the positions of the worst items, worst first; see the rules above."""
    order = np.argsort(-losses, kind="stable")
    rank = np.zeros(order.size, dtype=np.int64)  # How many worse ones of its class there are
    for label in np.unique(labels):
        of_class = labels[order] == label
        rank[of_class] = np.arange(int(of_class.sum()))
    return order[rank < per_class_max][:count_max]


def surest_right(
    confidences: NDArray[np.floating],
    is_right: NDArray[np.bool_],
    labels: NDArray[np.int64],
    *,
    count_max: int,
) -> NDArray[np.int64]:
    """Return the positions of right items, the surest first, of different classes first."""
    right = np.flatnonzero(is_right)
    best = worst_items(confidences[right], labels[right], count_max=count_max, per_class_max=1)
    return right[best]
