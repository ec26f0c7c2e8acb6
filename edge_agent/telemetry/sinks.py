"""Sinks: who listens to what a pipeline decides. Each is called once per item, in its thread.

HubSink tells the hub decisions; WindowSink tells it numbers; file_sink.FileSink writes lines.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Protocol

from msgspec import Meta

from edge_agent.decisions.decision import Decision, ItemResult
from edge_agent.telemetry.file_sink import FileSink, FileSinkSettings
from edge_agent.telemetry.window import TelemetryWindow, labels_of
from shared.clock import Clock
from shared.settings import Settings
from shared.wire.records import Body, DecisionRecord, Outcome

WINDOW_S = 10.0

Sink = Callable[[ItemResult], None]


class Which(StrEnum):
    """Which decisions the hub is told."""

    ALL = "all"
    CHANGES = "changes"  # When the conclusion is another one, and once per repeat_s
    NONE = "none"


class HubSinkSettings(Settings, frozen=True, tag="hub", tag_field="kind"):
    """Which decisions the hub is told."""

    which: Which = Which.CHANGES
    repeat_s: Annotated[float, Meta(ge=1.0, le=86_400.0)] = 60.0


SinkSettings = HubSinkSettings | FileSinkSettings


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


class HubSink:
    """Puts decisions into the outbox. Belongs to one pipeline's thread."""

    def __init__(self, outbox: Outbox, settings: HubSinkSettings, clock: Clock) -> None:
        self._outbox, self._settings, self._clock = outbox, settings, clock
        self._told: tuple[object, ...] | None = None  # The last conclusion told, and by whom
        self._told_s = 0.0

    def __call__(self, result: ItemResult) -> None:
        """Tell the hub `result` if it is a Decision that it should hear of."""
        if not isinstance(result, Decision) or not self._is_due(result):
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
            )
        )

    def _is_due(self, decision: Decision) -> bool:
        if self._settings.which is not Which.CHANGES:
            return self._settings.which is Which.ALL
        now_s = self._clock.monotonic_s()
        conclusion = decision.model, decision.version, conclusion_of(decision.outcome)
        if conclusion == self._told and now_s - self._told_s < self._settings.repeat_s:
            return False
        self._told, self._told_s = conclusion, now_s
        return True


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
            )
        )


def open_sink(settings: SinkSettings, outbox: Outbox, clock: Clock) -> Sink:
    """Return the sink that `settings` describe."""
    match settings:
        case HubSinkSettings():
            return HubSink(outbox, settings, clock)
        case FileSinkSettings():
            return FileSink(settings)


def conclusion_of(outcome: Outcome) -> frozenset[str]:
    """Return what counts as the same conclusion: the set of labels, however many of each."""
    return frozenset(labels_of(outcome))
