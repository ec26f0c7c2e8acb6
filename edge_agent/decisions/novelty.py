"""Novelty: how unlike its own past the newest number of a stream is. Pure, no look-ahead.

1. Four views of the stream, each against its own last `history` values: the value, the mean of the
   last SMOOTH_LONG, the mean of the last SMOOTH_SHORT absolute changes, and how far the last
   stretch is from its nearest neighbours in the past (neighbours.py).
   distance = |view - mean| / standard deviation, of the neighbours only what is above the mean;
   score = sum of WEIGHTS x log(1 + distance).
2. A run of unusual numbers is one event: for `rest` numbers after one above `threshold` has been
   told, those above it are told as 0. Scores up to the threshold are told as they are.
3. Until LEARN_MIN numbers have come (for the neighbours: until they have LEARN_MIN distances) a
   view counts nothing. The weights are the same for every stream.
4. Memory is 4 x `history` + 3 x `lags` numbers a stream. The sums are made anew every `history`
   numbers, so that rounding does not pile up.
"""

from collections import deque

import numpy as np
from numpy.typing import NDArray

from edge_agent.decisions.neighbours import SHAPE, Neighbours
from shared.pipeline.decisions import NoveltySettings

SMOOTH_LONG = 20
SMOOTH_SHORT = 10
LEARN_MIN = 20
NEIGHBOURS_LEARN_MIN = 2 * SHAPE + LEARN_MIN
DISTANCE_MAX = 100.0
WEIGHTS = np.array([1.0, 1.0, 1.0, 3.0])
NEIGHBOURS = 3  # Place of the view

Floats = NDArray[np.float64]


class Novelty:
    """Of one stream; see the rules above. Not thread-safe."""

    def __init__(self, settings: NoveltySettings) -> None:
        """Start without a past."""
        self._settings = settings
        self._past = np.zeros((settings.history, WEIGHTS.size))
        self._sums = np.zeros((2, WEIGHTS.size))  # Of the views, and of their squares
        self._count = 0
        self._first = self._last = 0.0
        self._largest = 0.0
        self._values: deque[float] = deque(maxlen=SMOOTH_LONG)
        self._changes: deque[float] = deque(maxlen=SMOOTH_SHORT)
        self._neighbours = Neighbours(settings.lags)
        self._rests_until = 0

    def score(self, value: float) -> float:
        """Return how new `value` is, 0 for as usual; then learn it."""
        views = self._views(value)
        unusual = self._unusual(views)
        self._learn(views)
        return self._told(unusual)

    def _views(self, value: float) -> Floats:
        if self._count == 0:
            self._first = self._last = value
        change, self._last = value - self._last, value
        centred = value - self._first  # Squares of large numbers would round away what differs
        self._values.append(centred)
        self._changes.append(abs(change))
        self._largest = max(self._largest, abs(value))
        return np.array(
            [
                centred,
                sum(self._values) / len(self._values),
                sum(self._changes) / len(self._changes),
                self._neighbours.distance(centred),
            ]
        )

    def _unusual(self, views: Floats) -> float:
        if self._count < LEARN_MIN:
            return 0.0
        mean, square = self._sums / min(self._count, self._settings.history)
        spread = np.sqrt(np.maximum(square - mean * mean, 0.0))
        distance = (views - mean) / np.maximum(spread, 1e-9 + 1e-6 * self._largest)
        if distance[NEIGHBOURS] < 0.0 or self._count < NEIGHBOURS_LEARN_MIN:
            distance[NEIGHBOURS] = 0.0
        return float(WEIGHTS @ np.log1p(np.minimum(np.abs(distance), DISTANCE_MAX)))

    def _learn(self, views: Floats) -> None:
        history = self._settings.history
        at = self._count % history
        gone = self._past[at].copy()
        self._past[at] = views
        self._count += 1
        if self._count % history == 0:
            self._sums = np.stack([self._past.sum(axis=0), (self._past**2).sum(axis=0)])
        else:
            self._sums += np.stack([views - gone, views**2 - gone**2])

    def _told(self, unusual: float) -> float:
        if unusual <= self._settings.threshold:
            return unusual
        if self._count <= self._rests_until:
            return 0.0
        self._rests_until = self._count + self._settings.rest
        return unusual
