"""Pipelines: source -> model -> decisions -> sinks, each in threads of its own.

1. A pipeline owns a capture thread, its lanes (threads that decide) and the mailbox between them.
   All pipelines share the slots: as many items are decided at the same time as there are cores.
2. Which pipelines run is what the book says (pipeline_book.py): the device's own and the hub's.
   One that changes touches no other: where only decisions, frames or sinks differ it goes on with
   the new ones from the next item, else it is stopped and made anew.
3. A pipeline that is stopped is made anew when it starts again: a source that was in the middle of
   a file begins at its start.
4. A model that no pipeline used yet is added to `models` first; who updates models takes it up.
5. QUIET_S after a model's releases changed, the memory that the change took is handed back.
"""

import logging
import threading

import msgspec

from edge_agent.config import TelemetrySettings
from edge_agent.inference.active_model import ActiveModel, Line
from edge_agent.inference.loop import InferenceLoop
from edge_agent.inference.pipeline_state import pipeline_state
from edge_agent.inference.procfs_memory import hand_back_memory
from edge_agent.inference.slots import InferenceSlots
from edge_agent.pipeline_book import PipelineBook
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
from shared.wire.records import StageTimes
from shared.wire.report import PipelineReport
from shared.wire.target import PIPELINES_MAX
from shared.worker import Worker

log = logging.getLogger(__name__)

DETAIL_CHARS_MAX = 500
QUIET_S = 3.0
STOPPED = "stopped"


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
        self._sinks = self._open_sinks(settings)
        self._capture = CaptureLoop(source, mailbox, clock, name=settings.name)
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
            old.close()
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
        standings = self._sinks.standings()
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
            sinks_lost=sum(standing.lost_count for standing in standings),
            sinks=tuple(f"{one.kind}: {one.standing}" for one in standings if one.standing),
        )

    def report(self) -> PipelineReport:
        """Return how it stands."""
        state, detail = pipeline_state(
            self._capture.status,
            is_waiting_for_model=self._loop.is_waiting_for_model,
            is_over=self._loop.is_over,
            failing=self._loop.failing,
        )
        return PipelineReport(
            pipeline=self.settings.name,
            model=self.settings.model,
            state=state,
            detail=detail[:DETAIL_CHARS_MAX],
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
        )

    def _all_sinks(self) -> tuple[Sink, ...]:
        return (*self._sinks.sinks, self._window, self._decided)

    def _open_sinks(self, settings: PipelineSettings) -> SinkSet:
        return open_sinks(
            settings,
            device=self._device,
            clock=self._clock,
            hub_sink=lambda sink: HubSink(self._outbox, sink, self._clock),
            live=self._live,
        )


def _what_it_is(settings: PipelineSettings) -> tuple[object, ...]:
    """Return what only another pipeline can have."""
    return settings.source, settings.frames.fps_max, settings.model


def _seen_by_sinks(settings: PipelineSettings) -> tuple[object, ...]:
    """Return what sinks are opened with."""
    return settings.sinks, settings.decisions, settings.frames.masks


class Pipelines:
    """All pipelines of the device. `follow` and `stop` by one thread, `reports` by any."""

    def __init__(
        self,
        models: dict[str, ActiveModel],
        *,
        outbox: Outbox,
        telemetry: TelemetrySettings,
        clock: Clock,
        lanes: int = 0,
        device: str = "",
        live: LiveView | None = None,
    ) -> None:
        """Put the parts together; nothing runs yet.

        Args:
            models: by name; those of pipelines that are followed are added.
            outbox: takes what the hub is told.
            telemetry: how often.
            clock: for all of it.
            lanes: items decided at the same time, over all pipelines; 0: as many as cores.
            device: its id, for brokers beside it.
            live: where pipelines can be seen; None: nowhere.
        """
        self._device, self._live = device, live
        self._book = PipelineBook(pipelines=(), ordered=frozenset(), wanted=frozenset())
        self._models = models
        self._outbox = outbox
        self._telemetry = telemetry
        self._clock = clock
        self._slots = InferenceSlots(lanes)
        self._running: dict[str, Pipeline] = {}
        self._lock = threading.Lock()
        self._lines: tuple[Line, ...] = ()
        self._changed_s: float | None = None  # None: what the last change took is handed back

    def follow(self, book: PipelineBook) -> None:
        """Run what `book` wants; see rules 2 to 4."""
        wanted = {p.name: p for p in book.pipelines if p.name in book.wanted}
        for name in [name for name in self._running if name not in wanted]:
            self._stop(name, for_good=True)
        for name, settings in wanted.items():
            running = self._running.get(name)
            if running is None or running.settings == settings:
                continue
            if running.can_change(settings):
                running.change(settings)
            else:
                self._stop(name)
        with self._lock:
            self._book = book
        for name, settings in wanted.items():
            if name not in self._running:
                self._start(settings)

    def _stop(self, name: str, *, for_good: bool = False) -> None:
        with self._lock:
            pipeline = self._running.pop(name)
        pipeline.stop(for_good=for_good)

    def _start(self, settings: PipelineSettings) -> None:
        pipeline = Pipeline(
            settings,
            self._models.setdefault(settings.model, ActiveModel(settings.model)),
            outbox=self._outbox,
            telemetry=self._telemetry,
            slots=self._slots,
            clock=self._clock,
            device=self._device,
            live=self._live,
        )
        with self._lock:
            self._running[settings.name] = pipeline
        pipeline.start()

    def tick(self) -> None:
        """Let every pipeline close its telemetry window if it is time; see rule 5 too."""
        with self._lock:
            running = list(self._running.values())
        for pipeline in running:
            pipeline.tick()
        self._tend_memory()

    def _tend_memory(self) -> None:
        lines = tuple(model.line for model in list(self._models.values()))
        now_s = self._clock.monotonic_s()
        if lines != self._lines:
            self._lines, self._changed_s = lines, now_s
        elif self._changed_s is not None and now_s - self._changed_s >= QUIET_S:
            self._changed_s = None
            hand_back_memory()

    def stop(self) -> None:
        """Stop all of them."""
        for name in list(self._running):
            self._stop(name)

    def numbers(self) -> tuple[PipelineNumbers, ...]:
        """Return what those that run have done and how fast."""
        with self._lock:
            running = list(self._running.values())
        return tuple(pipeline.numbers() for pipeline in running)

    def standings(self) -> tuple[PipelineStanding, ...]:
        """Return how those that run stand."""
        with self._lock:
            running = list(self._running.values())
        return tuple(pipeline.standing() for pipeline in running)

    def reports(self) -> tuple[PipelineReport, ...]:
        """Return how each stands, the device's own first, then what was refused."""
        with self._lock:
            running, book = dict(self._running), self._book
        reports = [
            running[settings.name].report()
            if settings.name in running
            else PipelineReport(pipeline=settings.name, model=settings.model, state=STOPPED)
            for settings in book.pipelines
        ]
        told = [
            msgspec.structs.replace(report, is_ordered=True)
            if report.pipeline in book.ordered
            else report
            for report in reports
        ]
        return (*told, *book.refused)[:PIPELINES_MAX]
