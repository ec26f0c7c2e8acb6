"""A named thread that is restarted when it dies, and says so.

This is the only file that may catch `Exception`: a bug in one part must be seen, counted and
survived by the others. What must not live here: what any part does.
"""

import logging
import threading
from collections.abc import Callable

from shared.backoff import Backoff
from shared.clock import Clock, SystemClock
from shared.errors import UnavailableError

log = logging.getLogger(__name__)

RESTART_S_MIN = 0.5
RESTART_S_MAX = 30.0
HEALTHY_S = 60.0  # A run this long that then fails starts again with the shortest delay.


class Worker:
    """Runs `run(stop)` in a thread until `stop` is set; restarts it with backoff if it raises."""

    def __init__(
        self, name: str, run: Callable[[threading.Event], None], *, clock: Clock | None = None
    ) -> None:
        """Args: `run` serves until the event it is given is set, then returns."""
        self.name = name
        self.crashes_count = 0
        self.fatal: UnavailableError | None = None  # Set when the process should stop.
        self._run = run
        self._clock = clock or SystemClock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._serve, name=name, daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def request_stop(self) -> None:
        """Ask the thread to end; returns at once."""
        self._stop.set()

    def stop(self, *, seconds_max: float = 10.0) -> bool:
        """Ask the thread to end and wait for it; return whether it ended in time."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(seconds_max)
        return not self._thread.is_alive()

    @property
    def is_alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    def _serve(self) -> None:
        backoff = Backoff(delay_s_min=RESTART_S_MIN, delay_s_max=RESTART_S_MAX)
        while not self._stop.is_set():
            started_s = self._clock.monotonic_s()
            try:
                self._run(self._stop)
                return
            except UnavailableError as error:
                log.error("worker.unavailable", extra={"worker": self.name, "code": error.code})
                self.fatal = error
                return
            except Exception:
                self.crashes_count += 1
                log.exception("worker.crashed", extra={"worker": self.name})
            if self._clock.monotonic_s() - started_s > HEALTHY_S:
                backoff.reset()
            self._clock.wait(self._stop, backoff.next_delay_s())
