"""RunWatch: whether a worker's run has computed for so long that it will not end. Pure.

1. By processor time of the thread that runs it, not by the clock: where the machine is busy, or was
   asleep, a run takes long and computes little.
2. The limit is CPU_FACTOR times what the first run computed, for as many rows as runs had at most;
   CPU_S_MIN at least. A model that computes for ever is found within a second so, one that is slow
   is let be; `run_s_max` (process_watch.py) holds for all.
3. A run is known by its lane and its turn. It counts from the first look that sees it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

CPU_S_MIN = 0.4
CPU_FACTOR = 20.0


@dataclass(frozen=True, slots=True)
class LaneLook:
    """One lane, now."""

    turn: int  # Rises when a run ends
    is_busy: bool
    cpu_s: float | None  # That its thread has computed; None: nobody knows


class RunWatch:
    """See the rules above. For one worker."""

    def __init__(self, first_cpu_s: float) -> None:
        """Args: what the first run computed, for one row."""
        self._first_cpu_s = first_cpu_s
        self._seen: dict[int, tuple[int, float]] = {}  # By lane: its turn, and cpu_s then

    def look(self, lanes: Sequence[LaneLook], *, rows_max: int) -> float | None:
        """Return how long a run has computed that is past the limit; None: there is none.

        Args: rows_max: the most that a run had.
        """
        limit_s = max(CPU_S_MIN, CPU_FACTOR * self._first_cpu_s * rows_max)
        for number, lane in enumerate(lanes):
            if not lane.is_busy or lane.cpu_s is None:
                self._seen.pop(number, None)
                continue
            turn, since_s = self._seen.get(number, (-1, 0.0))
            if turn != lane.turn:
                self._seen[number] = (lane.turn, lane.cpu_s)
            elif lane.cpu_s - since_s > limit_s:
                return lane.cpu_s - since_s
        return None
