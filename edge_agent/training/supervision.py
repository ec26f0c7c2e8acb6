"""Supervision: when the learning process may start, and when it counts as lost. Pure.

1. However it ended, with 0 too, it is started again after a delay that doubles with each end; a
   run that the hub answered and that lasted HEALTHY_S starts again at the shortest.
2. A process that lives but that the hub has not answered for NODE_SILENT_S is lost: it is ended and
   started anew. Each time in vain the patience doubles, to NODE_SILENT_S_MAX: where the hub itself
   is away, starting anew does not bring it back and costs the device its work.
3. Time is monotonic: `answered_ms` is the process's own wall clock, which may jump, so that only
   its changes count.
"""

from shared.backoff import Backoff

RESTART_S_MIN = 1.0
RESTART_S_MAX = 300.0
HEALTHY_S = 60.0
NODE_SILENT_S = 180.0  # Twice the longest loss of a network that a Round should survive
NODE_SILENT_S_MAX = 1800.0
READY_S = 30.0  # Since the hub's last answer, for READY


class Supervision:
    """See the rules above. Not shared between threads."""

    def __init__(self, *, seed: int | None = None) -> None:
        """Begin with a process that never ran."""
        self.restarts_count = 0
        self._backoff = Backoff(delay_s_min=RESTART_S_MIN, delay_s_max=RESTART_S_MAX, seed=seed)
        self._start_s = 0.0  # Not before
        self._started_s = 0.0
        self._answered_ms = 0
        self._answered_s: float | None = None  # Of this run
        self._patience_s = NODE_SILENT_S

    def may_start(self, now_s: float) -> bool:
        """Return whether the delay is over."""
        return now_s >= self._start_s

    def started(self, now_s: float) -> None:
        """Take notice of a start."""
        self._started_s = now_s
        self._answered_ms, self._answered_s = 0, None

    def answered(self, answered_ms: int, now_s: float) -> None:
        """Take notice of when the process says that the hub last answered; 0: never."""
        if answered_ms and answered_ms != self._answered_ms:
            self._answered_ms, self._answered_s = answered_ms, now_s
            self._patience_s = NODE_SILENT_S

    def failed(self, now_s: float) -> None:
        """Take notice that it ended, or could not start; nobody asked it to."""
        self.restarts_count += 1
        if self._answered_s is not None and now_s - self._started_s >= HEALTHY_S:
            self._backoff.reset()
        self._start_s = now_s + self._backoff.next_delay_s()

    def lost(self, now_s: float) -> None:
        """Take notice that it was ended for its silence."""
        self._patience_s = min(2 * self._patience_s, NODE_SILENT_S_MAX)
        self.failed(now_s)

    def is_silent(self, now_s: float) -> bool:
        """Return whether a process that runs counts as lost."""
        heard_s = self._started_s if self._answered_s is None else self._answered_s
        return now_s - heard_s >= self._patience_s

    def is_ready(self, now_s: float) -> bool:
        """Return whether the hub answered this run lately."""
        return self._answered_s is not None and now_s - self._answered_s < READY_S
