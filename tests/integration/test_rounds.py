"""RoundLoop over a real disk, its devices played: what counts, what does not, and how it ends."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cloud_hub.training.fleet import Reply
from cloud_hub.training.job_folder import JobEvent, JobResult
from cloud_hub.training.order import (
    AdaptiveStrategy,
    CentralPrivacy,
    FairStrategy,
    LateSettings,
    MedianStrategy,
    OnTooFew,
    ProximalStrategy,
)
from cloud_hub.training.rounds import RoundLoop
from shared.learning.task import Encoding, LearningTask, TaskKind
from shared.model.weights import Array, digest_weights, layout_of
from tests.support.manual_clock import ManualClock
from tests.support.played_fleet import DEVICES, WEIGHTS, PlayedFleet, make_job, update_of

SHARED = {"layer.weight": WEIGHTS["layer.weight"]}
LAYOUT = layout_of(SHARED)


class Bench:
    """One Job, its devices and its loop."""

    def __init__(self, folder: Path, **order: Any) -> None:
        self.clock = ManualClock()
        self.files = make_job(folder / "job", **order)
        self.fleet = PlayedFleet(self.clock)

    def run(self) -> JobResult:
        return RoundLoop(self.files, self.fleet, self.clock).run()

    def events(self, code: str, *, number: int | None = None) -> list[JobEvent]:
        return [
            event
            for event in self.files.read_events()
            if event.code == code and number in (None, event.round)
        ]

    def devices(self, code: str, *, number: int) -> list[str]:
        return sorted(event.device or "" for event in self.events(code, number=number))

    def weights(self) -> dict[str, Array]:
        return self.files.read_checkpoint()

    def layer(self) -> Array:
        return self.weights()["layer.weight"].ravel()


def _mean(devices: str, *, numbers: tuple[int, ...] = (1, 2)) -> Array:
    """What the layer is after Rounds in which exactly these counted, all with equal weight."""
    moved = [np.mean([update_of(d, LAYOUT, n) for d in devices], axis=0) for n in numbers]
    return np.asarray(np.sum(moved, axis=0), np.float32)


def test_a_job_of_honest_devices_is_the_mean_of_their_updates(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    result = bench.run()
    assert (result.code, result.is_completed, result.rounds_done) == ("job.completed", True, 2)
    assert bench.layer() == pytest.approx(_mean("abcde"), abs=1e-6)
    assert result.weights_digest == digest_weights(bench.weights())
    assert bench.devices("evaluation", number=2) == list(DEVICES)
    assert bench.events("round.closed", number=1)[0].numbers["devices_counted"] == 5.0


def test_personal_arrays_and_counters_stay_and_are_never_sent(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.run()
    assert all(set(sent) == {"layer.weight"} for sent in bench.fleet.weights)
    after = bench.weights()
    assert list(after) == list(WEIGHTS)
    assert after["norm.count"].dtype == np.int64
    for name in ("head.weight", "norm.count"):
        np.testing.assert_array_equal(after[name], WEIGHTS[name])


def _with_numbers(change: Callable[[Array], Array]) -> Callable[[Reply], Reply]:
    return lambda reply: replace(reply, arrays={n: change(a) for n, a in reply.arrays.items()})


def _with_told(name: str, value: float) -> Callable[[Reply], Reply]:
    return lambda reply: replace(reply, measurements={**reply.measurements, name: value})


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (_with_numbers(lambda a: np.multiply(a, np.float32("nan"))), "update.not_finite"),
        (_with_numbers(lambda a: np.add(a, np.float32("inf"))), "update.not_finite"),
        (_with_numbers(lambda a: np.multiply(a, np.float32(1000))), "update.norm"),
        (_with_numbers(lambda a: a[:2]), "update.shape"),
        (_with_numbers(lambda a: a.astype(np.float64)), "update.dtype"),
        (lambda reply: replace(reply, arrays={}), "update.names"),
        (lambda reply: replace(reply, arrays={**reply.arrays, "x": np.ones(1)}), "update.names"),
        (lambda reply: replace(reply, text="{}"), "reply.invalid"),
        (_with_told("samples_count", -5.0), "reply.measurement"),
        (_with_told("accuracy_before", 7.0), "reply.measurement"),
        (_with_told("samples_count", 0.0), "update.samples"),
    ],
)
@pytest.mark.parametrize("liar", ["a", "e"])
def test_what_a_liar_sends_never_reaches_the_mean_and_the_liar_is_named(
    tmp_path: Path, change: Callable[[Reply], Reply], code: str, liar: str
) -> None:
    bench = Bench(tmp_path)
    bench.fleet.devices[liar].change = change
    result = bench.run()
    honest = "".join(d for d in DEVICES if d != liar)
    assert result.is_completed
    assert bench.layer() == pytest.approx(_mean(honest), abs=1e-6)
    for number in (1, 2):
        refused = bench.events("update.refused", number=number)
        assert [event.device for event in refused] == [liar]
        assert refused[0].text.startswith(f"{code}: ")
        assert bench.devices("update.accepted", number=number) == list(honest)
        assert bench.fleet.times_asked(liar, number) == 1


def test_a_device_that_claims_every_sample_of_the_world_weighs_half_at_most(
    tmp_path: Path,
) -> None:
    bench = Bench(tmp_path, rounds=1)
    bench.fleet.devices["a"].change = _with_told("samples_count", 1e9)
    bench.run()
    honest = np.mean([update_of(d, LAYOUT, 1) for d in "bcde"], axis=0)
    assert bench.layer() == pytest.approx((update_of("a", LAYOUT, 1) + honest) / 2, abs=1e-6)


def test_a_round_closes_at_its_deadline_without_the_silent(tmp_path: Path) -> None:
    bench = Bench(tmp_path, rounds=1)
    bench.fleet.devices["c"].is_silent = True
    started_s = bench.clock.monotonic_s()
    result = bench.run()
    closed = bench.events("round.closed")[0]
    assert result.is_completed
    assert closed.numbers["seconds"] == pytest.approx(10.0)
    assert bench.devices("device.silent", number=1) == ["c"]
    assert bench.layer() == pytest.approx(_mean("abde", numbers=(1,)), abs=1e-6)
    assert bench.clock.monotonic_s() - started_s == pytest.approx(20.0)  # And the evaluation's


def test_a_round_closes_when_the_last_has_answered(tmp_path: Path) -> None:
    bench = Bench(tmp_path, rounds=1)
    bench.fleet.devices["e"].answers_after_s = 3.0
    bench.run()
    closed = bench.events("round.closed")[0]
    assert closed.numbers["seconds"] == pytest.approx(3.0)
    waits = {event.device: event.numbers["wait_s"] for event in bench.events("update.accepted")}
    assert waits["e"] == pytest.approx(3.0)


def test_without_a_quorum_the_round_is_repeated_with_what_it_has(tmp_path: Path) -> None:
    bench = Bench(tmp_path, rounds=1, quorum=0.8, late=LateSettings(rounds_max=0))
    for device in "cd":
        bench.fleet.devices[device].is_silent = True

    def wake(_: LearningTask) -> None:
        if bench.events("round.repeated"):
            for one in bench.fleet.devices.values():
                one.is_silent = False

    bench.fleet.before_asking = wake
    result = bench.run()
    assert result.is_completed
    assert [e.numbers["repeat"] for e in bench.events("round.repeated")] == [1.0]
    assert [bench.fleet.times_asked(d, 1) for d in DEVICES] == [1, 1, 2, 2, 1]
    assert bench.devices("update.accepted", number=1) == list(DEVICES)
    assert bench.layer() == pytest.approx(_mean("abcde", numbers=(1,)), abs=1e-6)


@pytest.mark.parametrize(
    ("on_too_few", "is_completed"), [(OnTooFew.END, True), (OnTooFew.FAIL, False)]
)
def test_too_few_end_the_job_as_ordered(
    tmp_path: Path, on_too_few: OnTooFew, is_completed: bool
) -> None:
    bench = Bench(tmp_path, quorum=0.8, on_too_few=on_too_few)

    def fall_silent(task: LearningTask) -> None:
        for device in "cd":
            bench.fleet.devices[device].is_silent = task.round == 2

    bench.fleet.before_asking = fall_silent
    result = bench.run()
    assert (result.code, result.is_completed, result.rounds_done) == (
        "job.too_few",
        is_completed,
        1,
    )
    assert bench.layer() == pytest.approx(_mean("abcde", numbers=(1,)), abs=1e-6)


def test_repeats_have_an_end(tmp_path: Path) -> None:
    bench = Bench(tmp_path, quorum=0.8, repeats_max=2)
    for device in "cd":
        bench.fleet.devices[device].is_silent = True
    result = bench.run()
    assert (result.code, result.is_completed, result.rounds_done) == ("job.too_few", False, 0)
    assert len(bench.events("round.repeated")) == 2
    assert bench.devices("update.accepted", number=1) == ["a", "b", "e"]
    assert len(bench.events("device.silent")) == 6  # Each repetition names them


def test_a_repeat_after_a_refusal_neither_asks_nor_names_the_liar_again(tmp_path: Path) -> None:
    bench = Bench(tmp_path, rounds=1, quorum=0.8, repeats_max=1)
    bench.fleet.devices["a"].change = _with_numbers(lambda a: np.multiply(a, np.float32("nan")))
    bench.fleet.devices["b"].is_silent = True
    result = bench.run()
    assert result.code == "job.too_few"
    assert bench.fleet.times_asked("a", 1) == 1
    assert bench.devices("update.refused", number=1) == ["a"]


def test_what_was_refused_for_its_norm_does_not_make_a_quorum(tmp_path: Path) -> None:
    """And nothing is learned from the norms of a Round that is repeated."""
    bench = Bench(tmp_path, rounds=1, quorum=1.0, repeats_max=1)
    bench.fleet.devices["a"].change = _with_numbers(lambda a: np.multiply(a, np.float32(1000)))
    result = bench.run()
    assert (result.code, result.rounds_done) == ("job.too_few", 0)
    assert bench.events("round.closed") == []
    assert bench.devices("update.accepted", number=1) == ["b", "c", "d", "e"]


def test_no_round_counts_without_a_mandatory_device(tmp_path: Path) -> None:
    bench = Bench(tmp_path, mandatory=("c",), on_too_few=OnTooFew.FAIL)
    bench.fleet.devices["c"].is_silent = True
    assert bench.run().code == "job.too_few"
    other = Bench(tmp_path / "other", mandatory=("c",), on_too_few=OnTooFew.FAIL)
    other.fleet.devices["c"].is_there = False
    result = other.run()
    assert result.code == "job.too_few"
    assert other.fleet.asked == []


def test_a_late_update_counts_in_the_next_round_for_less(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.fleet.devices["c"].answers_after_s = 12.0
    bench.fleet.devices["e"].answers_after_s = 5.0
    result = bench.run()
    assert result.is_completed
    late = [e for e in bench.events("update.accepted") if e.numbers["rounds_late"] == 1.0]
    assert [(e.device, e.round) for e in late] == [("c", 2)]
    worth = 2.0**-0.5
    second = [update_of(d, LAYOUT, 2) for d in "abde"]
    moved = (sum(second) + worth * update_of("c", LAYOUT, 1)) / (4 + worth)
    expected = _mean("abde", numbers=(1,)) + moved
    assert bench.layer() == pytest.approx(expected, abs=1e-5)
    assert late[0].numbers["weight"] == pytest.approx(10 * worth)
    assert bench.fleet.times_asked("c", 2) == 0  # It was busy


@pytest.mark.parametrize(
    ("order", "code"),
    [
        ({"late": LateSettings(rounds_max=0)}, "late.too_late"),
        ({"strategy": MedianStrategy()}, "late.robust"),
        ({"central_privacy": CentralPrivacy(clip_norm=1.0, noise_multiplier=1.0)}, "late.private"),
    ],
)
def test_a_late_update_is_refused_where_it_must_not_count(
    tmp_path: Path, order: dict[str, object], code: str
) -> None:
    bench = Bench(tmp_path, **order)
    bench.fleet.devices["c"].answers_after_s = 12.0
    bench.fleet.devices["e"].answers_after_s = 5.0
    assert bench.run().is_completed
    refused = bench.events("update.refused")
    assert [(e.device, e.text.split(":")[0]) for e in refused][:1] == [("c", code)]
    assert all(e.numbers["rounds_late"] == 0.0 for e in bench.events("update.accepted"))


def test_a_device_that_restarts_is_asked_again_and_counts(tmp_path: Path) -> None:
    bench = Bench(tmp_path, rounds=1)
    bench.fleet.devices["c"].answers_after_s = 4.0

    def restart() -> None:
        one = bench.fleet.devices["c"]
        if one.connection == "1" and bench.fleet.times_asked("c", 1) == 1:
            bench.fleet.lose_answers("c")

    bench.fleet.before_answers = restart
    assert bench.run().is_completed
    assert bench.fleet.times_asked("c", 1) == 2
    assert bench.devices("update.accepted", number=1) == list(DEVICES)


def test_a_device_that_leaves_and_comes_back_counts_in_the_same_round(tmp_path: Path) -> None:
    bench = Bench(tmp_path, rounds=1)
    one = bench.fleet.devices["c"]
    one.answers_after_s = 4.0
    start_s = bench.clock.monotonic_s()

    def leave_and_return() -> None:
        passed_s = bench.clock.monotonic_s() - start_s
        if one.is_there and one.connection == "1" and passed_s >= 1.0:
            bench.fleet.lose_answers("c")
            one.is_there = False
        one.is_there |= passed_s >= 3.0

    bench.fleet.before_answers = leave_and_return
    assert bench.run().is_completed
    assert bench.devices("update.accepted", number=1) == list(DEVICES)
    assert bench.events("round.closed")[0].numbers["seconds"] == pytest.approx(7.0, abs=0.5)


def test_a_device_whose_owner_says_no_is_not_waited_for(tmp_path: Path) -> None:
    bench = Bench(tmp_path, rounds=1)
    bench.fleet.devices["b"].refusal_code = "policy.not_now"
    bench.fleet.devices["d"].fails = "Killed."
    assert bench.run().is_completed
    texts = {e.device: e.text for e in bench.events("device.failed")}
    assert texts["d"] == "Killed."
    assert texts["b"].startswith("policy.not_now")
    assert bench.events("round.closed")[0].numbers["seconds"] == 0.0


@pytest.mark.parametrize("moment", ["gather", "round", "repeat", "evaluation"])
def test_stop_ends_the_job_wherever_it_is(tmp_path: Path, moment: str) -> None:
    bench = Bench(tmp_path, rounds=1, devices_min=5, quorum=1.0)
    fleet, files = bench.fleet, bench.files
    if moment == "gather":
        fleet.devices["a"].is_there = False
    if moment in ("round", "repeat"):
        fleet.devices["a"].is_silent = True

    def stop() -> None:
        codes = {event.code for event in files.read_events()}
        wanted = {
            "gather": "round.gathering",
            "round": "update.accepted",
            "repeat": "round.repeated",
            "evaluation": "evaluation",
        }
        if wanted[moment] in codes and not files.is_stop_asked():
            files.ask_stop()

    fleet.before_answers = stop
    result = bench.run()
    assert (result.code, result.is_completed) == ("job.stopped", False)
    assert result.rounds_done == (1 if moment == "evaluation" else 0)
    assert bench.events("job.ended")[0].text
    assert RoundLoop(files, fleet, bench.clock).run() == result  # It stays ended


def test_too_few_devices_end_the_wait(tmp_path: Path) -> None:
    bench = Bench(tmp_path, devices_min=5, repeats_max=1)
    bench.fleet.devices["a"].is_there = False
    start_s = bench.clock.monotonic_s()
    result = bench.run()
    assert (result.code, bench.fleet.asked) == ("job.too_few", [])
    assert bench.clock.monotonic_s() - start_s == pytest.approx(40.0, abs=1.0)


def test_fedprox_tells_its_mu_to_devices(tmp_path: Path) -> None:
    bench = Bench(tmp_path, strategy=ProximalStrategy(proximal_mu=0.25))
    bench.run()
    assert {task.method.proximal_mu for task in bench.fleet.tasks} == {0.25}


def test_q_fedavg_needs_losses(tmp_path: Path) -> None:
    bench = Bench(tmp_path, strategy=FairStrategy(), rounds=1)
    bench.fleet.devices["b"].change = lambda reply: replace(
        reply, measurements={"samples_count": 10.0}
    )
    assert bench.run().is_completed
    refused = bench.events("update.refused")
    assert [(e.device, e.text.split(":")[0]) for e in refused] == [("b", "update.no_loss")]
    assert np.abs(bench.layer()).max() > 0.0


@pytest.mark.parametrize(("encoding", "error"), [(Encoding.FP16, 2e-4), (Encoding.INT8, 3e-3)])
def test_small_encodings_come_to_the_same_mean(
    tmp_path: Path, encoding: Encoding, error: float
) -> None:
    bench = Bench(tmp_path, encoding=encoding)
    assert bench.run().is_completed
    difference = np.abs(np.subtract(bench.layer(), _mean("abcde"))).max()
    assert 0.0 < difference < error
    other = Bench(tmp_path / "other", encoding=encoding)
    other.fleet.devices["a"].change = lambda reply: replace(
        reply, text=reply.text.replace(f'"{encoding}"', '"fp32"')
    )
    other.run()
    assert other.devices("update.refused", number=1) == ["a"]


def test_central_privacy_ends_before_its_budget_and_still_evaluates(tmp_path: Path) -> None:
    privacy = CentralPrivacy(clip_norm=1.0, noise_multiplier=2.0, epsilon_max=5.0)
    bench = Bench(tmp_path, rounds=100, central_privacy=privacy, strategy=AdaptiveStrategy())
    result = bench.run()
    assert (result.code, result.is_completed) == ("job.budget_spent", True)
    spent = [e.numbers["epsilon"] for e in bench.events("round.closed")]
    assert len(spent) == result.rounds_done > 1
    assert spent == sorted(spent)
    assert result.epsilon == spent[-1] <= 5.0
    assert spent[-1] + (spent[-1] - spent[-2]) > 4.5  # No Round too few either
    assert bench.devices("evaluation", number=result.rounds_done) == list(DEVICES)
    assert {task.clip_norm for task in bench.fleet.tasks} == {1.0}


def test_an_evaluation_that_cannot_be_is_left_out(tmp_path: Path) -> None:
    bench = Bench(tmp_path, rounds=1)

    def lie(reply: Reply) -> Reply:
        is_evaluation = f'"{TaskKind.EVALUATE}"' in reply.text
        return _with_told("accuracy_before", 2.0)(reply) if is_evaluation else reply

    bench.fleet.devices["c"].change = lie
    assert bench.run().is_completed
    assert bench.devices("evaluation", number=1) == ["a", "b", "d", "e"]
