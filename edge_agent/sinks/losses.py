"""Losses: what the sinks of one pipeline lost since it started, by sink.

1. Settings that change close the sinks and open others: what the old ones lost still counts, with
   what they lose while they are closed.
2. A sink's name is its kind; the second of a kind is "webhook 2".
"""

import threading
from collections import Counter

from edge_agent.sinks.opening import SinkSet


class Losses:
    """See the rules above. Thread-safe."""

    def __init__(self) -> None:
        """Nothing is lost yet."""
        self._lock = threading.Lock()
        self._sets: list[SinkSet] = []  # Open, or being closed
        self._past: Counter[str] = Counter()

    def follow(self, sinks: SinkSet) -> None:
        """Count what these lose."""
        with self._lock:
            self._sets.append(sinks)

    def settle(self, sinks: SinkSet) -> None:
        """Keep what these lost, which are closed, and let go of them."""
        with self._lock:
            self._sets.remove(sinks)
            self._past.update(_lost_by(sinks))

    def by_sink(self) -> dict[str, int]:
        """Return how much each lost that lost anything."""
        with self._lock:
            total = Counter(self._past)
            for sinks in self._sets:
                total.update(_lost_by(sinks))
        return {name: count for name, count in sorted(total.items()) if count}

    @property
    def count(self) -> int:
        """Return how much all of them lost."""
        return sum(self.by_sink().values())


def _lost_by(sinks: SinkSet) -> dict[str, int]:
    """Return how much each of a set lost, by its name."""
    lost: dict[str, int] = {}
    seen: Counter[str] = Counter()
    for one in sinks.standings():
        seen[one.kind] += 1
        lost[f"{one.kind} {seen[one.kind]}" if seen[one.kind] > 1 else one.kind] = one.lost_count
    return lost
