"""assign: which of n things goes to which of m, so that the sum of gains is greatest. Pure.

1. Exact: the Hungarian method by shortest augmenting paths (Jonker and Volgenant, 1987).
2. A pair without a gain is never made. Every thing may stay alone at a gain of 0.
3. Pairs that nobody else competes for are made first; they cannot change what is best for the
   rest, and are nearly all of them where boxes do not overlap.
"""

import numpy as np
from numpy.typing import NDArray


def assign(gains: NDArray[np.float64]) -> list[tuple[int, int]]:
    """Return (row, column) pairs; `gains` is (n, m), at most 0 where a pair must not be made."""
    possible = gains > 0.0
    alone = possible & (possible.sum(axis=1) == 1)[:, None] & (possible.sum(axis=0) == 1)[None]
    pairs = [(int(row), int(column)) for row, column in np.argwhere(alone)]
    possible[alone] = False
    rows, columns = np.flatnonzero(possible.any(axis=1)), np.flatnonzero(possible.any(axis=0))
    if rows.size:
        chosen = _hungarian(np.where(possible, gains, 0.0)[np.ix_(rows, columns)])
        pairs += [(int(rows[row]), int(columns[column])) for row, column in chosen]
    return sorted(pairs)


def _hungarian(gains: NDArray[np.float64]) -> list[tuple[int, int]]:
    """Return the best pairs of (n, m) gains, all of them at least 0."""
    n, m = gains.shape
    # A column of its own for each row, at gain 0: staying alone.
    cost = np.zeros((n, m + n))
    cost[:, :m] = -gains
    row_price, column_price = np.zeros(n), np.zeros(m + n)
    row_of = np.full(m + n, -1)
    for start in range(n):
        _augment(start, cost, row_price, column_price, row_of)
    return [
        (int(row), column)
        for column, row in enumerate(row_of[:m].tolist())
        if row >= 0 and gains[row, column] > 0.0
    ]


def _augment(
    start: int,
    cost: NDArray[np.float64],
    row_price: NDArray[np.float64],
    column_price: NDArray[np.float64],
    row_of: NDArray[np.int64],
) -> None:
    """Give row `start` a column, moving others along the cheapest path (Dijkstra on prices)."""
    columns = cost.shape[1]
    distance = np.full(columns, np.inf)
    came_from = np.full(columns, -1)
    is_open = np.ones(columns, dtype=bool)
    row, reached, visited = start, 0.0, []
    while True:
        through = reached + cost[row] - row_price[row] - column_price
        is_nearer = is_open & (through < distance)
        distance[is_nearer] = through[is_nearer]
        came_from[is_nearer] = row
        column = int(np.where(is_open, distance, np.inf).argmin())
        reached = float(distance[column])
        is_open[column] = False
        if row_of[column] < 0:
            break
        visited.append(column)
        row = int(row_of[column])
    row_price[start] += reached
    for passed in visited:
        row_price[row_of[passed]] += reached - distance[passed]
        column_price[passed] -= reached - distance[passed]
    _flip(start, column, came_from, row_of)


def _flip(start: int, column: int, came_from: NDArray[np.int64], row_of: NDArray[np.int64]) -> None:
    """Give each row on the path to `column` the column through which it was left."""
    while True:
        row = int(came_from[column])
        before = int(np.flatnonzero(row_of == row)[0]) if row != start else -1
        row_of[column] = row
        if row == start:
            return
        column = before
