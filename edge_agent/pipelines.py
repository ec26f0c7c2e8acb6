"""Pipelines: source -> model -> decisions -> sinks, each in threads of its own.

1. A pipeline owns a capture thread, an inference thread and the mailbox between them.
2. Which pipelines run is what the Target names; without a word from the hub, all of them.
3. A pipeline that is stopped is made anew when it starts again: a source that was in the middle of
   a file begins at its start.
4. QUIET_S after a model's releases changed, the memory that the change took is handed back.
"""

import logging
import threading
from collections.abc import Mapping

from edge_agent.config import PipelineSettings, TelemetrySettings
from edge_agent.inference.active_model import ActiveModel, Line
from edge_agent.inference.loop import InferenceLoop
from edge_agent.inference.pipeline_state import pipeline_state
from edge_agent.inference.procfs_memory import hand_back_memory
from edge_agent.sources.capture import CaptureLoop
from edge_agent.sources.mailbox import mailbox_for
from edge_agent.sources.opening import open_source
from edge_agent.telemetry.events import PipelineStanding
from edge_agent.telemetry.file_sink import FileSink
from edge_agent.telemetry.sinks import ItemCounts, Outbox, WindowSink, open_sink
from shared.clock import Clock
from shared.wire.report import PipelineReport
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
        clock: Clock,
    ) -> None:
        """Put the parts together; nothing runs yet."""
        source = open_source(settings.source, clock)
        mailbox = mailbox_for(source, clock)
        self.settings = settings
        self._mailbox = mailbox
        self._sinks = [open_sink(sink, outbox, clock) for sink in settings.sinks]
        self._window = WindowSink(
            settings.name, outbox, self._counts, clock, window_s=telemetry.window_s
        )
        self._capture = CaptureLoop(source, mailbox, clock, name=settings.name)
        self._loop = InferenceLoop(
            settings.name,
            mailbox,
            active_model,
            sinks=(*self._sinks, self._window),
            clock=clock,
            settings=settings.decisions,
        )
        self._workers = (
            Worker(f"capture-{settings.name}", self._capture.run, clock=clock),
            Worker(f"inference-{settings.name}", self._loop.run, clock=clock),
        )

    def start(self) -> None:
        """Start both threads."""
        log.info("pipeline.started", extra={"pipeline": self.settings.name})
        for worker in self._workers:
            worker.start()

    def stop(self) -> None:
        """Stop both threads and tell what is left."""
        for worker in self._workers:
            worker.request_stop()
        for worker in self._workers:
            worker.stop()
        self._window.close()
        for sink in self._sinks:
            if isinstance(sink, FileSink):
                sink.close()
        log.info("pipeline.stopped", extra={"pipeline": self.settings.name})

    def tick(self) -> None:
        """Close the telemetry window if its time is over, also when no item comes."""
        self._window.tick()

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
        return ItemCounts(items_in=counts.items_in, items_dropped=counts.items_dropped)


class Pipelines:
    """All pipelines of the device. `follow` and `stop` by one thread, `reports` by any."""

    def __init__(
        self,
        settings: tuple[PipelineSettings, ...],
        models: Mapping[str, ActiveModel],
        *,
        outbox: Outbox,
        telemetry: TelemetrySettings,
        clock: Clock,
    ) -> None:
        """Args: models by name; every pipeline's model is among them."""
        self._settings = {pipeline.name: pipeline for pipeline in settings}
        self._models = models
        self._outbox = outbox
        self._telemetry = telemetry
        self._clock = clock
        self._running: dict[str, Pipeline] = {}
        self._lock = threading.Lock()
        self._lines: tuple[Line, ...] = ()
        self._changed_s: float | None = None  # None: what the last change took is handed back

    def follow(self, wanted: tuple[str, ...] | None) -> None:
        """Run the pipelines named in `wanted` (None: all); names that are not here are ignored."""
        names = set(self._settings) if wanted is None else set(wanted) & set(self._settings)
        for name in [name for name in self._running if name not in names]:
            with self._lock:
                pipeline = self._running.pop(name)
            pipeline.stop()
        for name in [name for name in self._settings if name in names - self._running.keys()]:
            pipeline = Pipeline(
                self._settings[name],
                self._models[self._settings[name].model],
                outbox=self._outbox,
                telemetry=self._telemetry,
                clock=self._clock,
            )
            with self._lock:
                self._running[name] = pipeline
            pipeline.start()

    def tick(self) -> None:
        """Let every pipeline close its telemetry window if it is time; see rule 4 too."""
        with self._lock:
            running = list(self._running.values())
        for pipeline in running:
            pipeline.tick()
        self._tend_memory()

    def _tend_memory(self) -> None:
        lines = tuple(model.line for model in self._models.values())
        now_s = self._clock.monotonic_s()
        if lines != self._lines:
            self._lines, self._changed_s = lines, now_s
        elif self._changed_s is not None and now_s - self._changed_s >= QUIET_S:
            self._changed_s = None
            hand_back_memory()

    def stop(self) -> None:
        """Stop all of them."""
        self.follow(())

    def standings(self) -> tuple[PipelineStanding, ...]:
        """Return how those that run stand."""
        with self._lock:
            running = list(self._running.values())
        return tuple(pipeline.standing() for pipeline in running)

    def reports(self) -> tuple[PipelineReport, ...]:
        """Return how each stands, in the order of the configuration."""
        with self._lock:
            running = dict(self._running)
        return tuple(
            running[name].report()
            if name in running
            else PipelineReport(pipeline=name, model=settings.model, state=STOPPED)
            for name, settings in self._settings.items()
        )
