"""InferenceSlots: how many items are decided at the same time, over all pipelines. Fair.

1. As many as the processor has cores: one model run takes one core, more at a time only make each
   of them slower.
2. Who asks first gets the next slot that is free; whoever comes later cannot overtake. A pipeline
   asks for one slot at a time, so a busy one waits behind every other that has an item.
3. A slot that is given back goes straight to who waits longest: nobody else sees it free.

What must not live here: what is done with a slot.
"""

import os
import threading
from collections import deque

STOP_CHECK_S = 0.2  # How long a wait lasts at most before it looks whether to stop


def cores_count() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0))


class InferenceSlots:
    """See the rules above. Thread-safe."""

    def __init__(self, count: int) -> None:
        """Args: count: 0 for as many as there are cores."""
        self.count = count or cores_count()
        self._free_count = self.count
        self._waiting: deque[threading.Lock] = deque()  # One a waiter, held until it has a slot
        self._lock = threading.Lock()

    @property
    def waiting_count(self) -> int:
        """Return how many wait for a slot now."""
        return len(self._waiting)

    def acquire(self, stop: threading.Event) -> bool:
        """Wait for a slot and take it; return False, without one, once `stop` is set."""
        with self._lock:
            if self._free_count:
                self._free_count -= 1
                return True
            turn = threading.Lock()
            turn.acquire()
            self._waiting.append(turn)
        while not turn.acquire(timeout=STOP_CHECK_S):
            if stop.is_set():
                return self._leave(turn)
        return True

    def release(self) -> None:
        """Give a slot back."""
        with self._lock:
            if self._waiting:
                self._waiting.popleft().release()
                return
            assert self._free_count < self.count, "a slot was given back twice"
            self._free_count += 1

    def _leave(self, turn: threading.Lock) -> bool:
        """Wait no longer; return whether the turn came all the same, in this very moment."""
        with self._lock:
            if turn in self._waiting:
                self._waiting.remove(turn)
                return False
            return True
