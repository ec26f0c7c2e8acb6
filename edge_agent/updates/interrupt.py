"""EitherEvent: one event that is set when any of two is."""

import threading
import time

SLICE_S = 0.1


class EitherEvent(threading.Event):
    """Set when itself or `other` is set. Clearing it clears only itself."""

    def __init__(self, other: threading.Event) -> None:
        """Args: the event that counts as well, such as a thread's stop."""
        super().__init__()
        self._other = other

    def is_set(self) -> bool:
        """Return whether either is set."""
        return super().is_set() or self._other.is_set()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until either is set, at most `timeout` seconds; return whether one is."""
        deadline_s = None if timeout is None else time.monotonic() + timeout
        while not self.is_set():
            left_s = SLICE_S if deadline_s is None else deadline_s - time.monotonic()
            if left_s <= 0:
                break
            super().wait(min(left_s, SLICE_S))
        return self.is_set()
