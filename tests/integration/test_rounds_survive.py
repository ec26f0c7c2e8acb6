"""Rounds that are killed, meet a full disk or a second ServerApp: nothing lost, nothing twice."""

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cloud_hub.training.fleet import Answer
from cloud_hub.training.order import KrumStrategy
from cloud_hub.training.round_rules import RESUMED_S_MIN, Opened
from cloud_hub.training.rounds import RoundLoop
from shared.errors import TransientError, UnavailableError
from shared.file_lock import is_locked
from shared.learning.rdp import epsilon_of, gaussian_cost
from shared.model.weights import digest_weights
from tests.support.killed_rounds import PRIVACY
from tests.support.manual_clock import ManualClock
from tests.support.played_fleet import WEIGHTS, PlayedFleet, make_job
from tests.support.small_disk import small_disk

ROOT = Path(__file__).parents[2]
OF_THEIR_TIME = ("job.started", "job.resumed", "round.gathering", "round.started")


def _told(line: dict[str, Any]) -> Counter[tuple[object, ...]]:
    """What was told about devices and Rounds, and how often."""
    return Counter(
        (code, number, device, tuple(names))
        for _, code, number, device, names in line["events"]
        if code not in (*OF_THEIR_TIME, "job.ended")
    )


@pytest.mark.slow
def test_a_kill_at_any_instant_changes_neither_weights_nor_what_is_told(tmp_path: Path) -> None:
    """With a device that sends NaN and one whose norm is 1000 times too large."""
    command = [sys.executable, "-m", "tests.support.killed_rounds", str(tmp_path), "1", "1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    undisturbed, *others = [json.loads(line) for line in done.stdout.splitlines()]
    killed = [line for line in others if line["was_killed"]]
    assert len(killed) > 100
    assert len(killed) == len(others) - 1  # The last instant is past the end
    for line in others:
        at = f"killed at instant {line['instant']}"
        assert (line["code"], line["digest"]) == (undisturbed["code"], undisturbed["digest"]), at
        assert line["given"] <= undisturbed["given"] + 1, at  # One answer is asked for again
        assert _told(line) == _told(undisturbed), at
        numbers = [event[0] for event in line["events"]]
        assert numbers == list(range(1, len(numbers) + 1)), at
        assert line["left"] == undisturbed["left"], at
    assert undisturbed["code"] == "job.completed"
    refused = {event[3] for event in undisturbed["events"] if event[1] == "update.refused"}
    assert refused == {"d", "e"}


@pytest.mark.slow
def test_at_no_instant_has_noise_been_drawn_that_is_not_paid_for(tmp_path: Path) -> None:
    """Neither where the Job is resumed after the kill nor where nobody ever does."""
    command = [sys.executable, "-m", "tests.support.killed_rounds", str(tmp_path), "1", "1"]
    done = subprocess.run(
        [*command, "private"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    undisturbed, *others = [json.loads(line) for line in done.stdout.splitlines()]
    assert undisturbed["resumed"]["drawn"] == 2
    assert undisturbed["epsilon"] == pytest.approx(_epsilon(2))
    assert len(others) > 100
    for line in others:
        at = f"killed at instant {line['instant']}"
        for known in (line["at_kill"], line["resumed"]):
            assert known["epsilon"] >= _epsilon(known["drawn"]) - 1e-9, at
            assert known["epsilon"] <= _epsilon(known["drawn"] + 1) + 1e-9, at
        assert line["code"] == "job.completed", at
        assert line["epsilon"] == pytest.approx(line["resumed"]["epsilon"]), at
        assert line["resumed"]["drawn"] <= 3, at
    # There are instants at which a Round was paid for and not closed, and ones after a second draw.
    assert any(line["at_kill"]["drawn"] == 0 < line["at_kill"]["epsilon"] for line in others)
    assert any(line["resumed"]["drawn"] == 3 for line in others)


def _epsilon(releases: int) -> float:
    """What so many Rounds cost."""
    cost = gaussian_cost(PRIVACY.noise_multiplier, releases=releases)
    return epsilon_of(cost, PRIVACY.delta)


def test_a_resumed_round_has_the_deadline_and_the_bytes_of_the_whole(tmp_path: Path) -> None:
    files = make_job(tmp_path / "job", rounds=1, deadline_s=100.0)
    clock = ManualClock()
    fleet = PlayedFleet(clock)
    fleet.devices["b"].is_silent = True
    began_s = clock.monotonic_s()

    def lose() -> None:
        if clock.monotonic_s() >= began_s + 60.0:
            raise UnavailableError("job.run_gone", "Gone.")

    fleet.before_answers = lose
    with pytest.raises(UnavailableError):
        RoundLoop(files, fleet, clock).run()
    clock.advance(10.0)  # Nobody runs it
    after = PlayedFleet(clock)
    after.devices["b"].is_silent = True
    assert RoundLoop(files, after, clock).run().is_completed
    assert after.times_asked("a", 1) == 0
    (closed,) = [event for event in files.read_events() if event.code == "round.closed"]
    assert closed.numbers["seconds"] == pytest.approx(100.0, abs=0.5)
    # Five questions before the kill, one to the silent device after it.
    weights_bytes = WEIGHTS["layer.weight"].nbytes
    assert closed.numbers["bytes_down"] == 6 * weights_bytes


def test_a_round_that_is_resumed_too_late_still_takes_what_devices_have_ready(
    tmp_path: Path,
) -> None:
    files = make_job(tmp_path / "job", rounds=1, deadline_s=100.0)
    clock = ManualClock()
    fleet = PlayedFleet(clock)
    for device in "abcde":
        fleet.devices[device].answers_after_s = 50.0
    began_s = clock.monotonic_s()

    def lose() -> None:
        if clock.monotonic_s() >= began_s + 30.0:
            raise UnavailableError("job.run_gone", "Gone.")

    fleet.before_answers = lose
    with pytest.raises(UnavailableError):
        RoundLoop(files, fleet, clock).run()
    clock.advance(3600.0)
    after = PlayedFleet(clock)
    after.devices["b"].is_silent = True
    resumed_s = clock.monotonic_s()
    assert RoundLoop(files, after, clock).run().is_completed
    (closed,) = [event for event in files.read_events() if event.code == "round.closed"]
    assert closed.numbers["devices_counted"] == 4.0
    evaluated = [event for event in files.read_events() if event.code == "evaluation"]
    assert {event.device for event in evaluated} == set("acde")
    silent = next(event for event in files.read_events() if event.code == "device.silent")
    assert silent.at_ms - (clock.now_s() - (clock.monotonic_s() - resumed_s)) * 1000 == (
        pytest.approx(1000 * RESUMED_S_MIN, abs=500)
    )


def test_a_clock_that_is_put_back_makes_no_round_longer(tmp_path: Path) -> None:
    files = make_job(tmp_path / "job", rounds=1, deadline_s=100.0)
    opened = Opened(
        round=1, repeat=0, devices=tuple("abcde"), began_ms=2**45, deadline_ms=2**45 + 100_000
    )
    files.make_rounds_folder()
    files.write_opened(opened)
    clock = ManualClock()
    fleet = PlayedFleet(clock)
    fleet.devices["b"].is_silent = True
    began_s = clock.monotonic_s()
    assert RoundLoop(files, fleet, clock).run().is_completed
    # The Round, and the evaluation, for which the silent device is waited too.
    assert clock.monotonic_s() - began_s == pytest.approx(200.0, abs=1.0)


def test_a_full_disk_leaves_the_last_good_checkpoint_and_the_job_goes_on_after(
    tmp_path: Path,
) -> None:
    """Filled up while the second Round's last answer is on its way."""
    large = {**WEIGHTS, "layer.weight": np.zeros((256, 256), np.float32)}
    with small_disk(tmp_path / "disk", size_bytes=8 << 20) as disk:
        files = make_job(disk.folder / "job", weights=large)
        clock = ManualClock()
        fleet = _FillingFleet(clock)

        def fill() -> None:
            if files.read_progress() is not None:
                disk.fill()

        fleet.fill_after = fill
        with pytest.raises(TransientError) as caught:
            RoundLoop(files, fleet, clock).run()
        assert caught.value.code == "disk.write_failed"
        assert not is_locked(files.folder / "lock")
        disk.empty()
        progress = files.read_progress()
        assert progress is not None
        assert progress.rounds_done == 1
        assert digest_weights(files.read_checkpoint()) == progress.weights_digest
        assert files.read_result() is None
        result = RoundLoop(files, PlayedFleet(clock), clock).run()
        assert (result.code, result.rounds_done) == ("job.completed", 2)
    whole = make_job(tmp_path / "whole", weights=large)
    expected = RoundLoop(whole, PlayedFleet(clock), clock).run()
    assert result.weights_digest == expected.weights_digest


class _FillingFleet(PlayedFleet):
    """Fills the disk before the last answer of a Round."""

    fill_after: Any = None
    given = 0

    def answers(self, wait_s: float) -> Sequence[Answer]:
        if self.given % 5 == 4:
            self.fill_after()
        found = super().answers(wait_s)
        self.given += len(found)
        return found


def test_two_serverapps_never_work_in_one_folder(tmp_path: Path) -> None:
    files = make_job(tmp_path / "job", rounds=1)
    clock = ManualClock()
    seen: list[object] = []

    def second() -> None:
        if seen:
            return
        seen.append(is_locked(files.folder / "lock"))
        other = PlayedFleet(ManualClock())
        with pytest.raises(UnavailableError) as caught:
            RoundLoop(files, other, other.clock).run()
        seen.append(caught.value.code)
        assert other.asked == []

    fleet = PlayedFleet(clock)
    fleet.before_answers = second
    result = RoundLoop(files, fleet, clock).run()
    assert seen == [True, "job.running"]
    assert result.is_completed
    assert not is_locked(files.folder / "lock")


def test_a_run_that_is_gone_lets_go_and_the_next_goes_on(tmp_path: Path) -> None:
    files = make_job(tmp_path / "job")
    clock = ManualClock()
    fleet = PlayedFleet(clock)
    given = []

    def lose() -> None:
        given.append(1)
        if len(given) == 8:
            raise UnavailableError("job.run_gone", "Gone.")

    fleet.before_answers = lose
    with pytest.raises(UnavailableError):
        RoundLoop(files, fleet, clock).run()
    assert not is_locked(files.folder / "lock")
    after = PlayedFleet(clock)
    assert RoundLoop(files, after, clock).run().is_completed
    assert [after.times_asked(device, 2) for device in "abcde"] == [0, 0, 1, 1, 1]
    resumed = [event for event in files.read_events() if event.code == "job.resumed"]
    assert [event.numbers["updates_kept"] for event in resumed] == [2.0]


def test_who_was_found_out_before_a_kill_still_stands_in_for_one_of_the_malicious(
    tmp_path: Path,
) -> None:
    """Krum needs five updates, or four and one that was refused for what it held."""
    files = make_job(tmp_path / "job", rounds=1, strategy=KrumStrategy())
    clock = ManualClock()
    fleet = PlayedFleet(clock)
    fleet.devices["a"].change = lambda reply: replace(
        reply, arrays={name: array[:2] for name, array in reply.arrays.items()}
    )
    looked = []

    def lose() -> None:
        looked.append(1)
        if len(looked) == 4:
            raise UnavailableError("job.run_gone", "Gone.")

    fleet.before_answers = lose
    with pytest.raises(UnavailableError):
        RoundLoop(files, fleet, clock).run()
    assert [e.device for e in files.read_events() if e.code == "update.refused"] == ["a"]
    after = PlayedFleet(clock)
    result = RoundLoop(files, after, clock).run()
    assert (result.code, result.rounds_done) == ("job.completed", 1), result.text
    assert after.times_asked("a", 1) == 0
