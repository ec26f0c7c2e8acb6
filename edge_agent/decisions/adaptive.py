"""AdaptiveThreshold: a threshold on a stream of scores that learns what is usual. Pure.

1. Peaks over threshold, as SPOT does it (Siffer et al., "Anomaly Detection in Streams with Extreme
   Value Theory", KDD 2017): scores above the (1 - tail_share) quantile t of the history form the
   tail; a generalised Pareto distribution is fitted to how far they lie above t, and the threshold
   is where the share of normal scores above falls to `risk`:
   z = t + (scale / shape) ((risk n / peaks) ** -shape - 1); shape 0: t - scale ln(risk n / peaks).
2. The fit is by moments (Hosking and Wallis, 1987): shape = (1 - m^2 / v) / 2,
   scale = m (1 + m^2 / v) / 2, shape kept within -0.5..SHAPE_MAX. No search: it costs microseconds.
3. No look-ahead: a score is judged by the threshold before it; then it is learned from. Of a run
   of scores above the threshold the first ABOVE_LEARNED_MAX are learned as lying on it (learned as
   they are they would hide the next, left out they would let the threshold sink), the rest are
   not; after `learn_scores` of them it is a new normal, and learning starts anew.
4. Until `learn_scores` scores have come nothing is anomalous.
5. Memory is `history_scores` numbers; the fit is made again every history_scores / 50 scores.
"""

import math

import numpy as np
from numpy.typing import NDArray

from shared.pipeline.decisions import AdaptiveThresholdSettings

SHAPE_MAX = 0.5
SHAPE_MIN = -0.5
PEAKS_MIN = 10
ABOVE_LEARNED_MAX = 3
REFITS_PER_HISTORY = 50


class AdaptiveThreshold:
    """Of one sensor; see the rules above. Not thread-safe."""

    def __init__(self, settings: AdaptiveThresholdSettings) -> None:
        """Start without a history."""
        self._settings = settings
        self._history = np.zeros(settings.history_scores)
        self._count = 0  # Of all learned since the start
        self._above_count = 0  # In a row
        self._threshold = math.inf
        self._refit_at = 0

    def judge(self, score: float) -> float:
        """Return the threshold for `score`, infinite while learning; then learn from it."""
        threshold = self._threshold
        if score > threshold:
            self._above_count += 1
            if self._above_count < self._settings.learn_scores:
                if self._above_count <= ABOVE_LEARNED_MAX:
                    self._learn(threshold)
                return threshold
            self._count = self._refit_at = 0
            self._threshold = math.inf
        self._above_count = 0
        self._learn(score)
        return threshold

    def _learn(self, score: float) -> None:
        size = self._history.size
        self._history[self._count % size] = score
        self._count += 1
        if self._count < min(self._settings.learn_scores, size) or self._count < self._refit_at:
            return
        self._refit_at = self._count + max(1, size // REFITS_PER_HISTORY)
        history = self._history[: min(self._count, size)]
        self._threshold = tail_threshold(
            history, risk=self._settings.risk, tail_share=self._settings.tail_share
        )


def tail_threshold(scores: NDArray[np.float64], *, risk: float, tail_share: float) -> float:
    """Return above which a share of `risk` of scores like these is expected; rules 1 and 2."""
    start = float(np.quantile(scores, 1.0 - tail_share))
    beyond = scores[scores > start] - start
    if beyond.size < PEAKS_MIN:
        # Too few to fit: an exponential tail as wide as the scores' own spread.
        return start + float(scores.std()) * math.log(max(tail_share / risk, math.e))
    mean, variance = float(beyond.mean()), float(beyond.var())
    ratio = mean * mean / variance if variance > 0 else 1.0
    shape = min(SHAPE_MAX, max(SHAPE_MIN, 0.5 * (1.0 - ratio)))
    scale = mean * (1.0 - shape)
    rarity = risk * scores.size / beyond.size
    if rarity >= 1.0:
        return start
    if abs(shape) < 1e-6:
        return start - scale * math.log(rarity)
    return float(start + scale / shape * (rarity**-shape - 1.0))
