"""All pipelines of a device: which run, and what a change of them stops.

1. Which pipelines run is what the book says (pipeline_book.py): the device's own and the hub's.
   One that changes touches no other: it goes on where it can (pipeline.py), else it is stopped and
   made anew.
2. A model that no pipeline used yet is added to `models` first; who updates models takes it up.
3. QUIET_S after a model's releases changed, the memory that the change took is handed back.
"""

import threading

import msgspec

from edge_agent.config import TelemetrySettings
from edge_agent.inference.active_model import ActiveModel, Line
from edge_agent.inference.procfs_memory import hand_back_memory
from edge_agent.inference.slots import InferenceSlots
from edge_agent.pipeline import Pipeline
from edge_agent.pipeline_book import PipelineBook
from edge_agent.sinks.opening import LiveView
from edge_agent.telemetry.events import PipelineStanding
from edge_agent.telemetry.numbers import PipelineNumbers
from edge_agent.telemetry.sinks import Outbox
from shared.clock import Clock
from shared.pipeline.pipeline import PipelineSettings
from shared.wire.report import PipelineReport
from shared.wire.target import PIPELINES_MAX

QUIET_S = 3.0
STOPPED = "stopped"


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
        """Run what `book` wants; see rules 1 and 2."""
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
        """Let every pipeline close its telemetry window if it is time; see rule 3 too."""
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

    def stop(self, *, for_good: bool = False) -> None:
        """Stop all of them. Args: for_good: none is wanted any more."""
        for name in list(self._running):
            self._stop(name, for_good=for_good)

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
