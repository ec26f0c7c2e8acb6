"""Anomaly: a score against a threshold.

Confidence is how far the score lies from the threshold, as a share of the threshold, at most 1: a
score on the threshold has 0, a score of nothing or of twice the threshold has 1. With a threshold
of 0 the distance itself counts.
"""

from shared.wire.records import Scored


def judge_score(score: float, threshold: float) -> Scored:
    """Return whether an item is anomalous: its score is above the threshold."""
    return Scored(score=score, threshold=threshold, is_anomalous=score > threshold)


def confidence_of(scored: Scored) -> float:
    """Return how sure the device is; see above."""
    distance = abs(scored.score - scored.threshold)
    scale = abs(scored.threshold) or 1.0
    return min(1.0, distance / scale)
