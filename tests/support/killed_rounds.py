"""Runs one Job again and again, killed at each instant at which its disk changes, then resumed.

`python -m tests.support.killed_rounds FOLDER FIRST STEP [private]`: kills at instants FIRST, FIRST
+ STEP ... and prints one JSON line for each: what the Job had come to at the kill, and what the
resumed one came to. The line of instant 0 is of a Job that nobody killed. `private`: under central
privacy, every seed of noise that is drawn is noted in a file that outlives the kill. Kills are
SIGKILL, each in a process of its own.
"""

import json
import os
import secrets
import shutil
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import chain, count
from pathlib import Path

import numpy as np

from cloud_hub.training.event_tally import EventTally
from cloud_hub.training.file_job import JobFiles
from cloud_hub.training.fleet import Answer, Reply
from cloud_hub.training.order import CentralPrivacy
from cloud_hub.training.rounds import RoundLoop
from shared.errors import IsthmusError
from shared.model.weights import Array
from tests.support.manual_clock import ManualClock
from tests.support.played_fleet import PlayedFleet, make_job

CHANGES = ("os.rename", "os.remove", "os.link", "os.rmdir", "os.mkdir", "os.truncate")
WRITES = os.O_WRONLY | os.O_RDWR
PRIVACY = CentralPrivacy(clip_norm=1.0, noise_multiplier=2.0)


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


def note_draws(path: Path) -> None:
    """Note in a file each secret seed that is drawn from here on; there is none but of noise."""
    noted = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    draw = secrets.randbits

    def randbits(count: int) -> int:
        os.write(noted, b".")
        return draw(count)

    secrets.randbits = randbits


def run_once(folder: Path, kill_at: int) -> None:
    """Run the Job until it ends, or until it is killed."""
    note_draws(folder / "drawn")
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


def privacy_of(folder: Path) -> dict[str, object]:
    """What the hub knows of a Job's privacy, and how often noise was drawn for it."""
    files = JobFiles(folder)
    tally = EventTally({}, {})
    tally.add(files.read_events())
    told = [one.epsilon for one in tally.rounds.values() if one.epsilon is not None]
    drawn = folder / "drawn"
    return {
        "epsilon": max(told, default=0.0),
        "drawn": drawn.stat().st_size if drawn.exists() else 0,
    }


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
            p.name
            for p in (*files.rounds.iterdir(), *folder.iterdir())
            if p.name not in ("seen", "drawn")
        ),
        "epsilon": result.epsilon,
        "resumed": privacy_of(folder),
    }


def main() -> None:
    base, first, step = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    privacy = PRIVACY if sys.argv[4:] == ["private"] else None
    for instant in chain((0,), count(first, step)):
        folder = base / f"job-{instant}"
        make_job(folder, central_privacy=privacy)
        is_whole = in_child(lambda folder=folder, at=instant: run_once(folder, at))  # type: ignore[misc]
        at_kill = privacy_of(folder)
        if not is_whole:
            assert in_child(lambda folder=folder: run_once(folder, 0)), instant  # type: ignore[misc]
        line = outcome(folder, instant, was_killed=not is_whole) | {"at_kill": at_kill}
        print(json.dumps(line), flush=True)
        shutil.rmtree(folder)
        if is_whole and instant > 0:
            return


if __name__ == "__main__":
    main()
