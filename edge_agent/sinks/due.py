"""Which decisions are told: all, none, or those whose conclusion is another one. Pure.

1. What counts as the same conclusion: the same release, the same set of labels (however many of
   each), the same zones occupied. Numbers that drift are no other conclusion.
2. A track that goes over a line is always told, once; a decision that is only held never is, but
   for the one that `repeat_s` asks for.
3. A source of many sensors is many: each has its own last conclusion, of as many as a source may
   have.
"""

from collections import OrderedDict

from edge_agent.decisions.decision import Decision
from shared.pipeline.sinks import Which
from shared.pipeline.sources import SENSORS_MAX
from shared.wire.records import (
    Classified,
    Detected,
    Estimated,
    Outcome,
    Scored,
    Segmented,
    Tracked,
)


class Due:
    """See the rules above. Belongs to one pipeline; not thread-safe."""

    def __init__(self, which: Which, repeat_s: float) -> None:
        """Args: a conclusion that stays is told again after `repeat_s` seconds."""
        self._which, self._repeat_s = which, repeat_s
        self._told: OrderedDict[str, tuple[tuple[object, ...], float]] = OrderedDict()

    def is_due(self, decision: Decision, *, now_s: float) -> bool:
        """Return whether `decision` is told; if so it is taken for told."""
        if self._which is not Which.CHANGES:
            return self._which is Which.ALL
        conclusion = decision.model, decision.version, conclusion_of(decision.outcome)
        told = self._told.get(decision.sensor)
        is_same = told is not None and told[0] == conclusion and now_s - told[1] < self._repeat_s
        if is_same and (decision.is_held or not _crosses(decision.outcome)):
            return False
        self._told[decision.sensor] = conclusion, now_s
        self._told.move_to_end(decision.sensor)
        if len(self._told) > SENSORS_MAX:
            self._told.popitem(last=False)
        return True


def conclusion_of(outcome: Outcome) -> tuple[frozenset[str], frozenset[str]]:
    """Return what counts as the same conclusion: the set of labels, and the zones occupied."""
    occupied: frozenset[str] = frozenset()
    if isinstance(outcome, Tracked):
        occupied = frozenset(zone.zone for zone in outcome.zones if zone.tracks_count)
    return frozenset(labels_of(outcome)), occupied


def labels_of(outcome: Outcome) -> tuple[str, ...]:
    """Return what an outcome counts as: its class, the label of each box, or normal/anomalous."""
    match outcome:
        case Classified(label=label):
            return (label,)
        case Detected(boxes=boxes):
            return tuple(box.label for box in boxes)
        case Scored(is_anomalous=is_anomalous):
            return ("anomalous" if is_anomalous else "normal",)
        case Tracked(tracks=tracks):
            return tuple(track.label for track in tracks)
        case Estimated():
            return ()
        case Segmented(shares=shares):
            return tuple(shares)


def _crosses(outcome: Outcome) -> bool:
    return isinstance(outcome, Tracked) and bool(outcome.crossings)
