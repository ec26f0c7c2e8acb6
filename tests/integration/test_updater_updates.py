"""The updater with real ONNX releases, real files and the real inference loop: one life each."""

from pathlib import Path

import msgspec
import pytest

from shared.errors import IntegrityError, TransientError
from shared.release.receipt import ReceiptOutcome
from shared.wire.report import UpdateState
from shared.wire.target import TargetRelease, TrialPolicy
from tests.support.tiny_releases import Kind, again, publish
from tests.support.updater_bench import Bench


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def bench(tmp_path: Path, store: Path) -> Bench:
    return Bench(tmp_path / "state", store).start()


def run_first(bench: Bench, store: Path) -> TargetRelease:
    """Bring release 1 to a fresh device; return it."""
    first = publish(store, version=1, kind=Kind.GOOD)
    bench.target(first, revision=1)
    bench.settle()
    assert bench.model.version == 1
    return first


def test_first_release_settles_with_a_receipt(bench: Bench, store: Path) -> None:
    first = run_first(bench, store)
    assert bench.model.state is UpdateState.IDLE
    assert bench.model.failure is None
    receipt = bench.receipt
    assert receipt is not None
    assert receipt.outcome is ReceiptOutcome.SETTLED
    assert receipt.rollout == "roll-1"
    assert receipt.manifest_digest == first.manifest_digest
    assert receipt.golden_items == 4


def test_better_release_settles_in_the_other_slot(bench: Bench, store: Path) -> None:
    run_first(bench, store)
    before = bench.journal.settled
    bench.target(publish(store, version=2, kind=Kind.BETTER), revision=2)
    bench.settle()
    settled = bench.journal.settled
    assert before is not None
    assert settled is not None
    assert settled.slot is before.slot.other
    assert (bench.serving, settled.version) == (2, 2)
    assert bench.active.line.companion is None
    assert all(hasattr(result, "outcome") for result in bench.feeders["tones"].results)


@pytest.mark.parametrize(
    ("kind", "policy", "code"),
    [
        (Kind.DAMAGED, TrialPolicy(items_min=30), "trial.disagreement"),
        (Kind.UNSURE, TrialPolicy(items_min=30), "trial.confidence"),
        (Kind.FAILING, TrialPolicy(items_min=30), "trial.failing"),
        (Kind.SLOW, TrialPolicy(items_min=30, latency_ms_floor=0.05), "trial.slow"),
    ],
)
def test_worse_release_is_taken_back(
    bench: Bench, store: Path, kind: Kind, policy: TrialPolicy, code: str
) -> None:
    run_first(bench, store)
    bad = publish(store, version=2, kind=kind, policy=policy)
    bench.target(bad, revision=2)
    bench.settle()
    assert bench.serving == 1
    assert bench.model.state is UpdateState.IDLE
    failure = bench.model.failure
    assert failure is not None
    assert (failure.version, failure.code, failure.rollout) == (2, code, "roll-2")
    assert failure.undo_ms is not None
    assert bench.receipt is not None
    assert bench.receipt.outcome is ReceiptOutcome.UNDONE
    assert (bench.receipt.version, bench.receipt.rollout) == (1, "roll-2")
    missed = [r for r in bench.feeders["tones"].results if getattr(r, "version", 0) == 2]
    assert len(missed) <= policy.items_min


@pytest.mark.parametrize(
    ("kind", "code"),
    [(Kind.UNPROVED, "golden.mismatch"), (Kind.UNLOADABLE, "model.unloadable")],
)
def test_release_that_does_not_prove_itself_never_serves(
    bench: Bench, store: Path, kind: Kind, code: str
) -> None:
    run_first(bench, store)
    swaps_count = bench.active.line.swaps_count
    bench.target(publish(store, version=2, kind=kind), revision=2)
    bench.settle()
    assert bench.model.state is UpdateState.REFUSED
    assert bench.model.failure is not None
    assert bench.model.failure.code == code
    assert (bench.serving, bench.active.line.swaps_count) == (1, swaps_count)
    assert bench.receipt is not None
    assert bench.receipt.version == 1


def test_a_quarantined_release_is_tried_again_only_for_another_rollout(
    bench: Bench, store: Path
) -> None:
    run_first(bench, store)
    bad = publish(store, version=2, kind=Kind.DAMAGED)
    bench.target(bad, revision=2)
    bench.settle()
    fetched = list(bench.peer.fetches)
    bench.target(bad, revision=3)
    bench.settle()
    assert bench.peer.fetches == fetched
    bench.target(again(bad, "roll-again"), revision=4)
    bench.settle()
    assert bench.peer.fetches == [*fetched, bad.manifest_digest]
    assert bench.model.failure is not None
    assert bench.model.failure.rollout == "roll-again"
    assert bench.serving == 1


def test_a_release_that_settles_for_another_rollout_leaves_quarantine(
    bench: Bench, store: Path
) -> None:
    run_first(bench, store)
    second = publish(store, version=2, kind=Kind.BETTER)
    bench.target(second, revision=2)
    bench.step()
    bench.clock.advance(601.0)  # type: ignore[attr-defined]
    bench.step()
    assert bench.journal.is_quarantined(second.manifest_digest, "roll-2")
    bench.target(again(second, "roll-again"), revision=3)
    bench.settle()
    assert bench.serving == 2
    assert bench.journal.quarantine == ()
    assert bench.model.failure is None


def test_tampered_release_is_refused_at_once(bench: Bench, store: Path) -> None:
    run_first(bench, store)
    second = publish(store, version=2, kind=Kind.BETTER)
    bench.peer.errors = [IntegrityError("release.digest", "model.onnx is not what was signed.")]
    bench.target(second, revision=2)
    bench.settle()
    assert bench.model.state is UpdateState.REFUSED
    assert bench.model.failure is not None
    assert bench.model.failure.code == "release.digest"
    settled = bench.journal.settled
    assert settled is not None
    assert not bench.slots.holds_files("tones", settled.slot.other)


def test_link_that_goes_away_is_tried_again_and_resumes(bench: Bench, store: Path) -> None:
    run_first(bench, store)
    second = publish(store, version=2, kind=Kind.BETTER)
    files = store / second.manifest_digest
    whole = sum(file.stat().st_size for file in files.iterdir())
    sent_before = bench.peer.bytes_sent
    bench.peer.errors = [TransientError("link.down", "No answer.")] * 3
    bench.target(second, revision=2)
    bench.step()
    assert bench.model.state is UpdateState.FETCHING
    bench.step()
    assert len(bench.peer.errors) == 2, "it was tried again before its time"
    for _ in range(10):
        bench.clock.advance(120.0)  # type: ignore[attr-defined]
        bench.step(items=10)
    assert bench.serving == 2
    assert bench.peer.bytes_sent - sent_before == whole, "what was there was fetched again"


def test_disk_that_fills_up_during_a_fetch_refuses_and_frees_the_slot(
    bench: Bench, store: Path
) -> None:
    run_first(bench, store)
    bench.peer.errors = [OSError(28, "No space left on device")]
    bench.target(publish(store, version=2, kind=Kind.BETTER), revision=2)
    bench.settle()
    assert bench.model.state is UpdateState.REFUSED
    assert bench.model.failure is not None
    assert bench.model.failure.code == "disk.full"
    assert bench.serving == 1
    settled = bench.journal.settled
    assert settled is not None
    assert not bench.slots.holds_files("tones", settled.slot.other)


def test_what_looks_expired_is_said_and_waited_out(bench: Bench, store: Path) -> None:
    run_first(bench, store)
    bench.peer.errors = [TransientError("tuf.expired", "It has expired.") for _ in range(4)]
    bench.target(publish(store, version=2, kind=Kind.BETTER), revision=2)
    for _ in range(4):
        bench.step(items=10)
        bench.clock.advance(120.0)  # type: ignore[attr-defined]
    assert (bench.model.state, bench.serving) == (UpdateState.FETCHING, 1)
    assert bench.model.failure is not None
    assert (bench.model.failure.code, bench.model.failure.rollout) == ("tuf.expired", "roll-2")
    bench.settle()
    assert (bench.serving, bench.model.failure) == (2, None)


def test_a_disk_that_takes_no_journal_is_said_once_it_is_no_hiccup(
    bench: Bench, store: Path, tmp_path: Path
) -> None:
    run_first(bench, store)
    journal = tmp_path / "state" / "journal" / "tones.json"
    journal.rename(tmp_path / "aside")
    journal.mkdir()  # No file takes its place.
    bench.target(publish(store, version=2, kind=Kind.BETTER), revision=2)
    failures = []
    for _ in range(4):
        bench.step(items=10)
        bench.clock.advance(120.0)  # type: ignore[attr-defined]
        failures.append(bench.model.failure)
    assert failures[0] is None
    assert failures[-1] is not None
    assert failures[-1].code == "disk.write_failed"
    journal.rmdir()
    (tmp_path / "aside").rename(journal)
    bench.settle()
    assert (bench.serving, bench.model.failure) == (2, None)


def test_silence_in_a_trial_is_not_success(bench: Bench, store: Path) -> None:
    run_first(bench, store)
    bench.target(publish(store, version=2, kind=Kind.BETTER), revision=2)
    bench.step()
    assert bench.model.state is UpdateState.TRIAL
    assert bench.serving == 2
    bench.clock.advance(599.0)  # type: ignore[attr-defined]
    bench.step()
    assert bench.model.state is UpdateState.TRIAL
    bench.clock.advance(2.0)  # type: ignore[attr-defined]
    bench.step()
    assert bench.model.state is UpdateState.IDLE
    assert bench.serving == 1
    assert bench.model.failure is not None
    assert bench.model.failure.code == "trial.silent"


def test_silence_leaves_a_first_release_in_its_trial(bench: Bench, store: Path) -> None:
    bench.target(publish(store, version=1, kind=Kind.GOOD), revision=1)
    bench.step()
    bench.clock.advance(1e6)  # type: ignore[attr-defined]
    bench.step()
    assert bench.model.state is UpdateState.TRIAL
    assert bench.model.receipt is None
    assert bench.serving == 1
    bench.settle()
    assert bench.receipt is not None


def test_first_release_that_fails_leaves_nothing_on(bench: Bench, store: Path) -> None:
    bench.target(publish(store, version=1, kind=Kind.FAILING), revision=1)
    bench.settle()
    assert bench.serving == 0
    assert bench.model.version == 0
    assert bench.model.receipt is None
    assert bench.model.failure is not None
    assert bench.model.failure.code == "trial.failing"
    bench.target(publish(store, version=2, kind=Kind.GOOD), revision=2)
    bench.settle()
    assert bench.serving == 2


def test_target_that_goes_back_ends_a_trial_without_quarantine(bench: Bench, store: Path) -> None:
    first = run_first(bench, store)
    second = publish(store, version=2, kind=Kind.BETTER)
    bench.target(second, revision=2)
    bench.step()
    assert bench.model.state is UpdateState.TRIAL
    bench.target(first, revision=3)
    bench.settle()
    assert bench.serving == 1
    assert bench.model.failure is not None
    assert bench.model.failure.code == "trial.withdrawn"
    assert bench.receipt is not None
    assert (bench.receipt.rollout, bench.receipt.version) == ("roll-1", 1)
    bench.target(second, revision=4)
    bench.settle()
    assert bench.serving == 2


def test_going_back_to_the_previous_release_moves_no_bytes(bench: Bench, store: Path) -> None:
    first = run_first(bench, store)
    bench.target(publish(store, version=2, kind=Kind.BETTER), revision=2)
    bench.settle()
    sent = bench.peer.bytes_sent
    bench.target(again(first, "roll-back"), revision=3)
    bench.settle()
    assert bench.serving == 1
    assert bench.peer.bytes_sent == sent
    assert bench.receipt is not None
    assert bench.receipt.rollout == "roll-back"


def test_another_rollout_of_what_runs_is_answered_by_a_fresh_receipt(
    bench: Bench, store: Path
) -> None:
    first = run_first(bench, store)
    swaps_count = bench.active.line.swaps_count
    bench.target(again(first, "roll-9"), revision=2)
    bench.settle()
    assert bench.receipt is not None
    assert bench.receipt.rollout == "roll-9"
    assert bench.receipt.outcome is ReceiptOutcome.SETTLED
    assert bench.active.line.swaps_count == swaps_count
    assert len(bench.peer.fetches) == 1


def test_target_without_the_model_keeps_what_runs(bench: Bench, store: Path) -> None:
    run_first(bench, store)
    bench.target(revision=2)
    bench.settle()
    assert (bench.serving, bench.model.version) == (1, 1)
    assert bench.receipt is not None
    assert bench.updater.report().target_revision == 2


def test_release_under_another_version_than_the_target_says_is_refused(
    bench: Bench, store: Path
) -> None:
    first = publish(store, version=1, kind=Kind.GOOD)
    bench.target(msgspec.structs.replace(first, version=7), revision=1)
    bench.settle()
    assert bench.model.state is UpdateState.REFUSED
    assert bench.model.failure is not None
    assert bench.model.failure.code == "release.digest"
    assert bench.serving == 0
