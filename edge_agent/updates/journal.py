"""Journal: what the device has written down about one model, and how each step changes it.

1. A journal is a value; `move` returns the next one and leaves this one as it is.
2. The settled slot is never the attempt's slot: what runs is not written to.
3. An attempt counts how often it was stored and how often its proof began. At STORES_MAX and
   PROOFS_MAX a restart gives up, so that nothing loops for ever.
4. A release that was refused or undone is remembered with the rollout that asked for it
   (QUARANTINE_MAX of them, newest kept) and is not tried again for that rollout.
5. A change of variant that fails (`refit`) is no failure of the release: what has settled goes on
   with its receipt, nothing is quarantined, and it is remembered under which limits it failed.

What must not live here: files, time.
"""

from enum import StrEnum
from typing import Annotated

import msgspec
from msgspec import UNSET, Meta, UnsetType

from edge_agent.updates.machine import Effect, Event, advance
from shared.errors import IsthmusError
from shared.pipeline.pipeline import PipelineLimits
from shared.wire.fit import FitHint, FitReport
from shared.wire.limits import Count, Digest, Name, Version
from shared.wire.report import Failure, SignedReceipt, UpdateState
from shared.wire.target import TargetRelease

QUARANTINE_MAX = 16
STORES_MAX = 64  # Journal writes in one attempt; four are enough when nothing restarts.
PROOFS_MAX = 3  # Processes in which one attempt may be loaded and proved.
STARTS_MAX = 5  # Processes that may die while loading the settled release.
TEXT_CHARS_MAX = 2000
WITHDRAWN_CODE = "trial.withdrawn"  # The hub's own wish: not the release's fault, no quarantine.
UNKNOWN_DIGEST = "0" * 64  # Stands in a Failure where nobody knows any more which release it was.
UNKNOWN_ROLLOUT = "unknown"


class Slot(StrEnum):
    """Where a release lies on the disk."""

    A = "A"
    B = "B"

    @property
    def other(self) -> "Slot":
        """Return the other one."""
        return Slot.B if self is Slot.A else Slot.A


class SettledRelease(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the device runs and goes back to."""

    slot: Slot
    version: Version
    manifest_digest: Digest
    rollout: Name
    is_tried: bool = True  # False: found on the disk and proved, but its trial is not on record


class RefitStep(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A change of the settled release's variant, because the pipelines' limits changed."""

    limits: PipelineLimits
    fit: FitReport | None = None  # The stored table with its new choice; None: measured anew
    why: Annotated[str, Meta(max_length=TEXT_CHARS_MAX)] = ""  # Once it failed: what kept it


class Attempt(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A release on its way to being settled."""

    release: TargetRelease
    slot: Slot
    stores_count: Count = 0
    proofs_count: Count = 0
    # Why the choice of equal devices did not hold here; its variants are then measured anew.
    unconfirmed: Annotated[str, Meta(max_length=TEXT_CHARS_MAX)] = ""
    refit: RefitStep | None = None  # The release is the settled one, run another way


class Quarantined(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A release that is not tried again for this rollout."""

    manifest_digest: Digest
    rollout: Name


_ATTEMPTING = {
    UpdateState.FETCHING,
    UpdateState.STAGED,
    UpdateState.TRIAL,
    UpdateState.UNDOING,
}


class Journal(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything that must survive a power cut."""

    schema: Annotated[int, Meta(ge=1, le=1)] = 1
    model: Name
    state: UpdateState = UpdateState.IDLE
    settled: SettledRelease | None = None
    attempt: Attempt | None = None
    failure: Failure | None = None
    receipt: SignedReceipt | None = None  # For the settled release
    receipt_rollout: Name | None = None  # The rollout that the receipt answers
    quarantine: Annotated[tuple[Quarantined, ...], Meta(max_length=QUARANTINE_MAX)] = ()
    refused_refit: RefitStep | None = None  # Not tried again under these limits
    starts_count: Count = 0  # Processes since the last one that got to serve

    def __post_init__(self) -> None:
        """Refuse what no step of ours leads to: such a file is damaged."""
        if (self.attempt is not None) != (self.state in _ATTEMPTING):
            raise ValueError(f"state {self.state} does not go with attempt {self.attempt}")
        if (self.receipt is None) != (self.receipt_rollout is None):
            raise ValueError("a receipt without its rollout, or a rollout without its receipt")
        if self.attempt and self.settled and self.attempt.slot is self.settled.slot:
            raise ValueError("the attempt is in the settled slot")

    @property
    def free_slot(self) -> Slot:
        """Return the slot that may be written to."""
        return self.settled.slot.other if self.settled else Slot.A

    def is_quarantined(self, manifest_digest: str, rollout: str | None = None) -> bool:
        """Return whether a release is not to be tried, for `rollout` (None: for any)."""
        return any(
            entry.manifest_digest == manifest_digest and rollout in (None, entry.rollout)
            for entry in self.quarantine
        )


def move(journal: Journal, event: Event, **changes: object) -> tuple[Journal, Effect]:
    """Return the journal after `event`, with other fields changed, and what is to be done.

    Raises UnavailableError `update.bug` for an event that the table does not know.
    """
    step = advance(journal.state, event)
    moved = msgspec.structs.replace(journal, state=step.state, **changes)
    if moved.attempt is not None:
        stored = msgspec.structs.replace(moved.attempt, stores_count=moved.attempt.stores_count + 1)
        moved = msgspec.structs.replace(moved, attempt=stored)
    return moved, step.effect


def begin(journal: Journal, event: Event, release: TargetRelease) -> tuple[Journal, Effect]:
    """Return the journal after TARGETED or RETARGETED: a fresh attempt in the free slot.

    An earlier failure of the same release in the same rollout is over: it gets another chance.
    """
    attempt = Attempt(release=release, slot=journal.free_slot)
    failure = journal.failure
    if failure and (failure.manifest_digest, failure.rollout) == (
        release.manifest_digest,
        release.rollout,
    ):
        failure = None
    return move(journal, event, attempt=attempt, failure=failure)


def begin_refit(
    journal: Journal, release: TargetRelease, refit: RefitStep, *, why: str
) -> tuple[Journal, Effect]:
    """Return the journal after REFITTED: the settled release, once more, in the free slot.

    Args: why: what made it necessary, for the table.
    """
    hint: FitHint | UnsetType = UNSET
    row = refit.fit.chosen if refit.fit else None
    if row is not None:
        hint = FitHint(
            precision=row.precision,
            backend=row.backend,
            threads=row.threads,
            run_ms_p50=row.run_ms_p50,
            devices_count=1,
        )
    wanted = msgspec.structs.replace(release, fit_hint=hint)
    attempt = Attempt(
        release=wanted,
        slot=journal.free_slot,
        refit=refit,
        unconfirmed=why[:TEXT_CHARS_MAX],
    )
    return move(journal, Event.REFITTED, attempt=attempt, refused_refit=None)


def condemn(journal: Journal, event: Event, failure: Failure) -> tuple[Journal, Effect]:
    """Return the journal after an event that ends a trial badly; see rule 5."""
    attempt = journal.attempt
    assert attempt is not None
    if attempt.refit is None:
        return move(journal, event, failure=failure)
    if failure.code == WITHDRAWN_CODE:
        return move(journal, event)
    return move(
        journal,
        event,
        attempt=msgspec.structs.replace(attempt, refit=_failed(attempt.refit, failure)),
    )


def _failed(refit: RefitStep, failure: Failure) -> RefitStep:
    why = f"{failure.text} [{failure.code}]"[:TEXT_CHARS_MAX]
    return msgspec.structs.replace(refit, fit=None, why=why)


def start_proof(journal: Journal, event: Event, **changes: object) -> tuple[Journal, Effect]:
    """Return the journal after an event that leads to STAGED: one proof more."""
    attempt = journal.attempt
    assert attempt is not None
    counted = msgspec.structs.replace(attempt, proofs_count=attempt.proofs_count + 1)
    return move(journal, event, attempt=counted, **changes)


def need_every_variant(journal: Journal, why: str) -> tuple[Journal, Effect]:
    """Return the journal after a hint did not hold here: the release is wanted without it."""
    attempt = journal.attempt
    assert attempt is not None
    unhinted = msgspec.structs.replace(attempt.release, fit_hint=UNSET)
    anew = msgspec.structs.replace(attempt, release=unhinted, unconfirmed=why)
    return move(journal, Event.UNCONFIRMED, attempt=anew)


def refuse(journal: Journal, event: Event, failure: Failure) -> tuple[Journal, Effect]:
    """Return the journal after the attempt ended without having served."""
    assert journal.attempt is not None
    refit = journal.attempt.refit
    if refit is not None:
        return move(journal, event, attempt=None, refused_refit=_failed(refit, failure))
    quarantine = quarantined(journal, journal.attempt.release, failure)
    return move(journal, event, attempt=None, failure=failure, quarantine=quarantine)


def settle(
    journal: Journal, settled: SettledRelease, receipt: SignedReceipt
) -> tuple[Journal, Effect]:
    """Return the journal after a trial went well: the attempt's slot is the settled one."""
    others = tuple(
        entry for entry in journal.quarantine if entry.manifest_digest != settled.manifest_digest
    )
    return move(
        journal,
        Event.SETTLED,
        settled=settled,
        attempt=None,
        failure=None,
        receipt=receipt,
        receipt_rollout=settled.rollout,
        quarantine=others,
        refused_refit=None,
    )


def quarantined(
    journal: Journal, release: TargetRelease, failure: Failure
) -> tuple[Quarantined, ...]:
    """Return the quarantine with `release` added, oldest dropped past its limit."""
    if failure.code == WITHDRAWN_CODE:
        return journal.quarantine
    entry = Quarantined(manifest_digest=release.manifest_digest, rollout=release.rollout)
    others = tuple(known for known in journal.quarantine if known != entry)
    return (*others, entry)[-QUARANTINE_MAX:]


def restart_event(journal: Journal) -> Event:
    """Return what a start of the process means to this journal."""
    attempt = journal.attempt
    if attempt is None:
        return Event.RESTARTED
    if attempt.stores_count >= STORES_MAX:
        return Event.GAVE_UP
    is_alone_in_trial = journal.state is UpdateState.TRIAL and journal.settled is None
    needs_proof = journal.state is UpdateState.STAGED or is_alone_in_trial
    if needs_proof and attempt.proofs_count >= PROOFS_MAX:
        return Event.GAVE_UP
    return Event.RESTARTED_ALONE if is_alone_in_trial else Event.RESTARTED


def failure_of(release: TargetRelease, error: IsthmusError) -> Failure:
    """Return why `release` was not kept, from the error that said so."""
    return failure_for(release, error.code, str(error))


def failure_for(release: TargetRelease, code: str, text: str) -> Failure:
    """Return why `release` was not kept."""
    return Failure(
        version=release.version,
        manifest_digest=release.manifest_digest,
        rollout=release.rollout,
        code=code,
        text=text[:TEXT_CHARS_MAX],
    )
