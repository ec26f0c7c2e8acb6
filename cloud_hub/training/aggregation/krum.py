"""Krum: which updates lie nearest to their neighbours (Blanchard et al. 2017). Pure.

1. Squared distances come of one Gram product, summed over blocks of columns in float64:
   |x - y|^2 = x.x + y.y - 2 x.y. In float32 the honest ones, near to each other and far from
   zero, would drown in rounding.
2. An update's score is the sum over its n - f - 2 nearest others; the lowest are chosen. Flower's
   MultiKrum takes itself to be the nearest of all, which rounding or a copy of it can belie; here
   it is left out by name. Ties go to who came first.
3. The mean of the chosen is weighted as Flower's is, by checked weights (checks.py, shares.py);
   Bulyan's second part counts all alike.
"""

import numpy as np
from numpy.typing import NDArray

from cloud_hub.training.aggregation.robust import Block
from cloud_hub.training.order import BulyanStrategy, KrumStrategy, MultiKrumStrategy

Gram = NDArray[np.float64]  # (n, n)


def add_gram(gram: Gram, block: Block) -> None:
    """Add the products of a block's rows (n, b), in place."""
    wide = block.astype(np.float64)
    gram += wide @ wide.T


def distances(gram: Gram) -> NDArray[np.float64]:
    """Return squared distances (n, n), infinite from each to itself."""
    squares = gram.diagonal()
    apart = np.maximum(squares[:, None] + squares[None, :] - 2.0 * gram, 0.0)
    np.fill_diagonal(apart, np.inf)
    return apart


def chosen(gram: Gram, strategy: KrumStrategy) -> list[int]:
    """Return which rows a strategy takes, in order of arrival."""
    n = gram.shape[0]
    nearest = max(1, min(n - 1, n - strategy.malicious_count - 2))
    scores = np.sort(distances(gram), axis=1)[:, :nearest].sum(axis=1)  # (n,)
    best = np.argsort(scores, kind="stable")[: _chosen_count(strategy, n)]
    return sorted(best.tolist())


def bulyan_nearest_count(strategy: BulyanStrategy, n: int) -> int:
    """Return how many numbers of those chosen out of n are averaged."""
    return n - 4 * strategy.malicious_count


def _chosen_count(strategy: KrumStrategy, n: int) -> int:
    match strategy:
        case BulyanStrategy(malicious_count=malicious):
            return n - 2 * malicious
        case MultiKrumStrategy(malicious_count=malicious, selected_count=selected):
            return min(selected, n) or n - malicious
        case _:
            return 1
