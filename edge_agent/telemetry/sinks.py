"""The hub's sinks: HubSink tells it decisions, WindowSink numbers. Called once per item, in order.

Those of the device and its neighbours are in edge_agent/sinks, which also opens them.
"""

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from msgspec import UNSET

from edge_agent.decisions.decision import Decision, ItemResult
from edge_agent.sinks.due import Due
from edge_agent.telemetry.window import TelemetryWindow
from shared.clock import Clock
from shared.pipeline.sinks import HubSinkSettings
from shared.wire.records import Body, DecisionRecord, StageTimes

WINDOW_S = 10.0


class Outbox(Protocol):
    """The part of sql_outbox.SqlOutbox that sinks need."""

    def append(self, body: Body) -> None:
        """Keep `body` until the hub has it; never raises, never waits."""
        ...


@dataclass(frozen=True, slots=True)
class ItemCounts:
    """What a pipeline's source counted since it started."""

    items_in: int
    items_dropped: int
    items_gated: int | None = None  # None: there is no gate
    stages: Mapping[str, StageTimes] = field(default_factory=dict)  # Of the last items
    sinks_lost: int = 0  # By all sinks that run now
    worker_rss_bytes: int | None = None  # Now; None: no process runs its model


class HubSink:
    """Puts decisions into the outbox. Belongs to one pipeline's thread."""

    def __init__(self, outbox: Outbox, settings: HubSinkSettings, clock: Clock) -> None:
        self._outbox, self._clock = outbox, clock
        self._due = Due(settings.which, settings.repeat_s)

    def __call__(self, result: ItemResult) -> None:
        """Tell the hub `result` if it is a Decision that it should hear of."""
        if not isinstance(result, Decision):
            return
        if not self._due.is_due(result, now_s=self._clock.monotonic_s()):
            return
        self._outbox.append(
            DecisionRecord(
                pipeline=result.pipeline,
                model=result.model,
                version=result.version,
                item=result.item,
                captured_ms=result.captured_ms,
                latency_ms=result.latency_ms,
                outcome=result.outcome,
                sensor=result.sensor or UNSET,
            )
        )


class WindowSink:
    """Counts every item of one pipeline, and tells the hub once per window.

    Called by the pipeline's thread; `tick` by another, so that a silent pipeline is told as well.
    """

    def __init__(
        self,
        pipeline: str,
        outbox: Outbox,
        counts: Callable[[], ItemCounts],
        clock: Clock,
        *,
        window_s: float = WINDOW_S,
    ) -> None:
        """Args: `counts` returns what the pipeline's source counted so far."""
        self._pipeline, self._outbox, self._clock = pipeline, outbox, clock
        self._counts, self._window_s = counts, window_s
        self._window: TelemetryWindow | None = None  # None until the first item
        self._told = counts()
        self._lock = threading.Lock()

    def __call__(self, result: ItemResult) -> None:
        """Count `result`; a swap closes the window of the release before."""
        with self._lock:
            now_s = self._clock.monotonic_s()
            window = self._window
            if window is None:
                window = self._begin(result.model, result.version, now_s)
            elif not window.takes(result):
                self._close(window, now_s)
                window = self._begin(result.model, result.version, now_s)
            window.add(result)
            self._close_if_due(now_s)

    def tick(self) -> None:
        """Close the window if its time is over."""
        with self._lock:
            self._close_if_due(self._clock.monotonic_s())

    def close(self) -> None:
        """Tell what is left: the pipeline ends."""
        with self._lock:
            if self._window is not None:
                self._close(self._window, self._clock.monotonic_s())
                self._window = None

    def _begin(self, model: str, version: int, now_s: float) -> TelemetryWindow:
        self._window = TelemetryWindow(self._pipeline, model, version, started_s=now_s)
        return self._window

    def _close_if_due(self, now_s: float) -> None:
        window = self._window
        if window is not None and now_s - window.started_s >= self._window_s:
            self._close(window, now_s)
            self._begin(window.model, window.version, now_s)

    def _close(self, window: TelemetryWindow, now_s: float) -> None:
        before, self._told = self._told, self._counts()
        self._outbox.append(
            window.close(
                now_s=now_s,
                items_in=self._told.items_in - before.items_in,
                items_dropped=self._told.items_dropped - before.items_dropped,
                items_gated=_since(before.items_gated, self._told.items_gated),
                stages=self._told.stages,
                sinks_lost=self._told.sinks_lost - before.sinks_lost,
                worker_rss_bytes=self._told.worker_rss_bytes,
            )
        )


def _since(before: int | None, now: int | None) -> int | None:
    return None if now is None else now - (before or 0)
