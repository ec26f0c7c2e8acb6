"""Neighbours: how far the newest stretch of a stream is from the nearest of its past. Pure.

1. A stretch is the last SHAPE numbers. It is compared with each that ended SHAPE to `lags` numbers
   ago, so that none overlaps it; told is the root of the mean of the NEAREST_COUNT smallest
   squared distances: distance to near neighbours in a lag embedding, as in KNN-CAD (Burnaev and
   Ishimtsev, "Conformalized density- and distance-based anomaly detection in time-series data",
   arXiv:1608.04585).
2. Squared distances are kept by lag and moved on: the newest pair comes in, the one SHAPE before
   goes out. They are made anew every REMAKE_EACH numbers, so that rounding does not pile up.
3. Memory is 3 x `lags` numbers; a number costs a few passes over `lags` and one selection.
"""

import math

import numpy as np
from numpy.typing import NDArray

SHAPE = 32
NEAREST_COUNT = 5
REMAKE_EACH = 256

Floats = NDArray[np.float64]


class Neighbours:
    """Of one stream; see the rules above. Not thread-safe."""

    def __init__(self, lags: int) -> None:
        """Start without a past; `lags` is at least SHAPE."""
        self._lags = lags
        self._kept = lags + SHAPE
        self._values = np.zeros(2 * self._kept)
        self._end = self._kept  # Zeros before the start stand for numbers that never came
        self._squares = np.zeros(lags - SHAPE + 1)  # The longest lag first
        self._count = 0

    def distance(self, value: float) -> float:
        """Return how far the stretch that ends with `value` is; 0 while there is no other."""
        self._append(value)
        if self._count % REMAKE_EACH == 0:
            self._squares = np.sum([self._pairs(back) for back in range(SHAPE)], axis=0)
        else:
            self._squares += self._pairs(0)
            self._squares -= self._pairs(SHAPE)
        whole_count = min(self._squares.size, self._count - 2 * SHAPE + 1)
        if whole_count < 1:
            return 0.0
        squares = self._squares[-whole_count:]
        if whole_count > NEAREST_COUNT:
            squares = np.partition(squares, NEAREST_COUNT - 1)[:NEAREST_COUNT]
        return math.sqrt(max(0.0, float(squares.mean())))

    def _append(self, value: float) -> None:
        if self._end == self._values.size:
            self._values[: self._kept] = self._values[-self._kept :]
            self._end = self._kept
        self._values[self._end] = value
        self._end += 1
        self._count += 1

    def _pairs(self, back: int) -> Floats:
        """Return the squared difference of the number `back` ago to that each lag before it."""
        at = self._end - 1 - back
        difference: Floats = self._values[at - self._lags : at - SHAPE + 1] - self._values[at]
        return difference * difference
