"""Runs one Job again and again, killed at each instant at which its disk changes, then resumed.

`python -m tests.support.killed_rounds FOLDER FIRST STEP`: kills at instants FIRST, FIRST + STEP ...
and prints one JSON line for each: what the resumed Job came to. The line of instant 0 is of a Job
that nobody killed. Kills are SIGKILL, each in a process of its own.
"""

import json
import os
import shutil
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import chain, count
from pathlib import Path

import numpy as np

from cloud_hub.training.file_job import JobFiles
from cloud_hub.training.fleet import Answer, Reply
from cloud_hub.training.rounds import RoundLoop
from shared.errors import IsthmusError
from shared.model.weights import Array
from tests.support.manual_clock import ManualClock
from tests.support.played_fleet import PlayedFleet, make_job

CHANGES = ("os.rename", "os.remove", "os.link", "os.rmdir", "os.mkdir", "os.truncate")
WRITES = os.O_WRONLY | os.O_RDWR


class Instants:
    """Counts the instants at which this process changes the disk; ends it at one of them."""

    def __init__(self, kill_at: int) -> None:
        self.seen = 0
        self._kill_at = kill_at
        self.is_on = True
        sys.addaudithook(self._hear)
        os.fsync = lambda fd: self._pass()  # noqa: ARG005 - not flushed: a kill is no power cut

    def _hear(self, event: str, arguments: tuple[object, ...]) -> None:
        is_write = event == "open" and isinstance(arguments[2], int) and arguments[2] & WRITES
        if event in CHANGES or is_write:
            self._pass()

    def _pass(self) -> None:
        if self.is_on:
            self.seen += 1
            if self.seen == self._kill_at:
                os.kill(os.getpid(), signal.SIGKILL)


class CountingFleet(PlayedFleet):
    """Notes in a file that outlives it which answers it gave away."""

    def __init__(self, clock: ManualClock, path: Path) -> None:
        super().__init__(clock)
        self._given = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self.devices["d"].change = _times(1000.0)
        self.devices["e"].change = _times(float("nan"))

    def answers(self, wait_s: float) -> Sequence[Answer]:
        found = super().answers(wait_s)
        for _ in found:
            os.write(self._given, b".")
        return found


def _times(factor: float) -> Callable[[Reply], Reply]:
    def change(reply: Reply) -> Reply:
        arrays: dict[str, Array] = {
            name: np.multiply(array, np.float32(factor)) for name, array in reply.arrays.items()
        }
        return replace(reply, arrays=arrays)

    return change


def run_once(folder: Path, kill_at: int) -> None:
    """Run the Job until it ends, or until it is killed."""
    clock = ManualClock()
    fleet = CountingFleet(clock, folder / "given")
    instants = Instants(kill_at)
    RoundLoop(JobFiles(folder), fleet, clock).run()
    instants.is_on = False
    (folder / "seen").write_text(str(instants.seen))


def in_child(work: Callable[[], None]) -> bool:
    """Do `work` in a process of its own; return whether it came to its end."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
            os._exit(0)
        except IsthmusError as error:
            print(json.dumps({"error": f"{error.code}: {error.message}"}), flush=True)
            os._exit(1)
        finally:
            os._exit(2)
    return os.waitpid(pid, 0)[1] == 0


def outcome(folder: Path, instant: int, *, was_killed: bool) -> dict[str, object]:
    """What a test wants to know of a Job that is over."""
    files = JobFiles(folder)
    result = files.read_result()
    assert result is not None
    return {
        "instant": instant,
        "was_killed": was_killed,
        "code": result.code,
        "digest": result.weights_digest,
        "given": (folder / "given").stat().st_size,
        "events": [
            [e.number, e.code, e.round, e.device, sorted(e.numbers)] for e in files.read_events()
        ],
        "left": sorted(
            p.name for p in (*files.rounds.iterdir(), *folder.iterdir()) if p.name != "seen"
        ),
    }


def main() -> None:
    base, first, step = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    for instant in chain((0,), count(first, step)):
        folder = base / f"job-{instant}"
        make_job(folder)
        is_whole = in_child(lambda folder=folder, at=instant: run_once(folder, at))  # type: ignore[misc]
        if not is_whole:
            assert in_child(lambda folder=folder: run_once(folder, 0)), instant  # type: ignore[misc]
        print(json.dumps(outcome(folder, instant, was_killed=not is_whole)), flush=True)
        shutil.rmtree(folder)
        if is_whole and instant > 0:
            return


if __name__ == "__main__":
    main()
