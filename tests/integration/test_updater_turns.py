"""Several models, Targets that come at bad moments, and what is reported."""

import threading
from pathlib import Path

import msgspec
import pytest

from edge_agent.updates.interrupt import EitherEvent
from shared.clock import SystemClock
from shared.wire.codec import encode
from shared.wire.report import UpdateState
from shared.wire.target import TrialPolicy
from shared.worker import Worker
from tests.support.tiny_releases import Kind, publish
from tests.support.updater_bench import Bench
from tests.support.waiting import wait_until

MODELS = ("chords", "noises", "tones")


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state"


def versions(bench: Bench) -> dict[str, int]:
    return {model.model: model.version for model in bench.updater.report().models}


def test_every_model_gets_its_turn(state: Path, store: Path) -> None:
    bench = Bench(state, store, models=MODELS).start()
    releases = [publish(store, model=name, version=1, kind=Kind.GOOD) for name in MODELS]
    bench.target(*releases, revision=1)
    bench.settle()
    assert versions(bench) == dict.fromkeys(MODELS, 1)
    assert all(model.receipt for model in bench.updater.report().models)


def test_a_model_whose_link_fails_does_not_starve_the_others(state: Path, store: Path) -> None:
    bench = Bench(state, store, models=MODELS).start()
    bench.peer.unreachable.add("chords")
    releases = [publish(store, model=name, version=1, kind=Kind.GOOD) for name in MODELS]
    bench.target(*releases, revision=1)
    for _ in range(10):
        bench.clock.advance(120.0)  # type: ignore[attr-defined]  # Its retry is always due.
        bench.step(items=10)
    assert versions(bench) == {"chords": 0, "noises": 1, "tones": 1}


def test_a_fetch_waits_for_the_trial_of_another_model(state: Path, store: Path) -> None:
    bench = Bench(state, store, models=MODELS[:2]).start()
    first = [publish(store, model=name, version=1, kind=Kind.GOOD) for name in MODELS[:2]]
    bench.target(*first, revision=1)
    bench.settle()
    bench.target(
        publish(store, model="chords", version=2, kind=Kind.BETTER),
        publish(store, model="noises", version=2, kind=Kind.BETTER),
        revision=2,
    )
    bench.step()
    assert [m.state for m in bench.updater.report().models] == ["trial", "fetching"]
    bench.step()
    assert len(bench.peer.fetches) == 3, "the second release was fetched during the first's trial"
    bench.settle()
    assert set(versions(bench).values()) == {2}


def test_a_silent_first_release_holds_up_nobody(state: Path, store: Path) -> None:
    bench = Bench(state, store, models=MODELS[:2]).start()
    releases = [publish(store, model=name, version=1, kind=Kind.GOOD) for name in MODELS[:2]]
    bench.target(*releases, revision=1)
    bench.step()
    bench.step()
    assert [m.state for m in bench.updater.report().models] == ["trial", "trial"]


def test_models_outside_the_target_keep_what_they_had(state: Path, store: Path) -> None:
    bench = Bench(state, store, models=MODELS[:2]).start()
    releases = [publish(store, model=name, version=1, kind=Kind.GOOD) for name in MODELS[:2]]
    bench.target(*releases, revision=1)
    bench.settle()
    bench.target(publish(store, model="chords", version=2, kind=Kind.BETTER), revision=2)
    bench.settle()
    assert versions(bench) == {"chords": 2, "noises": 1}


def test_a_release_of_a_model_nobody_uses_is_answered(state: Path, store: Path) -> None:
    bench = Bench(state, store).start()
    bench.target(publish(store, model="voices", version=3, kind=Kind.GOOD), revision=1)
    bench.settle()
    answer = bench.updater.report().models[-1]
    assert (answer.model, answer.state, answer.target_version) == ("voices", "refused", 3)
    assert answer.failure is not None
    assert answer.failure.code == "target.unknown_model"
    assert bench.peer.fetches == []


def test_an_older_target_is_ignored_also_after_a_restart(state: Path, store: Path) -> None:
    bench = Bench(state, store).start()
    bench.target(publish(store, version=1, kind=Kind.GOOD), revision=5)
    bench.settle()
    for device in (bench, Bench(state, store).start()):
        device.target(publish(store, version=2, kind=Kind.BETTER), revision=4)
        device.settle()
        assert device.serving == 1
        assert device.updater.report().target_revision == 5


def test_of_several_waiting_targets_the_newest_is_taken(state: Path, store: Path) -> None:
    bench = Bench(state, store).start()
    for revision in (3, 9, 7):
        release = publish(store, version=revision, kind=Kind.GOOD)
        bench.target(release, revision=revision)
    bench.settle()
    assert bench.serving == 9
    assert len(bench.peer.fetches) == 1


def test_a_fetch_ends_when_the_target_moves_on(state: Path, store: Path) -> None:
    bench = Bench(state, store, clock=SystemClock()).start()
    stalled = publish(store, version=1, kind=Kind.GOOD)
    bench.peer.is_stalled = True
    worker = Worker("updater", bench.updater.run)
    worker.start()
    try:
        bench.target(stalled, revision=1)
        assert bench.peer.stalled.wait(10.0)
        assert bench.model.state is UpdateState.FETCHING  # Reports do not wait for a fetch.
        bench.peer.is_stalled = False
        bench.target(publish(store, version=2, kind=Kind.GOOD), revision=2)
        wait_until(lambda: bench.serving == 2)
    finally:
        assert worker.stop()
    assert worker.crashes_count == 0
    assert bench.model.state is UpdateState.TRIAL


def test_a_fetch_goes_on_when_a_target_repeats_it(state: Path, store: Path) -> None:
    bench = Bench(state, store, clock=SystemClock()).start()
    release = publish(store, version=1, kind=Kind.GOOD)
    bench.peer.is_stalled = True
    thread = threading.Thread(target=bench.updater.step, args=(bench.stop,))
    bench.target(release, revision=1)
    thread.start()
    try:
        assert bench.peer.stalled.wait(10.0)
        bench.target(release, revision=2)
        assert bench.peer.stop is not None
        assert not bench.peer.stop.is_set(), "it was interrupted for nothing"
    finally:
        bench.stop.set()
        thread.join(10.0)
    assert not thread.is_alive()
    assert bench.model.state is UpdateState.FETCHING


def test_either_event_is_set_by_any() -> None:
    for is_own in (True, False):
        other = threading.Event()
        either = EitherEvent(other)
        assert not either.wait(0.0)
        (either if is_own else other).set()
        assert either.is_set()
        assert either.wait()
    assert other.is_set()


def test_a_report_is_taken_when_it_says_something_new(state: Path, store: Path) -> None:
    bench = Bench(state, store).start()
    assert bench.updater.take_report() is not None
    assert bench.updater.take_report() is None
    bench.clock.advance(3600.0)  # type: ignore[attr-defined]
    assert bench.updater.take_report() is None
    assert bench.updater.take_report(again=True) is not None
    policy = TrialPolicy(items_min=50)
    bench.target(publish(store, version=1, kind=Kind.GOOD, policy=policy), revision=1)
    bench.step(items=10)
    trial = bench.updater.take_report()
    assert trial is not None
    assert trial.models[0].state is UpdateState.TRIAL
    bench.step(items=10)
    assert bench.updater.take_report() is None, "a little progress is no news"
    bench.clock.advance(2.0)  # type: ignore[attr-defined]
    progress = bench.updater.take_report()
    assert progress is not None
    assert progress.models[0].trial_items == 10
    bench.settle()
    settled = bench.updater.take_report()
    assert settled is not None
    assert settled.models[0].receipt is not None
    assert encode(settled, session_id="0" * 16, sent_ms=0)  # type: ignore[arg-type]


def test_progress_of_a_fetch_is_reported(state: Path, store: Path) -> None:
    bench = Bench(state, store).start()
    seen = set()
    bench.peer._cut = lambda _name: seen.add(round(bench.model.progress, 2))
    bench.target(publish(store, version=1, kind=Kind.GOOD), revision=1)
    bench.step()
    assert {0.0, 0.33, 0.67} <= seen


def test_a_trial_reports_no_receipt_for_what_is_not_settled(state: Path, store: Path) -> None:
    bench = Bench(state, store).start()
    bench.target(publish(store, version=1, kind=Kind.GOOD), revision=1)
    bench.settle()
    assert bench.model.receipt is not None
    second = publish(store, version=2, kind=Kind.BETTER)
    bench.target(msgspec.structs.replace(second, rollout="roll-x"), revision=2)
    bench.step()
    assert bench.model.state is UpdateState.TRIAL
    assert (bench.model.version, bench.model.receipt) == (2, None)
    assert (bench.model.target_version, bench.model.rollout) == (2, "roll-x")
