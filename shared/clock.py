"""Time as an argument: rules get `now`, shells get a Clock, tests get a clock they turn by hand."""

import threading
import time
from typing import Protocol


class Clock(Protocol):
    """Where time comes from. Second implementation: tests/support/manual_clock.py."""

    def now_s(self) -> float:
        """Return wall-clock time, seconds since 1970 UTC. May jump."""
        ...

    def monotonic_s(self) -> float:
        """Return seconds since some fixed instant. Never goes back."""
        ...

    def wait(self, event: threading.Event, seconds: float) -> bool:
        """Wait until `event` is set, at most `seconds`; return whether it is set."""
        ...


class SystemClock:
    """The machine's own clock."""

    def now_s(self) -> float:
        """Return wall-clock time, seconds since 1970 UTC."""
        return time.time()

    def monotonic_s(self) -> float:
        """Return seconds since some fixed instant."""
        return time.monotonic()

    def wait(self, event: threading.Event, seconds: float) -> bool:
        """Wait until `event` is set, at most `seconds`; return whether it is set."""
        return event.wait(seconds)


def now_ms(clock: Clock) -> int:
    """Return `clock`'s wall time in whole milliseconds since 1970 UTC: the unit on the wire."""
    return int(clock.now_s() * 1000)
