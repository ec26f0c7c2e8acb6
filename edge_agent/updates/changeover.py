"""Changeover: from a proved release to one that is settled, or back to the one before.

1. A trial swaps the candidate in with the settled release beside it; the judgement is trial.py's.
2. A step is on the disk before what it leads to is done; only the way back to the settled release
   does not wait for the disk.
3. How long the way back took (`undo_ms`) is measured once: from deciding to the swap.

What must not live here: how a release gets to the device (model_updater.py).
"""

import logging
from dataclasses import dataclass

import msgspec

from edge_agent.inference.active_model import ActiveModel
from edge_agent.updates.journal import (
    Journal,
    SettledRelease,
    condemn,
    failure_for,
    move,
    quarantined,
    settle,
)
from edge_agent.updates.machine import Effect, Event
from edge_agent.updates.parts import Parts
from edge_agent.updates.proving import ProvenRelease
from edge_agent.updates.starting import RELEASE_ERRORS, lose
from edge_agent.updates.steps import Steps
from edge_agent.updates.trial import Ruling, Tally, Verdict, judge
from shared.errors import TransientError
from shared.release.receipt import ReceiptOutcome
from shared.wire.target import TargetRelease

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Trial:
    candidate: ProvenRelease
    tally: Tally
    began_s: float
    verdict: Verdict | None = None  # Once it is not CONTINUE; kept until it is written down


class Changeover:
    """See the rules above. One thread; `trial_items` is read by any."""

    def __init__(self, active: ActiveModel, parts: Parts, steps: Steps) -> None:
        """Args: the model's swap point, written by nobody else."""
        self._active, self._parts, self._steps = active, parts, steps
        self.settled: ProvenRelease | None = None  # In memory; what a trial goes back to
        self.candidate: ProvenRelease | None = None  # Proved, and not settled yet
        self.undo_ms: int | None = None
        self._trial: _Trial | None = None

    @property
    def trial_items(self) -> int:
        """Return how many items the trial under way has seen."""
        trial = self._trial
        return trial.tally.items_count if trial else 0

    def serve(self, settled: ProvenRelease) -> None:
        """Put on what was settled before this process began."""
        self._active.swap(settled.loaded)
        self.settled = settled

    def keep(self) -> None:
        """Run nothing beside the release that has settled."""
        self._active.dismiss_companion()
        self._steps.rest()

    def try_out(self) -> None:
        """Put the candidate on trial if it is not; judge what came of it so far."""
        trial = self._trial or self._begin_trial()
        clock, policy = self._parts.clock, self._steps.attempt.release.trial
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
            self.condemn(Event.WORSE, trial.verdict.code, trial.verdict.text)

    def _begin_trial(self) -> _Trial:
        candidate, settled = self.candidate, self.settled
        assert candidate is not None, "a trial without a proved release"
        tally = Tally(
            version=candidate.loaded.version,
            beside=settled.loaded.version if settled else None,
        )
        # A first release runs beside itself: only what both did is told to us (trial.py, rule 7).
        companion = (settled or candidate).loaded
        self.undo_ms = None
        self._trial = _Trial(candidate, tally, self._parts.clock.monotonic_s())
        self._active.swap(candidate.loaded, companion=companion)
        log.info(
            "update.trial_began",
            extra={"model": self._active.model, "version": candidate.loaded.version},
        )
        return self._trial

    def _settle(self, candidate: ProvenRelease) -> None:
        attempt = self._steps.attempt
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
        self._steps.take(settle(self._steps.journal, settled, receipt))
        self.settled, self.candidate, self._trial = candidate, None, None
        log.info("update.settled", extra={"model": self._active.model, "version": settled.version})
        self.keep()

    def condemn(self, event: Event, code: str, text: str) -> None:
        """Take the release that is in its trial back. The way back does not wait for the disk."""
        began_s = self._parts.clock.monotonic_s()
        failure = failure_for(self._steps.attempt.release, code, text)
        log.warning(
            "update.undoing",
            extra={
                "model": self._active.model,
                "version": failure.version,
                "code": code,
                "why": text,
            },
        )
        try:
            self._steps.take(condemn(self._steps.journal, event, failure))
        except TransientError:
            # The journal says TRIAL, which a restart undoes as well. Write UNDOING later.
            if self._trial is not None:
                self._trial.verdict = Verdict(Ruling.WORSE, code, text)
            self._swap_back(began_s)
            raise
        self._swap_back(began_s)
        self.go_back()

    def _swap_back(self, began_s: float | None = None) -> None:
        """Put the settled release on, or nothing where there is none; measure it the first time."""
        if self.settled is None:
            self._active.withdraw()
        elif self._active.line.serving is not self.settled.loaded:
            self._active.swap(self.settled.loaded)
        else:
            self._active.dismiss_companion()
        if self.undo_ms is None and began_s is not None:
            self.undo_ms = self._ms_since(began_s)

    def go_back(self) -> None:
        """Put the settled release on again and prove it once more. Raises TransientError."""
        self._swap_back()
        self._trial = self.candidate = None
        failure, settled = self._steps.journal.failure, self._steps.journal.settled
        if failure is not None and self._steps.attempt.refit is None:
            failure = msgspec.structs.replace(failure, undo_ms=self.undo_ms)
        journal = msgspec.structs.replace(self._steps.journal, failure=failure)
        proven: ProvenRelease | None = None
        if settled is not None and self.settled is not None:
            folder = self._parts.slots.path(self._active.model, settled.slot)
            try:
                proven = self._parts.prover.prove_again(self.settled.loaded, folder)
            except RELEASE_ERRORS as error:
                # It goes on serving from memory; only the disk does not hold it any more.
                log.error(
                    "update.settled_lost", extra={"model": self._active.model, "code": error.code}
                )
                journal = msgspec.structs.replace(lose(journal, error), failure=failure)
        self.end_undo(journal, Event.UNDONE, receipt_from=proven)

    def end_undo(
        self, journal: Journal, event: Event, *, receipt_from: ProvenRelease | None
    ) -> None:
        """Write down that the way back is over; a receipt is made of what was proved, if any."""
        attempt, failure = self._steps.attempt, journal.failure
        if attempt.refit is not None:
            # What has settled goes on, with the receipt that it has.
            refused = attempt.refit if attempt.refit.why else None
            self._steps.take(move(journal, event, attempt=None, refused_refit=refused))
            return
        changes: dict[str, object] = {"receipt": None, "receipt_rollout": None}
        if receipt_from is not None:
            rollout = attempt.release.rollout
            changes["receipt"] = self._parts.receipts.make(
                receipt_from, outcome=ReceiptOutcome.UNDONE, rollout=rollout
            )
            changes["receipt_rollout"] = rollout
        if failure is not None:
            changes["quarantine"] = quarantined(journal, attempt.release, failure)
        self._steps.take(move(journal, event, attempt=None, **changes))
        log.info(
            "update.undone", extra={"model": self._active.model, "version": self._serving_version}
        )

    def attest(self, release: TargetRelease | None) -> None:
        """Prove the settled release for the rollout of `release`. Raises TransientError."""
        settled = self._steps.journal.settled
        assert settled is not None
        if release is None or self.settled is None:
            self._steps.rest()
            return
        folder = self._parts.slots.path(self._active.model, settled.slot)
        try:
            proven = self._parts.prover.prove_again(self.settled.loaded, folder)
        except RELEASE_ERRORS as error:
            self._steps.take((lose(self._steps.journal, error), Effect.REST))
            return
        receipt = self._parts.receipts.make(
            proven, outcome=ReceiptOutcome.SETTLED, rollout=release.rollout
        )
        self._steps.take(
            move(
                self._steps.journal,
                Event.ATTESTED,
                receipt=receipt,
                receipt_rollout=release.rollout,
                settled=msgspec.structs.replace(settled, rollout=release.rollout),
            )
        )

    @property
    def _serving_version(self) -> int:
        serving = self._active.line.serving
        return serving.version if serving else 0

    def _ms_since(self, began_s: float) -> int:
        return max(0, int(1000 * (self._parts.clock.monotonic_s() - began_s)))
