"""ModelUpdater: carries out what the table says for one model. A shell: rules are elsewhere.

1. `follow` turns a wish into an event; `act` does the effect that the last step left to do, and
   turns what came of it into the next event.
2. Every step is on the disk before its effect begins. If the disk does not take it, nothing has
   changed and it is tried again later; only the way back to the settled release does not wait.
3. One thread calls `start`, `follow`, `fetch` and `act`; any thread may read `report`.

What must not live here: which model's turn it is (updater.py).
"""

import logging
import threading
from dataclasses import dataclass

import msgspec

from edge_agent.inference.active_model import ActiveModel
from edge_agent.updates.file_journal import FileJournal
from edge_agent.updates.file_slots import FileSlots
from edge_agent.updates.journal import (
    WITHDRAWN_CODE,
    Attempt,
    Journal,
    SettledRelease,
    begin,
    failure_for,
    failure_of,
    move,
    quarantined,
    refuse,
    restart_event,
    settle,
    start_proof,
)
from edge_agent.updates.machine import Effect, Event
from edge_agent.updates.plan import next_event
from edge_agent.updates.proving import ProvenRelease, Prover
from edge_agent.updates.receipts import ReceiptMaker
from edge_agent.updates.release_source import FetchedRelease, ReleaseSource
from edge_agent.updates.reporting import model_report
from edge_agent.updates.starting import RELEASE_ERRORS, Starter, lose
from edge_agent.updates.trial import Ruling, Tally, Verdict, judge
from shared.backoff import Backoff
from shared.clock import Clock
from shared.errors import (
    ContractError,
    IntegrityError,
    IsthmusError,
    RefusedError,
    TransientError,
)
from shared.release.receipt import ReceiptOutcome
from shared.wire.report import ModelReport, UpdateState
from shared.wire.target import TargetRelease

log = logging.getLogger(__name__)

_GAVE_UP = "It was begun too often: the process or the machine ended again and again."
_DIED = "The process or the machine ended during its trial."
_WITHDRAWN = "The Target no longer asked for it during its trial."
_RESTART_CODES = {UpdateState.FETCHING: "update.looping", UpdateState.STAGED: "proof.died"}


@dataclass(frozen=True, slots=True)
class Parts:
    """What every model's updater works with."""

    source: ReleaseSource
    journals: FileJournal
    slots: FileSlots
    prover: Prover
    receipts: ReceiptMaker
    clock: Clock
    retry_s_min: float
    retry_s_max: float


@dataclass(slots=True)
class _Trial:
    candidate: ProvenRelease
    tally: Tally
    began_s: float
    verdict: Verdict | None = None  # Once it is not CONTINUE; kept until it is written down


class ModelUpdater:
    """One model's update. See the rules above."""

    def __init__(self, active: ActiveModel, parts: Parts) -> None:
        """Args: the model's swap point, written by nobody else."""
        self.model = active.model
        self._active = active
        self._parts = parts
        self._journal = Journal(model=active.model)
        self._effect = Effect.REST
        self._settled: ProvenRelease | None = None  # In memory; what a trial goes back to
        self._candidate: ProvenRelease | None = None
        self._trial: _Trial | None = None
        self._undo_ms: int | None = None
        self._stored: Journal | None = None  # What the disk holds, as far as we know
        self._is_loaded = False
        self._is_resumed = False
        self._release: TargetRelease | None = None
        self._progress = 0.0
        self._backoff = Backoff(delay_s_min=parts.retry_s_min, delay_s_max=parts.retry_s_max)
        self._retry_at_s = 0.0

    # What others may ask

    @property
    def wants_fetch(self) -> bool:
        """Whether a fetch is next."""
        return self._effect is Effect.FETCH

    @property
    def is_due(self) -> bool:
        """Whether no retry is being waited for."""
        return self._parts.clock.monotonic_s() >= self._retry_at_s

    @property
    def is_under_watch(self) -> bool:
        """Whether a release is on that might have to be taken back at any moment."""
        return self._effect in (Effect.TRY, Effect.GO_BACK) and self._settled is not None

    @property
    def attempted_digest(self) -> str | None:
        """Return the manifest digest of the attempt under way."""
        attempt = self._journal.attempt
        return attempt.release.manifest_digest if attempt else None

    def report(self) -> ModelReport:
        """Return how this model stands. Any thread."""
        trial = self._trial
        return model_report(
            self._journal,
            self._active.line.serving,
            self._release,
            progress=self._progress,
            trial_items=trial.tally.items_count if trial else 0,
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
            self._active.swap(settled.loaded)
            if journal.receipt is not None:
                receipt = parts.receipts.renew(journal.receipt, settled)
                journal = msgspec.structs.replace(journal, receipt=receipt)
        self._journal, self._settled = journal, settled
        self._undo_ms = self._ms_since(began_s)

    def _restart(self) -> None:
        event = restart_event(self._journal)
        attempt = self._journal.attempt
        if attempt is None:
            if self._journal.settled is not None or self._journal.failure is not None:
                self._take(move(self._journal, event))
            return
        log.info(
            "update.resumed",
            extra={"model": self.model, "state": self._journal.state, "event_name": event},
        )
        match self._journal.state, event:
            case (UpdateState.FETCHING | UpdateState.STAGED) as state, Event.GAVE_UP:
                failure = failure_for(attempt.release, _RESTART_CODES[state], _GAVE_UP)
                self._take(refuse(self._journal, event, failure))
            case UpdateState.TRIAL, Event.RESTARTED_ALONE:
                self._take(start_proof(self._journal, event))
            case UpdateState.TRIAL, _:
                text = _GAVE_UP if event is Event.GAVE_UP else _DIED
                failure = failure_for(attempt.release, "trial.died", text)
                self._take(move(self._journal, event, failure=failure))
            case UpdateState.STAGED, _:
                self._take(start_proof(self._journal, event))
            case UpdateState.UNDOING, Event.GAVE_UP:
                self._end_undo(self._journal, event, receipt_from=None)
            case _:
                self._take(move(self._journal, event))

    # What the Target wishes

    def follow(self, release: TargetRelease | None, *, is_known: bool) -> None:
        """Begin what `release` asks for, if anything. Raises TransientError.

        Args: `is_known` is false while no Target was ever taken up: nobody has said anything.
        """
        self._release = release
        self._resume()
        event = next_event(release, self._journal) if is_known else None
        if event is None:
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
            self._progress = 0.0
            self._candidate = None
            self._take(begin(self._journal, event, release))
            self._retry_at_s = 0.0
            self._backoff.reset()
        elif event is Event.WITHDRAWN and self._journal.state is UpdateState.TRIAL:
            self._condemn(event, WITHDRAWN_CODE, _WITHDRAWN)
        elif event is Event.WITHDRAWN:
            self._candidate = None
            self._take(move(self._journal, event, attempt=None))
        else:
            self._take(move(self._journal, event))

    # Effects

    def fetch(self, stop: threading.Event) -> None:
        """Bring the attempt's release to the disk; ends early when `stop` is set."""
        attempt = self._attempt
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
        self._take(start_proof(self._journal, Event.FETCHED))

    def act(self) -> None:
        """Do what the last step left to do, except a fetch. Raises TransientError."""
        match self._effect:
            case Effect.REST | Effect.FETCH:
                pass
            case Effect.PROVE:
                self._prove()
            case Effect.TRY:
                self._try()
            case Effect.KEEP:
                self._active.dismiss_companion()
                self._effect = Effect.REST
            case Effect.GO_BACK:
                self._go_back()
            case Effect.ATTEST:
                self._attest()

    def put_off(self, error: TransientError) -> None:
        """Try again what raised `error`, after a while."""
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
            fetched = parts.source.fetch(release, folder, on_progress=self._on_progress, stop=stop)
        _check(fetched, release)
        parts.slots.sync(self.model, attempt.slot)

    def _on_progress(self, share: float) -> None:
        self._progress = share

    def _prove(self) -> None:
        attempt = self._attempt
        folder = self._parts.slots.path(self.model, attempt.slot)
        try:
            digest = attempt.release.manifest_digest
            candidate = self._parts.prover.prove(self.model, folder, digest)
        except RELEASE_ERRORS as error:
            self._refuse(Event.PROOF_FAILED, attempt, error)
            return
        self._candidate = candidate
        self._take(move(self._journal, Event.PROVED))
        self._try()

    def _try(self) -> None:
        trial = self._trial or self._begin_trial()
        clock, policy = self._parts.clock, self._attempt.release.trial
        trial.tally.add(self._active.take_comparisons())
        if trial.verdict is None:
            elapsed_s = clock.monotonic_s() - trial.began_s
            verdict = judge(trial.tally, policy, elapsed_s=elapsed_s)
            if verdict.ruling is Ruling.CONTINUE:
                return
            trial.verdict = verdict
        if trial.verdict.ruling is Ruling.SETTLE:
            self._settle(trial.candidate)
        else:
            self._condemn(Event.WORSE, trial.verdict.code, trial.verdict.text)

    def _begin_trial(self) -> _Trial:
        candidate, settled = self._candidate, self._settled
        assert candidate is not None, "a trial without a proved release"
        tally = Tally(
            version=candidate.loaded.version,
            beside=settled.loaded.version if settled else None,
        )
        # A first release runs beside itself: only what both did is told to us (trial.py, rule 7).
        companion = (settled or candidate).loaded
        self._undo_ms = None
        self._trial = _Trial(candidate, tally, self._parts.clock.monotonic_s())
        self._active.swap(candidate.loaded, companion=companion)
        log.info(
            "update.trial_began",
            extra={"model": self.model, "version": candidate.loaded.version},
        )
        return self._trial

    def _settle(self, candidate: ProvenRelease) -> None:
        attempt = self._attempt
        rollout = attempt.release.rollout
        receipt = self._parts.receipts.make(
            candidate, outcome=ReceiptOutcome.SETTLED, rollout=rollout
        )
        settled = SettledRelease(
            slot=attempt.slot,
            version=candidate.loaded.version,
            manifest_digest=candidate.loaded.manifest_digest,
            rollout=rollout,
        )
        self._take(settle(self._journal, settled, receipt))
        self._settled, self._candidate, self._trial = candidate, None, None
        log.info("update.settled", extra={"model": self.model, "version": settled.version})
        self.act()

    def _condemn(self, event: Event, code: str, text: str) -> None:
        """Take the release that is in its trial back. The way back does not wait for the disk."""
        began_s = self._parts.clock.monotonic_s()
        failure = failure_for(self._attempt.release, code, text)
        log.warning(
            "update.undoing",
            extra={"model": self.model, "version": failure.version, "code": code, "why": text},
        )
        try:
            self._take(move(self._journal, event, failure=failure))
        except TransientError:
            # The journal says TRIAL, which a restart undoes as well. Write UNDOING later.
            if self._trial is not None:
                self._trial.verdict = Verdict(Ruling.WORSE, code, text)
            self._swap_back(began_s)
            raise
        self._swap_back(began_s)
        self._go_back()

    def _swap_back(self, began_s: float | None = None) -> None:
        """Put the settled release on, or nothing where there is none; measure it the first time."""
        if self._settled is None:
            self._active.withdraw()
        elif self._active.line.serving is not self._settled.loaded:
            self._active.swap(self._settled.loaded)
        else:
            self._active.dismiss_companion()
        if self._undo_ms is None and began_s is not None:
            self._undo_ms = self._ms_since(began_s)

    def _go_back(self) -> None:
        self._swap_back()
        self._trial = self._candidate = None
        failure, settled = self._journal.failure, self._journal.settled
        if failure is not None:
            failure = msgspec.structs.replace(failure, undo_ms=self._undo_ms)
        journal = msgspec.structs.replace(self._journal, failure=failure)
        proven: ProvenRelease | None = None
        if settled is not None and self._settled is not None:
            folder = self._parts.slots.path(self.model, settled.slot)
            try:
                proven = self._parts.prover.prove_again(self._settled.loaded, folder)
            except RELEASE_ERRORS as error:
                # It goes on serving from memory; only the disk does not hold it any more.
                log.error("update.settled_lost", extra={"model": self.model, "code": error.code})
                journal = msgspec.structs.replace(lose(journal, error), failure=failure)
        self._end_undo(journal, Event.UNDONE, receipt_from=proven)

    def _end_undo(
        self, journal: Journal, event: Event, *, receipt_from: ProvenRelease | None
    ) -> None:
        attempt, failure = self._attempt, journal.failure
        changes: dict[str, object] = {"receipt": None, "receipt_rollout": None}
        if receipt_from is not None:
            rollout = attempt.release.rollout
            changes["receipt"] = self._parts.receipts.make(
                receipt_from, outcome=ReceiptOutcome.UNDONE, rollout=rollout
            )
            changes["receipt_rollout"] = rollout
        if failure is not None:
            changes["quarantine"] = quarantined(journal, attempt.release, failure)
        self._take(move(journal, event, attempt=None, **changes))
        log.info("update.undone", extra={"model": self.model, "version": self._serving_version})

    def _attest(self) -> None:
        settled, release = self._journal.settled, self._release
        assert settled is not None
        if release is None or self._settled is None:
            self._effect = Effect.REST
            return
        folder = self._parts.slots.path(self.model, settled.slot)
        try:
            proven = self._parts.prover.prove_again(self._settled.loaded, folder)
        except RELEASE_ERRORS as error:
            self._take((lose(self._journal, error), Effect.REST))
            return
        receipt = self._parts.receipts.make(
            proven, outcome=ReceiptOutcome.SETTLED, rollout=release.rollout
        )
        self._take(
            move(
                self._journal,
                Event.ATTESTED,
                receipt=receipt,
                receipt_rollout=release.rollout,
                settled=msgspec.structs.replace(settled, rollout=release.rollout),
            )
        )

    def _refuse(self, event: Event, attempt: Attempt, error: IsthmusError) -> None:
        failure = failure_of(attempt.release, error)
        log.warning(
            "update.refused",
            extra={"model": self.model, "version": failure.version, "code": failure.code},
        )
        self._take(refuse(self._journal, event, failure))
        self._candidate = None
        # After the journal: a cut in between leaves files that nobody believes.
        self._parts.slots.clear(self.model, attempt.slot)

    # Journal

    @property
    def _attempt(self) -> Attempt:
        attempt = self._journal.attempt
        assert attempt is not None
        return attempt

    @property
    def _serving_version(self) -> int:
        serving = self._active.line.serving
        return serving.version if serving else 0

    def _take(self, step: tuple[Journal, Effect]) -> None:
        """Write the next journal down; only then is it what holds. Raises TransientError."""
        journal, effect = step
        if journal != self._stored:
            self._parts.journals.write(journal)
        self._journal, self._stored, self._effect = journal, journal, effect

    def _ms_since(self, began_s: float) -> int:
        return max(0, int(1000 * (self._parts.clock.monotonic_s() - began_s)))


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
