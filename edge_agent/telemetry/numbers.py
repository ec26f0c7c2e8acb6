"""Numbers: what pipelines have done and how fast, for people and for Prometheus.

1. Counts are since the pipeline started; stages are of its last items (inference/stage_times.py).
2. The rate is over the last RATE_S at most, from counts looked at by `tick`.

What must not live here: the hub's windows (window.py), how numbers are shown.
"""

import threading
from collections import deque

import msgspec

from edge_agent.decisions.decision import Decision, ItemResult
from shared.wire.records import HostRecord, StageTimes

RATE_S = 10.0
TICKS_MAX = 64


class PipelineNumbers(msgspec.Struct, frozen=True, kw_only=True):
    """One pipeline, now."""

    pipeline: str
    model: str
    version: int  # 0: nothing serves yet
    precision: str
    state: str
    detail: str
    items_in: int
    items_gated: int  # Nothing moved: the model was not asked
    items_dropped: int  # A newer one came first
    items_decided: int
    items_failed: int
    items_per_s: float  # Decided
    stages: dict[str, StageTimes]
    sinks_lost: int  # What sinks could not tell
    lost_by_sink: dict[str, int] = {}  # Those that lost anything: "webhook", "webhook 2"
    sinks: tuple[str, ...] = ()  # Why one cannot do its work just now


class Decided:
    """Counts what a pipeline decides. A Sink; `tick` and the numbers by any thread."""

    def __init__(self) -> None:
        """Start with nothing."""
        self.decided_count = 0
        self.failed_count = 0
        self._ticks: deque[tuple[float, int]] = deque(maxlen=TICKS_MAX)
        self._lock = threading.Lock()

    def __call__(self, result: ItemResult) -> None:
        """Count one result."""
        if isinstance(result, Decision):
            self.decided_count += 1
        else:
            self.failed_count += 1

    def tick(self, now_s: float) -> None:
        """Note how far it is; see rule 2."""
        with self._lock:
            self._ticks.append((now_s, self.decided_count))
            while now_s - self._ticks[0][0] > RATE_S:
                self._ticks.popleft()

    def per_s(self) -> float:
        """Return how many items were decided a second, lately."""
        with self._lock:
            if len(self._ticks) < 2:
                return 0.0
            (from_s, before), (to_s, now) = self._ticks[0], self._ticks[-1]
        return (now - before) / (to_s - from_s) if to_s > from_s else 0.0


class WorkerNumbers(msgspec.Struct, frozen=True, kw_only=True):
    """One process that runs a model."""

    model: str
    version: int
    pid: int | None  # None while it is being started again
    restarts_count: int
    last_cause: str  # Of the last restart; empty before
    rss_bytes: int
    cpu_share: float = 0.0  # Of one core, since the last reading


class AgentNumbers(msgspec.Struct, frozen=True, kw_only=True):
    """The whole agent, now."""

    host: HostRecord
    pipelines: tuple[PipelineNumbers, ...] = ()
    workers: tuple[WorkerNumbers, ...] = ()
