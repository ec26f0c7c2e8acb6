"""Updater: brings what runs to what the Target says, one bounded step after another.

1. `start` serves what was settled, before any network. `step` takes up a newer Target if there is
   one, moves every model on by what does not block, and then fetches for at most one model; the
   models take turns.
2. A fetch waits while another model's release is on trial: a release that has to be taken back
   must not wait for a slow link. A first release has nothing to be taken back to and holds up
   nobody.
3. Of several Targets that wait the one with the highest revision is taken; one below the revision
   that is taken up already is old news. It is on the disk before it is followed.
4. A fetch ends early when a Target arrives that no longer names what is being fetched.
5. A model that comes while the agent runs (the hub has ordered a pipeline that uses it) is started
   like any other, before the next step.

What must not live here: rules about one model (model_updater.py and the pure files it asks).
"""

import logging
import threading
from collections.abc import Callable, Mapping

from msgspec import UNSET, UnsetType

from edge_agent.inference.active_model import ActiveModel
from edge_agent.updates.file_fit import FileFits
from edge_agent.updates.file_journal import FileJournal, FileTarget
from edge_agent.updates.file_slots import FileSlots
from edge_agent.updates.fitting import Fitter
from edge_agent.updates.interrupt import EitherEvent
from edge_agent.updates.model_updater import ModelUpdater
from edge_agent.updates.parts import Parts
from edge_agent.updates.plan import release_for
from edge_agent.updates.proving import LoadSession, ProveGolden, Prover
from edge_agent.updates.receipts import ReceiptMaker
from edge_agent.updates.release_source import ReleaseSource
from edge_agent.updates.reporting import ReportGate, unknown_model_report
from shared.clock import Clock, now_ms
from shared.errors import ContractError, TransientError
from shared.settings import Settings
from shared.wire.limits import Count, Seconds
from shared.wire.report import LearningReport, ModelReport, PipelineReport, Report
from shared.wire.target import MODELS_MAX, Target

log = logging.getLogger(__name__)


class UpdateSettings(Settings, frozen=True):
    """How the device updates itself."""

    poll_s: Seconds = 0.2  # How often trials are judged and Targets looked for
    retry_s_min: Seconds = 1.0
    retry_s_max: Seconds = 60.0
    free_bytes_min: Count = 64 << 20  # A release is not begun with less on the disk
    fit_bytes_max: Count = 256 << 20  # Of all variants of a release that are brought to measure
    progress_s: Seconds = 2.0  # Between reports that differ in progress numbers only


class Updater:
    """Every model's updates on one device. See the rules above."""

    def __init__(
        self,
        *,
        models: Mapping[str, ActiveModel],
        source: ReleaseSource,
        load_session: LoadSession,
        prove_golden: ProveGolden,
        slots: FileSlots,
        journals: FileJournal,
        target_file: FileTarget,
        receipts: ReceiptMaker,
        pipelines: Callable[[], tuple[PipelineReport, ...]],
        learning: Callable[[], tuple[LearningReport, ...] | UnsetType] = lambda: UNSET,
        clock: Clock,
        settings: UpdateSettings,
        fitter: Fitter | None = None,
        fits: FileFits | None = None,
    ) -> None:
        """Args: models, by name: each is written by this updater only, read by every loop.

        Others may be added to it at any time, by any thread; none is ever taken away.
        `fitter` measures a release's variants; None: the best one is taken unmeasured.
        """
        self._parts = Parts(
            source=source,
            journals=journals,
            slots=slots,
            prover=Prover(source, load_session, prove_golden, fitter, fits or FileFits()),
            receipts=receipts,
            clock=clock,
            retry_s_min=settings.retry_s_min,
            retry_s_max=settings.retry_s_max,
        )
        self._is_started = False
        self._active_models = models
        self._models: tuple[ModelUpdater, ...] = ()
        self._welcome_models()
        self._target_file = target_file
        self._pipelines = pipelines
        self._learning = learning
        self._clock = clock
        self._settings = settings
        self._target: Target | None = None
        self._turn = 0  # Whose fetch is next
        self._lock = threading.Lock()
        self._waiting: Target | None = None  # Guarded by the lock, like the two below
        self._interrupt: EitherEvent | None = None
        self._fetching: ModelUpdater | None = None
        self._gate = ReportGate(progress_s=settings.progress_s)
        self._gate_lock = threading.Lock()

    @property
    def target(self) -> Target | None:
        """Return the Target that is taken up. Any thread."""
        return self._target

    def set_target(self, target: Target) -> None:
        """Leave a Target to be taken up at the next step. Any thread; never blocks."""
        with self._lock:
            if self._waiting is not None and target.revision < self._waiting.revision:
                return
            self._waiting = target
            if self._fetching is not None and self._interrupt is not None:
                release = release_for(self._fetching.model, target)
                digest = release.manifest_digest if release else None
                if digest != self._fetching.attempted_digest and not self._is_old(target):
                    self._interrupt.set()

    def run(self, stop: threading.Event) -> None:
        """Serve until `stop` is set."""
        self.start()
        while not stop.is_set():
            self.step(stop)
            self._clock.wait(stop, self._settings.poll_s)

    def start(self) -> None:
        """Serve what was settled and take up the Target on the disk. Does so once; no network."""
        if self._is_started:
            return
        try:
            self._target = self._target_file.read()
        except ContractError as error:
            log.error("update.target_lost", extra={"code": error.code})
        for model in self._models:
            model.start()
        self._is_started = True

    def _welcome_models(self) -> None:
        """Take up the models that came since; see rule 5."""
        known = {model.model for model in self._models}
        for name in [name for name in list(self._active_models) if name not in known]:
            fresh = ModelUpdater(self._active_models[name], self._parts)
            if self._is_started:
                fresh.start()
            self._models = (*self._models, fresh)

    def step(self, stop: threading.Event) -> None:
        """Do one bounded piece of work for every model, and one model's fetch."""
        self._welcome_models()
        self._take_target()
        for model in self._models:
            self._advance(model)
        fetcher = self._next_fetcher()
        if fetcher is not None and not stop.is_set():
            self._fetch(fetcher, stop)
            self._advance(fetcher)

    def report(self) -> Report:
        """Return what this device runs, now. Any thread."""
        target = self._target
        models = tuple(model.report() for model in self._models)
        return Report(
            target_revision=target.revision if target else 0,
            at_ms=now_ms(self._clock),
            models=(*models, *self._unknown_models(target))[:MODELS_MAX],
            pipelines=self._pipelines(),
            learning=self._learning(),
        )

    def take_report(self, *, again: bool = False) -> Report | None:
        """Return a report that says something new, or None. Any thread.

        Args: `again` gives one whatever it says: the hub may not have the last one.
        """
        report = self.report()
        with self._gate_lock:
            if again:
                self._gate.forget()
            is_new = self._gate.admit(report, now_s=self._clock.monotonic_s())
        return report if is_new else None

    def _take_target(self) -> None:
        with self._lock:
            target, self._waiting = self._waiting, None
        if target is None or target == self._target:
            return
        if self._is_old(target):
            log.info("update.old_target", extra={"revision": target.revision})
            return
        try:
            self._target_file.write(target)
        except TransientError as error:
            # Follow it all the same: it is retained at the broker, and comes again at a restart.
            log.warning("update.target_unwritten", extra={"code": error.code})
        self._target = target
        log.info("update.target_taken", extra={"revision": target.revision})
        for model in self._models:
            self._follow(model)

    def _is_old(self, target: Target) -> bool:
        return self._target is not None and target.revision < self._target.revision

    def _advance(self, model: ModelUpdater) -> None:
        if not model.is_due:
            return
        self._follow(model)
        try:
            model.act()
        except TransientError as error:
            model.put_off(error)

    def _follow(self, model: ModelUpdater) -> None:
        try:
            model.follow(release_for(model.model, self._target), is_known=self._target is not None)
        except TransientError as error:
            model.put_off(error)

    def _next_fetcher(self) -> ModelUpdater | None:
        """Return whose turn it is to fetch, and give the turn on."""
        if any(model.is_under_watch for model in self._models):
            return None
        count = len(self._models)
        for offset in range(count):
            index = (self._turn + offset) % count
            model = self._models[index]
            if model.wants_fetch and model.is_due:
                self._turn = index + 1
                return model
        return None

    def _fetch(self, model: ModelUpdater, stop: threading.Event) -> None:
        interrupt = EitherEvent(stop)
        with self._lock:
            if self._waiting is not None:
                return  # It may no longer ask for this.
            self._fetching, self._interrupt = model, interrupt
        try:
            model.fetch(interrupt)
        except TransientError as error:
            model.put_off(error)
        finally:
            with self._lock:
                self._fetching = self._interrupt = None

    def _unknown_models(self, target: Target | None) -> tuple[ModelReport, ...]:
        known = {model.model for model in self._models}
        releases = target.releases if target else ()
        return tuple(unknown_model_report(r) for r in releases if r.model not in known)
