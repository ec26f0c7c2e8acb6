"""Pacer: gives the items of a recording at the pace at which the world would.

1. The first item is due at once, each next one a pause after the one before was due: a late item
   does not delay all later ones.
2. Who is later than LATE_PAUSES_MAX pauses is not chased: the schedule starts again from now, so
   that a long wait (no model yet) is not followed by a burst.
"""

import threading

from shared.clock import Clock

LATE_PAUSES_MAX = 2.0


class Pacer:
    """See the rules above. Not shared between threads."""

    def __init__(self, clock: Clock) -> None:
        """Start with nothing due yet."""
        self._clock = clock
        self._due_s: float | None = None

    def wait(self, pause_s: float, stop: threading.Event) -> bool:
        """Wait until the next item, `pause_s` after the last, is due; False if `stop` was set."""
        now_s = self._clock.monotonic_s()
        due_s = now_s if self._due_s is None else self._due_s + pause_s
        if now_s - due_s > LATE_PAUSES_MAX * pause_s:
            due_s = now_s
        self._due_s = due_s
        if due_s > now_s:
            self._clock.wait(stop, due_s - now_s)
        return not stop.is_set()
