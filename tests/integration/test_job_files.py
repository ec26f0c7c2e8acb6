"""JobFiles on a real disk: torn lines, whole checkpoints, who may write."""

from pathlib import Path

import numpy as np
import pytest

from cloud_hub.training.event_log import EventLog
from cloud_hub.training.file_job import JobFiles
from cloud_hub.training.file_job_folders import JobFolders
from cloud_hub.training.job import JobId
from cloud_hub.training.job_folder import EVENTS, PROGRESS, JobEvent, Progress
from cloud_hub.training.round_rules import Closing, Opened
from shared.durable_file import write_durably
from shared.errors import ContractError, UnavailableError
from shared.model.weights import Array, decode_weights, digest_weights, encode_weights
from tests.support.manual_clock import ManualClock
from tests.support.played_fleet import DEVICES, WEIGHTS, make_job


def _event(code: str = "round.closed", **fields: object) -> JobEvent:
    return JobEvent(number=1, at_ms=5, code=code, **fields)  # type: ignore[arg-type]


def _checkpoint(files: JobFiles, number: int) -> Progress:
    weights: dict[str, Array] = {
        name: array + number if array.dtype == np.float32 else array
        for name, array in WEIGHTS.items()
    }
    progress = Progress(rounds_done=number, weights_digest=digest_weights(weights))
    files.write_checkpoint(progress, weights, {"step.count": np.array([number])})
    return progress


def test_a_plan_and_first_weights_come_back_as_they_were(tmp_path: Path) -> None:
    files = make_job(tmp_path / "job")
    plan = JobFiles(tmp_path / "job").read_plan()
    assert plan.devices == DEVICES
    first = files.read_initial()
    assert digest_weights(first) == digest_weights(WEIGHTS)


@pytest.mark.parametrize("kept", [0, 1, 20, -1])
def test_a_torn_last_line_is_cut_off_and_its_number_used_again(tmp_path: Path, kept: int) -> None:
    files = make_job(tmp_path / "job")
    for number in (1, 2, 3):
        assert files.append_event(_event(round=number)).number == number
    path = files.folder / EVENTS
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:2]) + lines[2][:kept])
    again = JobFiles(files.folder)
    assert [event.round for event in again.read_events()] == [1, 2]
    assert again.append_event(_event(round=9)).number == 3
    assert [event.round for event in again.read_events()] == [1, 2, 9]
    assert [event.round for event in again.read_events(after=1, limit=1)] == [2]


def test_an_event_of_once_is_written_once_even_by_the_next_attempt(tmp_path: Path) -> None:
    files = make_job(tmp_path / "job")
    accepted = _event("update.accepted", round=1, device="a", numbers={"rounds_late": 0.0})
    late = _event("update.accepted", round=1, device="a", numbers={"rounds_late": 1.0})
    silent = _event("device.silent", round=1, device="b", numbers={"repeat": 0.0})
    again = _event("device.silent", round=1, device="b", numbers={"repeat": 1.0})
    started = _event("round.started", round=1)
    log = EventLog(files, ManualClock())
    log.write(accepted, late, silent, accepted, started, started)
    log = EventLog(files, ManualClock())
    log.write(accepted, late, silent, again, started)
    codes = [event.code for event in files.read_events()]
    assert codes.count("update.accepted") == 2
    assert codes.count("device.silent") == 2
    assert codes.count("round.started") == 3
    assert log.devices_told("update.accepted", number=1) == {"a"}


def test_a_checkpoint_is_the_newest_round_and_older_ones_are_dropped(tmp_path: Path) -> None:
    files = make_job(tmp_path / "job")
    files.make_rounds_folder()
    for number in (1, 2):
        progress = _checkpoint(files, number)
        assert files.read_progress() == progress
        assert digest_weights(files.read_checkpoint()) == progress.weights_digest
        weights, state = files.read_round(number)
        assert digest_weights(weights) == progress.weights_digest
        assert int(state["step.count"][0]) == number
    names = sorted(path.name for path in files.rounds.iterdir())
    assert names == ["server-2.npz", "weights-2.npz"]


def test_the_hub_reads_the_weights_that_the_progress_is_about(tmp_path: Path) -> None:
    """A kill between checkpoint.npz and checkpoint.json leaves the first one Round newer."""
    folders = JobFolders(tmp_path / "learning")
    job = JobId("job-1")
    folders.folder(job).mkdir()
    files = make_job(folders.folder(job))
    files.make_rounds_folder()
    progress = _checkpoint(files, 1)
    newer = encode_weights({"layer.weight": np.full((3, 4), 7.0, np.float32)})
    write_durably(files.folder / "checkpoint.npz", newer)
    assert folders.read_progress(job) == progress
    data = folders.read_weights(job, rounds_done=progress.rounds_done)
    assert digest_weights(decode_weights(data)) == progress.weights_digest


def test_what_was_opened_and_what_is_to_be_said_come_back(tmp_path: Path) -> None:
    files = make_job(tmp_path / "job")
    files.make_rounds_folder()
    assert files.read_opened() is None
    assert files.read_closing() is None
    opened = Opened(round=3, repeat=1, devices=("a", "b"))
    closing = Closing(round=3, events=(_event(round=3),))
    files.write_opened(opened)
    files.write_closing(closing)
    assert JobFiles(files.folder).read_opened() == opened
    assert JobFiles(files.folder).read_closing() == closing


def test_a_damaged_file_is_an_error_with_a_name_and_no_guess(tmp_path: Path) -> None:
    files = make_job(tmp_path / "job")
    (files.folder / PROGRESS).write_bytes(b'{"rounds_done": 1')
    with pytest.raises(ContractError) as caught:
        files.read_progress()
    assert caught.value.code == "job.file_invalid"
    assert PROGRESS in caught.value.message


def test_waiting_for_the_folder_has_an_end(tmp_path: Path) -> None:
    files, clock = make_job(tmp_path / "job"), ManualClock()
    held = files.lock()
    start_s = clock.monotonic_s()
    with pytest.raises(UnavailableError) as caught, files.held(clock):
        pass
    assert caught.value.code == "job.running"
    assert 30.0 <= clock.monotonic_s() - start_s < 32.0
    held.release()
    with files.held(clock), pytest.raises(UnavailableError):
        JobFiles(files.folder).lock()
    files.lock().release()
