"""QueuedSink: what sinks have in common that tell things in a thread of their own.

1. The pipeline's thread queues and never waits. At most `waiting_max` things wait; past that the
   oldest go, unless the sink looks at `_has_room` before and loses the newest.
2. What is lost is counted, under a lock: both threads lose things. Why stands in `standing` until
   the sink says that it works again, and is logged once until then.
3. `close` lets the thread tell what is left for `close_s_max`; what still waits then is lost.
"""

import logging
import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Sequence
from typing import Generic, TypeVar

from shared.clock import Clock
from shared.worker import Worker

log = logging.getLogger(__name__)

T = TypeVar("T")


class QueuedSink(ABC, Generic[T]):
    """See the rules above. Called by the pipeline's thread; owns one thread."""

    def __init__(self, name: str, *, waiting_max: int, close_s_max: float, clock: Clock) -> None:
        """Start nothing yet. Args: name: of the thread, and in the log."""
        self._name, self._clock = name, clock
        self._waiting_max, self._close_s_max = waiting_max, close_s_max
        self._lock = threading.Lock()  # Of the two below
        self._waiting: deque[T] = deque()
        self._lost_count = 0
        self._standing = ""
        self._came = threading.Event()
        self._worker = Worker(name, self._run, clock=clock)

    @property
    def lost_count(self) -> int:
        """How much that was to be told was lost, since the start."""
        return self._lost_count

    @property
    def standing(self) -> str:
        """Why something was lost last, or nothing is told; empty: it works."""
        return self._standing

    def start(self) -> None:
        """Start the thread; returns at once."""
        self._worker.start()

    def close(self) -> None:
        """Tell what waits, for `close_s_max` at most; the rest is lost."""
        self._worker.request_stop()
        self._came.set()
        if self._worker.is_alive:
            self._worker.stop(seconds_max=self._close_s_max)
        with self._lock:
            self._lost_count += len(self._waiting)
            self._waiting.clear()

    def hand_over(self) -> list[T]:
        """Return what waits, for another to tell; this one is done with it."""
        with self._lock:
            waiting = list(self._waiting)
            self._waiting.clear()
        return waiting

    @abstractmethod
    def _run(self, stop: threading.Event) -> None:
        """Tell what waits until `stop` is set, and then what is left; in the sink's thread."""

    def _has_room(self) -> bool:
        """Whether the next one pushes nothing out; ask before something costly is made."""
        return len(self._waiting) < self._waiting_max

    def _put(self, thing: T) -> None:
        """Queue a thing; see rule 1."""
        with self._lock:
            self._waiting.append(thing)
            if len(self._waiting) > self._waiting_max:
                self._waiting.popleft()
                self._lost_count += 1
        self._came.set()

    def _put_first(self, things: Sequence[T]) -> None:
        """Queue what came before all that waits; see rule 1."""
        with self._lock:
            self._waiting.extendleft(reversed(things))
            while len(self._waiting) > self._waiting_max:
                self._waiting.popleft()
                self._lost_count += 1
        self._came.set()

    def _take(self, seconds: float) -> T | None:
        """Return the oldest and take it out; None if there is none within `seconds`."""
        self._wait(seconds)
        with self._lock:
            return self._waiting.popleft() if self._waiting else None

    def _wait(self, seconds: float) -> None:
        """Wait until something is there, or the sink is being closed."""
        if not self._waiting:
            self._came.wait(seconds)  # Real time: what waits is not on anybody's clock
            self._came.clear()

    def _is_over(self, stop: threading.Event) -> bool:
        """Whether the thread is to end and nothing is left to tell."""
        return stop.is_set() and not self._waiting

    def _lose(self, reason: str) -> None:
        """Count one thing that is lost, and say why."""
        if not self._standing:
            log.warning("sink.lost", extra={"sink": self._name, "detail": reason})
        with self._lock:
            self._lost_count += 1
        self._standing = reason
