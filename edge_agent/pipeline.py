"""A pipeline: source -> model -> decisions -> sinks, in threads of its own.

1. It owns a capture thread, its lanes (threads that decide) and the mailbox between them. The slots
   are shared by all pipelines: as many items are decided at the same time as there are cores.
2. It goes on with other decisions, frames or sinks from the next item (`change`). Another source or
   model is another pipeline.
3. It is started once and stopped once: a source that was in the middle of a file begins at its
   start when another one takes it up.
"""

import logging

from msgspec import UNSET

from edge_agent.config import TelemetrySettings
from edge_agent.decisions.unused_settings import unused_settings
from edge_agent.inference.active_model import ActiveModel
from edge_agent.inference.loop import InferenceLoop
from edge_agent.inference.pipeline_state import pipeline_state
from edge_agent.inference.process_session import WorkerSession
from edge_agent.inference.slots import InferenceSlots
from edge_agent.sinks.losses import Losses
from edge_agent.sinks.opening import LiveView, SinkSet, open_sinks
from edge_agent.sinks.sink import Sink
from edge_agent.sources.capture import CaptureLoop
from edge_agent.sources.mailbox import mailbox_for
from edge_agent.sources.opening import open_source
from edge_agent.telemetry.events import PipelineStanding
from edge_agent.telemetry.numbers import Decided, PipelineNumbers
from edge_agent.telemetry.sinks import HubSink, ItemCounts, Outbox, WindowSink
from shared.clock import Clock
from shared.pipeline.pipeline import PipelineSettings
from shared.pipeline.sources import waits_for_model
from shared.wire.records import StageTimes
from shared.wire.report import PipelineReport
from shared.worker import Worker

log = logging.getLogger(__name__)

DETAIL_CHARS_MAX = 500


class Pipeline:
    """One pipeline that runs. `start` once, `stop` once."""

    def __init__(
        self,
        settings: PipelineSettings,
        active_model: ActiveModel,
        *,
        outbox: Outbox,
        telemetry: TelemetrySettings,
        slots: InferenceSlots,
        clock: Clock,
        device: str = "",
        live: LiveView | None = None,
    ) -> None:
        """Put the parts together; nothing runs yet.

        Args: slots and live are shared by all pipelines; device: its id, for those beside it.
        """
        source = open_source(settings.source, clock, fps_max=settings.frames.fps_max)
        mailbox = mailbox_for(source, clock)
        self.settings = settings
        self._clock = clock
        self._outbox, self._device, self._live = outbox, device, live
        self._active_model = active_model
        self._mailbox = mailbox
        self._decided = Decided()
        self._losses = Losses()
        self._sinks = self._open_sinks(settings)
        is_waited_for = waits_for_model(settings.source)
        self._capture = CaptureLoop(
            source,
            mailbox,
            clock,
            name=settings.name,
            wait_for_taker=active_model.wait_until_serving if is_waited_for else None,
        )
        self._loop = InferenceLoop(
            settings.name,
            mailbox,
            active_model,
            sinks=(),
            frame_sinks=self._sinks.frame_sinks,
            clock=clock,
            settings=settings.decisions,
            frames=settings.frames,
            slots=slots,
            lanes=slots.count,
        )
        self._window = WindowSink(
            settings.name, outbox, self._counts, clock, window_s=telemetry.window_s
        )
        self._loop.change(sinks=self._all_sinks())
        self._workers = (
            Worker(f"capture-{settings.name}", self._capture.run, clock=clock),
            *(
                Worker(f"inference-{settings.name}-{lane}", self._loop.run, clock=clock)
                for lane in range(slots.count)
            ),
        )

    def start(self) -> None:
        """Start all threads."""
        log.info("pipeline.started", extra={"pipeline": self.settings.name})
        self._sinks.start()
        for worker in self._workers:
            worker.start()

    def can_change(self, settings: PipelineSettings) -> bool:
        """Return whether it can go on with these: source and model are the same."""
        return _what_it_is(settings) == _what_it_is(self.settings)

    def change(self, settings: PipelineSettings) -> None:
        """Go on with other settings from the next item on; nothing is lost. See `can_change`."""
        assert self.can_change(settings), "another source or model is another pipeline"
        before, self.settings = self.settings, settings
        frames = None if before.frames == settings.frames else settings.frames
        if _seen_by_sinks(before) == _seen_by_sinks(settings):
            self._loop.change(frames=frames)
        else:
            old, self._sinks = self._sinks, self._open_sinks(settings)
            # The new ones take items at once and keep them until they start.
            self._loop.change(
                settings=settings.decisions,
                frames=frames,
                sinks=self._all_sinks(),
                frame_sinks=self._sinks.frame_sinks,
            )
            self._sinks.take_over(old)
            old.close()
            self._losses.settle(old)
            self._sinks.start()
        log.info("pipeline.changed", extra={"pipeline": settings.name})

    def stop(self, *, for_good: bool = False) -> None:
        """Stop all threads and tell what is left. Args: for_good: it is not wanted any more."""
        for worker in self._workers:
            worker.request_stop()
        for worker in self._workers:
            worker.stop()
        self._window.close()
        self._sinks.close(for_good=for_good)
        log.info("pipeline.stopped", extra={"pipeline": self.settings.name})

    def tick(self) -> None:
        """Close the telemetry window if its time is over, also when no item comes."""
        self._window.tick()
        self._decided.tick(self._clock.monotonic_s())

    def numbers(self) -> PipelineNumbers:
        """Return what it has done and how fast."""
        report, counts = self.report(), self._counts()
        standings, lost = self._sinks.standings(), self._losses.by_sink()
        serving = self._active_model.line.serving
        return PipelineNumbers(
            pipeline=self.settings.name,
            model=self.settings.model,
            version=serving.version if serving else 0,
            precision=serving.precision if serving else "",
            state=report.state,
            detail=report.detail,
            items_in=counts.items_in,
            items_gated=counts.items_gated or 0,
            items_dropped=counts.items_dropped,
            items_decided=self._decided.decided_count,
            items_failed=self._decided.failed_count,
            items_per_s=self._decided.per_s(),
            stages=dict(counts.stages),
            sinks_lost=sum(lost.values()),
            lost_by_sink=lost,
            sinks=tuple(f"{one.kind}: {one.standing}" for one in standings if one.standing),
        )

    def report(self) -> PipelineReport:
        """Return how it stands."""
        state, detail = pipeline_state(
            self._capture.status,
            is_waiting_for_model=self._loop.is_waiting_for_model,
            is_over=self._loop.is_over,
            failing=self._loop.failing,
            is_frozen=self._loop.is_frozen,
        )
        source, serving = self._capture.status.state, self._active_model.line.serving
        if not detail and serving is not None:
            detail = unused_settings(self.settings, serving.session.spec)
        return PipelineReport(
            pipeline=self.settings.name,
            model=self.settings.model,
            state=state,
            detail=detail[:DETAIL_CHARS_MAX],
            source=UNSET if source == state else str(source),
        )

    def standing(self) -> PipelineStanding:
        """Return what an operator may have to be told."""
        lost, bad = self._capture.messages_lost_and_bad
        return PipelineStanding(
            pipeline=self.settings.name,
            source=self._capture.status,
            failing=self._loop.failing,
            messages_lost=lost,
            messages_bad=bad,
            resized=self._capture.resized,
            is_frozen=self._loop.is_frozen,
        )

    def _counts(self) -> ItemCounts:
        counts = self._mailbox.counts
        return ItemCounts(
            items_in=counts.items_in,
            items_dropped=counts.items_dropped,
            items_gated=None if self.settings.frames.motion is None else self._loop.gated_count,
            stages={
                str(stage): StageTimes(times.p50, times.p95, times.p99)
                for stage, times in self._loop.times.percentiles().items()
            },
            sinks_lost=self._losses.count,
            worker_rss_bytes=self._worker_rss_bytes(),
        )

    def _worker_rss_bytes(self) -> int | None:
        """Return the memory of the process that runs its model; None: there is none."""
        serving = self._active_model.line.serving
        if serving is None or not isinstance(serving.session, WorkerSession):
            return None
        return serving.session.standing.rss_bytes

    def _all_sinks(self) -> tuple[Sink, ...]:
        return (*self._sinks.sinks, self._window, self._decided)

    def _open_sinks(self, settings: PipelineSettings) -> SinkSet:
        sinks = open_sinks(
            settings,
            device=self._device,
            clock=self._clock,
            hub_sink=lambda sink: HubSink(self._outbox, sink, self._clock),
            live=self._live,
        )
        self._losses.follow(sinks)
        return sinks


def _what_it_is(settings: PipelineSettings) -> tuple[object, ...]:
    """Return what only another pipeline can have."""
    return settings.source, settings.frames.fps_max, settings.model


def _seen_by_sinks(settings: PipelineSettings) -> tuple[object, ...]:
    """Return what sinks are opened with."""
    return settings.sinks, settings.decisions, settings.frames.masks
