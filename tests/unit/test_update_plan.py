"""What a Target means to what the journal says."""

import msgspec
import pytest

from edge_agent.updates.journal import (
    PROOFS_MAX,
    QUARANTINE_MAX,
    STORES_MAX,
    WITHDRAWN_CODE,
    Attempt,
    Journal,
    Quarantined,
    SettledRelease,
    Slot,
    begin,
    failure_for,
    quarantined,
    refuse,
    restart_event,
)
from edge_agent.updates.machine import Event
from edge_agent.updates.plan import next_event, release_for
from shared.wire.report import SignedReceipt, UpdateState
from shared.wire.target import Target, TargetRelease

OLD = TargetRelease(model="tones", version=1, manifest_digest="1" * 64, rollout="roll-1")
NEW = TargetRelease(model="tones", version=2, manifest_digest="2" * 64, rollout="roll-2")
NEWER = TargetRelease(model="tones", version=3, manifest_digest="3" * 64, rollout="roll-3")
SETTLED = SettledRelease(slot=Slot.A, version=1, manifest_digest="1" * 64, rollout="roll-1")
IDLE = Journal(
    model="tones",
    settled=SETTLED,
    receipt=SignedReceipt(payload=b"p", signature=b"s"),
    receipt_rollout="roll-1",
)
EMPTY = Journal(model="tones")
S = UpdateState


def attempting(state: UpdateState, base: Journal = IDLE) -> Journal:
    attempt = Attempt(release=NEW, slot=Slot.B)
    return msgspec.structs.replace(base, state=state, attempt=attempt)


def refused(*, rollout: str = "roll-2") -> Journal:
    release = msgspec.structs.replace(NEW, rollout=rollout)
    started = begin(IDLE, Event.TARGETED, release)[0]
    return refuse(started, Event.REJECTED, failure_for(release, "release.digest", "bad"))[0]


@pytest.mark.parametrize(
    ("release", "journal", "event"),
    [
        (None, EMPTY, None),
        (None, IDLE, None),
        (OLD, IDLE, None),
        (NEW, EMPTY, Event.TARGETED),
        (NEW, IDLE, Event.TARGETED),
        (msgspec.structs.replace(OLD, rollout="roll-9"), IDLE, Event.ASKED_AGAIN),
        (NEW, refused(), None),
        (NEW, refused(rollout="roll-before"), Event.TARGETED),
        (NEWER, refused(), Event.TARGETED),
        (OLD, refused(), Event.WITHDRAWN),
        (None, refused(), Event.WITHDRAWN),
        (NEW, attempting(S.FETCHING), None),
        (NEW, attempting(S.TRIAL), None),
        (NEWER, attempting(S.FETCHING), Event.RETARGETED),
        (NEWER, attempting(S.STAGED), Event.RETARGETED),
        (NEWER, attempting(S.TRIAL), Event.WITHDRAWN),
        (OLD, attempting(S.FETCHING), Event.WITHDRAWN),
        (OLD, attempting(S.TRIAL), Event.WITHDRAWN),
        (None, attempting(S.STAGED), Event.WITHDRAWN),
        (NEWER, attempting(S.UNDOING), None),
        (msgspec.structs.replace(NEW, rollout="roll-9"), attempting(S.TRIAL), None),
    ],
)
def test_next_event(release: TargetRelease | None, journal: Journal, event: Event | None) -> None:
    assert next_event(release, journal) == event


def test_a_quarantined_release_does_not_displace_another_attempt() -> None:
    bad = Quarantined(manifest_digest=NEWER.manifest_digest, rollout=NEWER.rollout)
    journal = msgspec.structs.replace(attempting(S.FETCHING), quarantine=(bad,))
    assert next_event(NEWER, journal) is Event.WITHDRAWN


def test_a_release_whose_trial_is_not_on_record_is_tried_again() -> None:
    untried = msgspec.structs.replace(SETTLED, is_tried=False)
    journal = Journal(model="tones", settled=untried)
    assert next_event(OLD, journal) is Event.TARGETED


def test_an_attempt_never_takes_the_settled_slot() -> None:
    for slot in Slot:
        journal = Journal(model="tones", settled=msgspec.structs.replace(SETTLED, slot=slot))
        attempt = begin(journal, Event.TARGETED, NEW)[0].attempt
        assert attempt is not None
        assert attempt.slot is slot.other
    with pytest.raises(ValueError, match="settled slot"):
        msgspec.structs.replace(IDLE, state=S.TRIAL, attempt=Attempt(release=NEW, slot=Slot.A))


@pytest.mark.parametrize(("rollout", "is_kept"), [("roll-2", False), ("roll-9", True)])
def test_another_chance_in_the_same_rollout_begins_without_its_failure(
    rollout: str, is_kept: bool
) -> None:
    failure = failure_for(NEW, WITHDRAWN_CODE, "")
    journal = msgspec.structs.replace(IDLE, failure=failure)
    release = msgspec.structs.replace(NEW, rollout=rollout)
    begun = begin(journal, Event.TARGETED, release)[0]
    assert begun.failure == (failure if is_kept else None)


def test_quarantine_is_bounded_and_keeps_the_newest() -> None:
    journal = EMPTY
    for version in range(1, QUARANTINE_MAX + 5):
        release = msgspec.structs.replace(NEW, version=version, manifest_digest=f"{version:064x}")
        entries = quarantined(journal, release, failure_for(release, "trial.slow", ""))
        journal = msgspec.structs.replace(journal, quarantine=entries)
    assert len(journal.quarantine) == QUARANTINE_MAX
    assert journal.is_quarantined(f"{QUARANTINE_MAX + 4:064x}", NEW.rollout)
    assert not journal.is_quarantined(f"{1:064x}")


def test_what_the_hub_took_back_is_not_quarantined() -> None:
    assert quarantined(EMPTY, NEW, failure_for(NEW, WITHDRAWN_CODE, "")) == ()


@pytest.mark.parametrize(
    ("state", "settled", "proofs", "stores", "event"),
    [
        (S.FETCHING, SETTLED, 0, STORES_MAX - 1, Event.RESTARTED),
        (S.FETCHING, SETTLED, 0, STORES_MAX, Event.GAVE_UP),
        (S.STAGED, SETTLED, PROOFS_MAX - 1, 5, Event.RESTARTED),
        (S.STAGED, SETTLED, PROOFS_MAX, 5, Event.GAVE_UP),
        (S.TRIAL, SETTLED, PROOFS_MAX, 5, Event.RESTARTED),
        (S.TRIAL, None, PROOFS_MAX - 1, 5, Event.RESTARTED_ALONE),
        (S.TRIAL, None, PROOFS_MAX, 5, Event.GAVE_UP),
        (S.UNDOING, SETTLED, PROOFS_MAX, 5, Event.RESTARTED),
        (S.UNDOING, SETTLED, 1, STORES_MAX, Event.GAVE_UP),
    ],
)
def test_restarts_are_counted(
    state: UpdateState, settled: SettledRelease | None, proofs: int, stores: int, event: Event
) -> None:
    attempt = Attempt(release=NEW, slot=Slot.B, proofs_count=proofs, stores_count=stores)
    journal = Journal(model="tones", state=state, settled=settled, attempt=attempt)
    assert restart_event(journal) is event


@pytest.mark.parametrize("state", [S.IDLE, S.REFUSED])
def test_a_restart_at_rest_is_nothing(state: UpdateState) -> None:
    assert restart_event(Journal(model="tones", state=state)) is Event.RESTARTED


def test_the_first_of_two_releases_of_one_model_counts() -> None:
    target = Target(revision=1, issued_ms=0, releases=(OLD, NEW))
    assert release_for("tones", target) == OLD
    assert release_for("other", target) is None
    assert release_for("tones", None) is None
