"""ModelUpdater: carries out what the table says for one model. A shell: rules are elsewhere.

1. `follow` turns a wish into an event; `act` does the effect that the last step left to do, and
   turns what came of it into the next event.
2. Every step is on the disk before its effect begins. If the disk does not take it, nothing has
   changed and it is tried again later.
3. One thread calls `start`, `follow`, `fetch` and `act`; any thread may read `report`.

What must not live here: swaps, trials and the way back (changeover.py), which model's turn it is
(updater.py).
"""

import logging
import threading

import msgspec

from edge_agent.inference.active_model import ActiveModel
from edge_agent.updates.changeover import Changeover
from edge_agent.updates.journal import (
    WITHDRAWN_CODE,
    Attempt,
    begin,
    condemn,
    failure_for,
    failure_of,
    move,
    need_every_variant,
    refuse,
    restart_event,
    start_proof,
)
from edge_agent.updates.machine import Effect, Event
from edge_agent.updates.parts import Parts
from edge_agent.updates.plan import next_event
from edge_agent.updates.proving import Unconfirmed
from edge_agent.updates.refitting import Refitter
from edge_agent.updates.release_source import FetchedRelease
from edge_agent.updates.reporting import model_report
from edge_agent.updates.starting import RELEASE_ERRORS, Starter
from edge_agent.updates.steps import Steps
from shared.backoff import Backoff
from shared.errors import (
    ContractError,
    IntegrityError,
    IsthmusError,
    RefusedError,
    TransientError,
)
from shared.wire.fit import FitReport
from shared.wire.report import ModelReport, UpdateState
from shared.wire.target import TargetRelease

log = logging.getLogger(__name__)

_GAVE_UP = "It was begun too often: the process or the machine ended again and again."
_DIED = "The process or the machine ended during its trial."
_WITHDRAWN = "The Target no longer asked for it during its trial."
_RESTART_CODES = {UpdateState.FETCHING: "update.looping", UpdateState.STAGED: "proof.died"}


class ModelUpdater:
    """One model's update. See the rules above."""

    def __init__(self, active: ActiveModel, parts: Parts) -> None:
        """Args: the model's swap point, written by nobody else."""
        self.model = active.model
        self._active = active
        self._parts = parts
        self._steps = Steps(active.model, parts.journals)
        self._changeover = Changeover(active, parts, self._steps)
        self._refitter = Refitter(active.model, parts, self._steps, self._changeover)
        self._is_loaded = False
        self._is_resumed = False
        self._release: TargetRelease | None = None
        self._progress = 0.0
        self._backoff = Backoff(delay_s_min=parts.retry_s_min, delay_s_max=parts.retry_s_max)
        self._retry_at_s = 0.0
        self._fit: FitReport | None = None  # The newest table; one that was refused is kept too

    # What others may ask

    @property
    def wants_fetch(self) -> bool:
        """Whether a fetch is next."""
        return self._steps.effect is Effect.FETCH

    @property
    def is_due(self) -> bool:
        """Whether no retry is being waited for."""
        return self._parts.clock.monotonic_s() >= self._retry_at_s

    @property
    def is_under_watch(self) -> bool:
        """Whether a release is on that might have to be taken back at any moment."""
        is_to_judge = self._steps.effect in (Effect.TRY, Effect.GO_BACK)
        return is_to_judge and self._changeover.settled is not None

    @property
    def attempted_digest(self) -> str | None:
        """Return the manifest digest of the attempt under way."""
        attempt = self._steps.journal.attempt
        return attempt.release.manifest_digest if attempt else None

    def report(self) -> ModelReport:
        """Return how this model stands. Any thread."""
        journal, setback = self._steps.journal, self._steps.setback
        if setback is not None:
            journal = msgspec.structs.replace(journal, failure=setback)
        return model_report(
            journal,
            self._active.line.serving,
            self._release,
            progress=self._progress,
            trial_items=self._changeover.trial_items,
            fit=self._refitter.told(self._fit),
        )

    # Start

    def start(self) -> None:
        """Serve what was settled, then take up what the last process left. No network.

        What the disk does not give or take now is tried again by `follow`.
        """
        try:
            self._resume()
        except TransientError as error:
            self.put_off(error)

    def _resume(self) -> None:
        if not self._is_loaded:
            self._load()
            self._is_loaded = True
        if not self._is_resumed:
            self._restart()
            self._is_resumed = True

    def _load(self) -> None:
        began_s = self._parts.clock.monotonic_s()
        parts = self._parts
        journal, settled = Starter(parts.journals, parts.slots, parts.prover).start(self.model)
        if settled is not None:
            self._changeover.serve(settled)
            self._fit = settled.fit
            if journal.receipt is not None:
                receipt = parts.receipts.renew(journal.receipt, settled)
                journal = msgspec.structs.replace(journal, receipt=receipt)
        self._steps.take_up(journal)
        took_s = self._parts.clock.monotonic_s() - began_s
        self._changeover.undo_ms = max(0, int(1000 * took_s))

    def _restart(self) -> None:
        journal = self._steps.journal
        event, attempt = restart_event(journal), journal.attempt
        if attempt is None:
            if journal.settled is not None or journal.failure is not None:
                self._steps.take(move(journal, event))
            return
        log.info(
            "update.resumed",
            extra={"model": self.model, "state": journal.state, "event_name": event},
        )
        match journal.state, event:
            case (UpdateState.FETCHING | UpdateState.STAGED) as state, Event.GAVE_UP:
                failure = failure_for(attempt.release, _RESTART_CODES[state], _GAVE_UP)
                self._steps.take(refuse(journal, event, failure))
            case UpdateState.TRIAL, Event.RESTARTED_ALONE:
                self._steps.take(start_proof(journal, event))
            case UpdateState.TRIAL, _:
                text = _GAVE_UP if event is Event.GAVE_UP else _DIED
                failure = failure_for(attempt.release, "trial.died", text)
                self._steps.take(condemn(journal, event, failure))
            case UpdateState.STAGED, _:
                self._steps.take(start_proof(journal, event))
            case UpdateState.UNDOING, Event.GAVE_UP:
                self._changeover.end_undo(journal, event, receipt_from=None)
            case _:
                self._steps.take(move(journal, event))

    # What the Target wishes

    def follow(self, release: TargetRelease | None, *, is_known: bool) -> None:
        """Begin what `release` asks for, if anything. Raises TransientError.

        Args: `is_known` is false while no Target was ever taken up: nobody has said anything.
        """
        if release != self._release:
            self._steps.forget_setback()
        self._release = release
        self._resume()
        event = next_event(release, self._steps.journal) if is_known else None
        if event is None:
            if self._refitter.look(release):
                self._begin_anew()
            return
        log.info(
            "update.planned",
            extra={
                "model": self.model,
                "event_name": event,
                "version": release.version if release else None,
            },
        )
        if event in (Event.TARGETED, Event.RETARGETED):
            assert release is not None
            self._steps.take(begin(self._steps.journal, event, release))
            self._begin_anew()
        elif event is Event.WITHDRAWN and self._steps.journal.state is UpdateState.TRIAL:
            self._changeover.condemn(event, WITHDRAWN_CODE, _WITHDRAWN)
        elif event is Event.WITHDRAWN:
            self._changeover.candidate = None
            self._steps.take(move(self._steps.journal, event, attempt=None))
        else:
            self._steps.take(move(self._steps.journal, event))

    def _begin_anew(self) -> None:
        """Forget what an earlier attempt has left in memory."""
        self._progress, self._retry_at_s = 0.0, 0.0
        self._changeover.candidate = None
        self._backoff.reset()

    # Effects

    def fetch(self, stop: threading.Event) -> None:
        """Bring the attempt's release to the disk; ends early when `stop` is set."""
        attempt = self._steps.attempt
        try:
            self._fetch(attempt, stop)
        except TransientError as error:
            if not stop.is_set():
                self.put_off(error)
            return
        except (IntegrityError, ContractError, RefusedError) as error:
            self._refuse(Event.REJECTED, attempt, error)
            return
        self._backoff.reset()
        self._steps.take(start_proof(self._steps.journal, Event.FETCHED))

    def act(self) -> None:
        """Do what the last step left to do, except a fetch. Raises TransientError."""
        match self._steps.effect:
            case Effect.REST | Effect.FETCH:
                pass
            case Effect.PROVE:
                self._prove()
            case Effect.TRY:
                self._changeover.try_out()
            case Effect.KEEP:
                self._changeover.keep()
            case Effect.GO_BACK:
                self._changeover.go_back()
            case Effect.ATTEST:
                self._changeover.attest(self._release)

    def put_off(self, error: TransientError) -> None:
        """Try again what raised `error`, after a while."""
        self._steps.note_setback(error, self._release)
        delay_s = self._backoff.next_delay_s()
        self._retry_at_s = self._parts.clock.monotonic_s() + delay_s
        log.info(
            "update.put_off",
            extra={"model": self.model, "code": error.code, "retry_s": round(delay_s, 1)},
        )

    def _fetch(self, attempt: Attempt, stop: threading.Event) -> None:
        parts, release = self._parts, attempt.release
        folder = parts.slots.prepare(self.model, attempt.slot, release.manifest_digest)
        with parts.slots.guard():
            parts.prover.fits.forget(folder)  # Of an earlier attempt, under other limits perhaps
            fetched = parts.source.fetch(release, folder, on_progress=self._on_progress, stop=stop)
        _check(fetched, release)
        if attempt.refit is not None and attempt.refit.fit is not None:
            parts.prover.fits.write(folder, attempt.refit.fit)
        parts.slots.sync(self.model, attempt.slot)

    def _on_progress(self, share: float) -> None:
        self._progress = share

    def _on_fit(self, fit: FitReport) -> None:
        self._fit = fit

    def _prove(self) -> None:
        attempt = self._steps.attempt
        folder = self._parts.slots.path(self.model, attempt.slot)
        try:
            candidate = self._parts.prover.prove_attempt(
                self.model,
                folder,
                attempt.release,
                why=attempt.unconfirmed,
                on_fit=self._on_fit,
            )
        except RELEASE_ERRORS as error:
            self._refuse(Event.PROOF_FAILED, attempt, error)
            return
        if isinstance(candidate, Unconfirmed):
            log.info("update.unconfirmed", extra={"model": self.model, "why": candidate.why})
            self._steps.take(need_every_variant(self._steps.journal, candidate.why))
            return
        self._changeover.candidate = candidate
        self._steps.take(move(self._steps.journal, Event.PROVED))
        self._changeover.try_out()

    def _refuse(self, event: Event, attempt: Attempt, error: IsthmusError) -> None:
        failure = failure_of(attempt.release, error)
        log.warning(
            "update.refused",
            extra={"model": self.model, "version": failure.version, "code": failure.code},
        )
        try:
            self._steps.take(refuse(self._steps.journal, event, failure))
        except TransientError:
            if event is Event.REJECTED:
                # The disk may be full of just these files. What is fetched next begins anew.
                self._parts.slots.clear(self.model, attempt.slot)
            raise
        self._changeover.candidate = None
        # After the journal: a cut in between leaves files that nobody believes.
        self._parts.slots.clear(self.model, attempt.slot)


def _check(fetched: FetchedRelease, release: TargetRelease) -> None:
    """Raise IntegrityError `release.digest` unless `fetched` is what the Target named."""
    manifest = fetched.manifest
    is_same = (
        fetched.manifest_digest == release.manifest_digest
        and manifest.model == release.model
        and manifest.version == release.version
    )
    if not is_same:
        raise IntegrityError(
            "release.digest",
            f"The Target names {release.model}:{release.version}; what was fetched is "
            f"{manifest.model}:{manifest.version}, or another manifest of it.",
        )
