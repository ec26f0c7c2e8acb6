"""FileLock: one holder at a time; what a killed holder leaves is nothing."""

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from shared.errors import UnavailableError
from shared.file_lock import FileLock, is_locked, wait_for_lock
from tests.support.manual_clock import ManualClock

HOLD = """
import sys
from pathlib import Path
from shared.file_lock import FileLock
held = FileLock(Path(sys.argv[1]), code="x.running", holder="Another")
print("held", flush=True)
sys.stdin.read()
"""


def take(path: Path) -> FileLock:
    return FileLock(path, code="x.running", holder="Another one runs")


def test_a_second_holder_is_refused_until_the_first_lets_go(tmp_path: Path) -> None:
    first = take(tmp_path / "lock")
    assert is_locked(tmp_path / "lock")
    with pytest.raises(UnavailableError) as raised:
        take(tmp_path / "lock")
    assert (raised.value.code, raised.value.message) == ("x.running", "Another one runs.")
    first.release()
    assert not is_locked(tmp_path / "lock")
    take(tmp_path / "lock").release()


def test_a_lock_is_waited_for_within_a_limit(tmp_path: Path) -> None:
    clock, stop = ManualClock(), threading.Event()
    held = take(tmp_path / "lock")
    began_s = clock.monotonic_s()
    with pytest.raises(UnavailableError) as raised:
        wait_for_lock(lambda: take(tmp_path / "lock"), clock, seconds_max=5.0)
    assert raised.value.code == "x.running"
    assert 5.0 <= clock.monotonic_s() - began_s < 6.0

    tries: list[float] = []

    def take_later() -> FileLock:
        tries.append(clock.monotonic_s())
        if len(tries) == 3:
            held.release()
        return take(tmp_path / "lock")

    wait_for_lock(take_later, clock, seconds_max=5.0).release()
    assert len(tries) == 3
    held = take(tmp_path / "lock")
    stop.set()
    began_s = clock.monotonic_s()
    with pytest.raises(UnavailableError):
        wait_for_lock(lambda: take(tmp_path / "lock"), clock, seconds_max=5.0, stop=stop)
    assert clock.monotonic_s() == began_s
    held.release()


def test_looking_takes_nothing(tmp_path: Path) -> None:
    assert not is_locked(tmp_path / "lock")
    assert not (tmp_path / "lock").exists()
    take(tmp_path / "lock").release()
    assert not is_locked(tmp_path / "lock")
    take(tmp_path / "lock").release()


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError) as raised:
        take(tmp_path / "none" / "lock")
    assert raised.value.code == "state.unusable"
    assert "--state" in raised.value.remedy


@pytest.mark.slow
def test_a_killed_holder_holds_nothing(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        assert is_locked(path)
        process.kill()
        process.wait()
    assert not is_locked(path)
