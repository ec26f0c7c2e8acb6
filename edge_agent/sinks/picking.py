"""Which decisions are worth a picture: by their labels, and how sure they are. Pure.

1. What was seen: every class, box or track of the settings' labels (none named: any) that is at
   least as sure as `confidence_min`; a class that takes up that share of the frame; an anomaly.
2. What is only held (nothing moved) is no news.
"""

from collections.abc import Iterator, Sequence

from edge_agent.decisions.decision import Decision
from shared.wire.records import (
    Classified,
    Detected,
    Estimated,
    Outcome,
    Scored,
    Segmented,
    Tracked,
)

ANOMALOUS = "anomalous"


def seen_labels(
    decision: Decision, labels: Sequence[str], *, confidence_min: float
) -> tuple[str, ...]:
    """Return the labels worth a picture, each once, the surest first; empty: it is not worth one.

    Args: `labels` are those that are wanted; none: all.
    """
    if decision.is_held:
        return ()
    found: dict[str, float] = {}
    for label, confidence in _sightings(decision.outcome, decision.confidence):
        if confidence >= confidence_min and (not labels or label in labels):
            found[label] = max(confidence, found.get(label, 0.0))
    return tuple(sorted(found, key=lambda label: (-found[label], label)))


def _sightings(outcome: Outcome, confidence: float) -> Iterator[tuple[str, float]]:
    """Yield what there is in an outcome, and how sure that is."""
    match outcome:
        case Classified(label=label, confidence=sure):
            yield label, sure
        case Detected(boxes=boxes):
            yield from ((box.label, box.confidence) for box in boxes)
        case Tracked(tracks=tracks):
            yield from ((track.label, track.confidence) for track in tracks)
        case Segmented(shares=shares):
            yield from shares.items()
        case Scored(is_anomalous=is_anomalous):
            if is_anomalous:
                yield ANOMALOUS, 1.0
        case Estimated():
            yield "value", confidence
