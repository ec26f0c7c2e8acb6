"""Rounds that are killed, meet a full disk or a second ServerApp: nothing lost, nothing twice."""

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cloud_hub.training.fleet import Answer
from cloud_hub.training.rounds import RoundLoop
from shared.errors import TransientError, UnavailableError
from shared.file_lock import is_locked
from shared.model.weights import digest_weights
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
