"""An updater that starts on what another process left: whole, damaged, or in the middle."""

import json
from pathlib import Path

import pytest

from edge_agent.updates.journal import PROOFS_MAX, STARTS_MAX, STORES_MAX, Slot
from shared.errors import TransientError
from shared.release.receipt import ReceiptOutcome
from shared.wire.report import UpdateState
from tests.support.release_peer import ReleasePeer
from tests.support.tiny_releases import Kind, publish
from tests.support.updater_bench import Bench

RESTARTS = 5


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state"


def journal_path(state: Path) -> Path:
    return state / "journal" / "tones.json"


def model_path(state: Path, slot: Slot) -> Path:
    return state / "releases" / "tones" / slot / "model.onnx"


def rot(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(bytes(data))


def offline(state: Path, store: Path) -> Bench:
    """Return a started device whose link is down."""
    peer = ReleasePeer(store)
    peer.unreachable.add("tones")
    return Bench(state, store, peer=peer).start()


def lived(state: Path, store: Path, *, versions: int = 1) -> Bench:
    """Return a device that settled on releases 1 to `versions`, each after the other."""
    bench = Bench(state, store).start()
    for version in range(1, versions + 1):
        bench.target(publish(store, version=version, kind=Kind.GOOD), revision=version)
        bench.settle()
        assert bench.serving == version
    return bench


class PowerLoss(BaseException):
    """The process is gone; nothing catches it."""


def dying_at(state: Path, store: Path, act: str) -> Bench:
    """Return a bench whose process dies at the first act of this name."""

    def cut(name: str) -> None:
        if name == act:
            raise PowerLoss

    return Bench(state, store, cut=cut)


def die(bench: Bench) -> None:
    with pytest.raises(PowerLoss):
        bench.start().settle()


def test_start_serves_before_any_network(state: Path, store: Path) -> None:
    receipt = lived(state, store, versions=2).model.receipt
    bench = offline(state, store)
    assert bench.serving == 2
    bench.settle()
    assert bench.model.receipt == receipt
    assert bench.updater.target is not None
    assert bench.updater.target.revision == 2
    assert bench.journal.starts_count == 0


def test_changed_settings_are_proved_by_a_fresh_receipt(state: Path, store: Path) -> None:
    before = lived(state, store).receipt
    changed = Bench(state, store, config="changed").start()
    changed.settle()
    after = changed.receipt
    assert before is not None
    assert after is not None
    assert before.config_digest != after.config_digest
    assert (before.version, before.rollout, before.outcome) == (
        after.version,
        after.rollout,
        after.outcome,
    )
    assert changed.journal.receipt == changed.model.receipt


def test_power_loss_during_a_trial_undoes_the_new_release(state: Path, store: Path) -> None:
    first = lived(state, store)
    second = publish(store, version=2, kind=Kind.BETTER)
    first.target(second, revision=2)
    first.step()
    assert first.journal.state is UpdateState.TRIAL
    bench = offline(state, store)
    assert bench.serving == 1
    assert bench.model.state is UpdateState.UNDOING
    bench.settle()
    assert bench.serving == 1
    assert bench.model.failure is not None
    assert bench.model.failure.code == "trial.died"
    assert bench.model.failure.undo_ms is not None
    assert bench.receipt is not None
    assert bench.receipt.outcome is ReceiptOutcome.UNDONE


def test_a_first_release_that_kills_its_process_is_given_up(state: Path, store: Path) -> None:
    publishing = publish(store, version=1, kind=Kind.GOOD)
    fresh = dying_at(state, store, "after swap")
    fresh.target(publishing, revision=1)
    die(fresh)
    for _ in range(PROOFS_MAX - 1):
        die(dying_at(state, store, "after swap"))
    bench = Bench(state, store).start()
    bench.settle()
    assert bench.serving == 0
    assert bench.model.failure is not None
    assert bench.model.failure.code == "trial.died"
    assert len(bench.peer.fetches) == 0


def test_a_release_that_kills_its_process_while_it_loads_is_refused(
    state: Path, store: Path
) -> None:
    lived(state, store).target(publish(store, version=2, kind=Kind.BETTER), revision=2)
    loads = {"count": 0}

    def cut(name: str) -> None:
        loads["count"] += name == "before load"
        if loads["count"] == 2:  # The first is of the settled release.
            raise PowerLoss

    for attempt in range(PROOFS_MAX):
        loads["count"] = 0
        bench = Bench(state, store, cut=cut)
        if attempt == 0:
            bench.target(publish(store, version=2, kind=Kind.BETTER), revision=2)
        die(bench)
    bench = Bench(state, store).start()
    bench.settle()
    assert bench.serving == 1
    assert bench.model.state is UpdateState.REFUSED
    assert bench.model.failure is not None
    assert bench.model.failure.code == "proof.died"


def test_a_fetch_that_outlives_too_many_restarts_is_refused(state: Path, store: Path) -> None:
    bench = lived(state, store)
    bench.target(publish(store, version=2, kind=Kind.BETTER), revision=2)
    bench.peer.errors = [TransientError("link.down", "No answer.")]
    bench.step()
    counts = []
    for _ in range(RESTARTS):
        attempt = offline(state, store).journal.attempt
        assert attempt is not None
        counts.append(attempt.stores_count)
    assert counts == sorted(set(counts)), "every restart counts"
    # As dozens more of them leave it.
    left = json.loads(journal_path(state).read_bytes())
    left["attempt"]["stores_count"] = STORES_MAX - 2
    journal_path(state).write_text(json.dumps(left))
    assert offline(state, store).model.state is not UpdateState.REFUSED
    for _ in range(2):
        bench = offline(state, store)
    assert bench.serving == 1
    assert bench.model.state is UpdateState.REFUSED
    assert bench.model.failure is not None
    assert bench.model.failure.code == "update.looping"


def test_rotten_settled_slot_falls_back_to_the_other_one(state: Path, store: Path) -> None:
    settled = lived(state, store, versions=2).journal.settled
    assert settled is not None
    rot(model_path(state, settled.slot))
    bench = offline(state, store)
    assert bench.serving == 1
    assert bench.model.failure is not None
    assert (bench.model.failure.version, bench.model.failure.code) == (2, "release.digest")
    assert bench.model.receipt is None, "its trial is not on record"
    assert not bench.slots.holds_files("tones", settled.slot)


def test_a_whole_release_that_is_not_the_settled_one_is_not_served(
    state: Path, store: Path
) -> None:
    lived(state, store)
    other = publish(store, version=2, kind=Kind.DAMAGED)
    for file in (store / other.manifest_digest).iterdir():
        (state / "releases" / "tones" / Slot.A / file.name).write_bytes(file.read_bytes())
    bench = offline(state, store)
    assert bench.serving == 0
    assert bench.model.failure is not None
    assert bench.model.failure.code == "release.digest"


def test_a_slot_that_cannot_be_read_now_is_read_later(state: Path, store: Path) -> None:
    before = lived(state, store).journal
    peer = ReleasePeer(store)
    peer.reopen_errors = [OSError(24, "Too many open files")]
    bench = Bench(state, store, peer=peer).start()
    assert bench.serving == 0
    assert bench.journal.settled == before.settled
    bench.clock.advance(1.0)  # type: ignore[attr-defined]
    bench.settle()
    assert bench.serving == 1
    assert bench.journal == before
    assert peer.fetches == []


def test_what_was_lost_is_fetched_again_and_tried(state: Path, store: Path) -> None:
    settled = lived(state, store, versions=2).journal.settled
    assert settled is not None
    rot(model_path(state, settled.slot))
    bench = Bench(state, store).start()
    bench.settle()
    assert bench.serving == 2
    assert bench.receipt is not None
    assert bench.model.failure is None


def test_rotten_only_slot_is_reported_and_fetched_again(state: Path, store: Path) -> None:
    lived(state, store)
    rot(model_path(state, Slot.A))
    bench = Bench(state, store).start()
    assert bench.serving == 0
    assert bench.model.failure is not None
    assert bench.model.failure.code == "release.digest"
    bench.settle()
    assert bench.serving == 1
    assert bench.receipt is not None


def test_a_quarantined_release_is_never_fallen_back_to(state: Path, store: Path) -> None:
    bench = lived(state, store)
    bench.target(publish(store, version=2, kind=Kind.DAMAGED), revision=2)
    bench.settle()
    rot(model_path(state, Slot.A))
    again = offline(state, store)
    assert again.serving == 0


@pytest.mark.parametrize(
    "content", [b"", b"{", b"\xff\xfe", b"[]", b'{"schema": 99}', b"x" * 300_000]
)
def test_damaged_journal_falls_back_to_a_slot_that_proves_itself(
    state: Path, store: Path, content: bytes
) -> None:
    lived(state, store)
    journal_path(state).write_bytes(content)
    bench = Bench(state, store).start()
    assert bench.serving == 1
    assert bench.model.failure is not None
    assert bench.model.failure.code == "journal.corrupt"
    assert bench.model.receipt is None
    assert journal_path(state).with_suffix(".unreadable").read_bytes() == content
    bench.settle()
    assert bench.serving == 1
    assert bench.receipt is not None
    assert len(bench.peer.fetches) == 1, "it was not tried again"


def test_missing_journal_is_a_damaged_one(state: Path, store: Path) -> None:
    lived(state, store)
    journal_path(state).unlink()
    bench = offline(state, store)
    assert bench.serving == 1
    assert bench.model.failure is not None
    assert bench.model.failure.code == "journal.missing"


def test_impossible_journal_is_a_damaged_one(state: Path, store: Path) -> None:
    lived(state, store)
    journal = json.loads(journal_path(state).read_text())
    journal["state"] = "trial"  # Without an attempt
    journal_path(state).write_text(json.dumps(journal))
    bench = offline(state, store)
    assert bench.serving == 1
    assert bench.model.state is UpdateState.IDLE


def test_damaged_journal_with_two_good_slots_serves_the_lower_version(
    state: Path, store: Path
) -> None:
    lived(state, store, versions=2)
    journal_path(state).write_bytes(b"?")
    bench = offline(state, store)
    assert bench.serving == 1


def test_damaged_journal_and_rotten_slots_leave_nothing_but_a_reason(
    state: Path, store: Path
) -> None:
    lived(state, store, versions=2)
    journal_path(state).write_bytes(b"?")
    for slot in Slot:
        rot(model_path(state, slot))
    bench = offline(state, store)
    assert (bench.serving, bench.model.version) == (0, 0)
    assert bench.model.state is UpdateState.IDLE
    assert bench.model.failure is not None
    assert bench.model.failure.code == "journal.corrupt"


def test_damaged_target_is_waited_for_again(state: Path, store: Path) -> None:
    lived(state, store)
    (state / "target.json").write_bytes(b"{")
    bench = Bench(state, store).start()
    bench.settle()
    assert bench.serving == 1
    assert bench.updater.target is None


def test_a_settled_release_that_kills_every_process_is_given_up(state: Path, store: Path) -> None:
    lived(state, store, versions=2)
    for _ in range(STARTS_MAX):
        with pytest.raises(PowerLoss):
            dying_at(state, store, "before load").start()
    bench = offline(state, store)
    assert bench.serving == 1
    assert bench.model.failure is not None
    assert (bench.model.failure.version, bench.model.failure.code) == (2, "start.crashed")


def test_slot_that_rots_during_a_trial_still_serves_from_memory(state: Path, store: Path) -> None:
    bench = lived(state, store)
    bench.target(publish(store, version=2, kind=Kind.DAMAGED), revision=2)
    bench.step()
    rot(model_path(state, Slot.A))
    bench.settle()
    assert bench.serving == 1
    assert bench.model.receipt is None, "it could not prove itself"
    assert bench.model.failure is not None
    assert bench.model.failure.code == "trial.disagreement"
    assert bench.journal.settled is None
    assert bench.journal.is_quarantined(bench.model.failure.manifest_digest)
    bench.target(publish(store, version=1, kind=Kind.GOOD), revision=3)
    bench.settle()
    assert bench.receipt is not None
    assert bench.receipt.version == 1


def test_a_disk_that_takes_nothing_does_not_hold_up_an_undo(state: Path, store: Path) -> None:
    lived(state, store)
    full = {"is_full": False}

    def cut(name: str) -> None:
        if full["is_full"] and name.startswith("before journal"):
            raise TransientError("disk.write_failed", "The disk is full.")

    bench = Bench(state, store, cut=cut).start()
    bench.target(publish(store, version=2, kind=Kind.DAMAGED), revision=2)
    bench.step()
    assert bench.serving == 2
    full["is_full"] = True
    bench.step(items=30)
    bench.step()
    assert bench.serving == 1
    assert bench.journal.state is UpdateState.TRIAL
    full["is_full"] = False
    bench.clock.advance(60.0)  # type: ignore[attr-defined]
    bench.settle()
    assert bench.serving == 1
    assert bench.journal.state is UpdateState.IDLE
    assert bench.model.failure is not None
    assert bench.model.failure.code == "trial.disagreement"


def test_a_disk_that_takes_nothing_does_not_hold_up_serving(state: Path, store: Path) -> None:
    lived(state, store)

    def cut(name: str) -> None:
        if name.startswith("before journal"):
            raise TransientError("disk.write_failed", "The disk is full.")

    bench = Bench(state, store, cut=cut).start()
    bench.target(publish(store, version=2, kind=Kind.BETTER), revision=2)
    bench.step(items=10)
    assert bench.serving == 1
    assert bench.peer.fetches == []
