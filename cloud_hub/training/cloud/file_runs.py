"""RunFolders: `<state>/training/` on the disk: its name, and one folder for each run.

1. `place_id` names this disk; Jobs carry it, and only hubs that see this folder take their runs.
2. `runs/<Job>-<index>/` is a run's folder (run_files.py). job.json is written last: with it the
   folder is whole. A folder may be prepared again at any time; what a trainer wrote stays.
3. `jobs/<Job>/` holds what all runs of a Job start from, once: the runs' folders have second names
   of those files, and what the search asks and is answered.
4. Events are read from where the last look ended, whole lines only, so many bytes at a time.
"""

import logging
import os
import secrets
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import msgspec

from cloud_hub.training.cloud.cloud_job import RunKey
from cloud_hub.training.trainer.run_files import (
    BEST,
    ERROR,
    EVENTS,
    LOG,
    REPORT,
    RESULT,
    SPEC,
    STOP,
    RunError,
    RunResult,
)
from cloud_hub.training.trainer.spec import TrainSpec
from shared.durable_file import (
    create_durably,
    make_folder,
    make_private_folder,
    write_durably,
    write_failed,
)
from shared.errors import ContractError

log = logging.getLogger(__name__)

RUNS = "runs"
JOBS = "jobs"
CACHE = "cache"
RAY = "ray"
PLACE_ID = "place_id"
PLACE_ID_CHARS_MAX = 63
EVENTS_READ_BYTES_MAX = 1 << 20  # In one look
LINE_BYTES_MAX = 1 << 16  # A longer one is no event
RESULT_BYTES_MAX = 4 << 20
TAIL_BYTES_MAX = 1 << 20
PLOT_BYTES_MAX = 4 << 20
WEIGHTS_BYTES_MAX = 2 << 30  # As shared/model/weights.py, which imports numpy
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class EventLines:
    """Whole lines, and up to where they were read."""

    lines: tuple[bytes, ...]
    end: int


class RunFolders:
    """See the rules above. Safe to share between threads."""

    def __init__(self, training: Path) -> None:
        """Make the folder `training` and its name, unless they are there."""
        make_private_folder(training)
        for name in (RUNS, JOBS, CACHE):
            make_folder(training / name)
        self.training = training
        self.place_id = _read_place_id(training / PLACE_ID)

    @property
    def runs(self) -> Path:
        """Return the folder of all runs."""
        return self.training / RUNS

    @property
    def cache(self) -> Path:
        """Return where trainers keep decoded datasets."""
        return self.training / CACHE

    def run(self, key: RunKey) -> Path:
        """Return a run's folder."""
        return self.runs / key

    def job(self, job_id: str) -> Path:
        """Return a Job's folder."""
        return self.training / JOBS / job_id

    def is_whole(self, key: RunKey) -> bool:
        """Whether a run's folder has all that its trainer needs."""
        return (self.run(key) / SPEC).is_file()

    def keep_shared(self, job_id: str, name: str, data: bytes) -> None:
        """Write a file that all runs of a Job start from. Raises TransientError."""
        make_folder(self.job(job_id))
        write_durably(self.job(job_id) / name, data)

    def has_shared(self, job_id: str, name: str) -> bool:
        """Whether a Job's folder has a file."""
        return (self.job(job_id) / name).is_file()

    def prepare(self, job_id: str, key: RunKey, spec: TrainSpec) -> None:
        """Make a run's folder whole. Raises TransientError `disk.write_failed`."""
        folder = self.run(key)
        make_folder(folder)
        try:
            for source in self.job(job_id).glob("[!.]*"):
                if not (folder / source.name).is_file():
                    (folder / source.name).hardlink_to(source)
        except OSError as error:
            raise write_failed(folder, error) from error
        write_durably(folder / SPEC, msgspec.json.format(msgspec.json.encode(spec)))

    def ask_stop(self, key: RunKey) -> None:
        """Ask a run's trainer to end after its next step. Raises TransientError."""
        path = self.run(key) / STOP
        if path.parent.is_dir() and not path.exists():
            write_durably(path, b"")

    def forget_stop(self, key: RunKey) -> None:
        """Take such a wish back: the run is to go on. Raises TransientError."""
        path = self.run(key) / STOP
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise write_failed(path, error) from error

    def read_result(self, key: RunKey) -> RunResult | None:
        """Return what came of a run; None while nothing has. Raises ContractError."""
        data = _read(self.run(key) / RESULT, RESULT_BYTES_MAX)
        return None if data is None else _decoded(data, RunResult, RESULT)

    def read_error(self, key: RunKey) -> RunError | None:
        """Return why a run's trainer refused; None where it did not. Raises ContractError."""
        data = _read(self.run(key) / ERROR, RESULT_BYTES_MAX)
        return None if data is None else _decoded(data, RunError, ERROR)

    def read_report(self, key: RunKey) -> bytes | None:
        """Return a run's report as it was written, or None."""
        return _read(self.run(key) / REPORT, RESULT_BYTES_MAX * 4)

    def read_file(self, key: RunKey, name: str) -> bytes | None:
        """Return one of a run's files, by its name, or None where there is none."""
        return _read(self.run(key) / name, WEIGHTS_BYTES_MAX)

    def read_best(self, key: RunKey) -> bytes | None:
        """Return a run's best weights, or None where there are none that can be read."""
        return _read(self.run(key) / BEST, WEIGHTS_BYTES_MAX)

    def read_plot(self, key: RunKey, name: str) -> bytes | None:
        """Return one of a report's pictures, or None; `name` is a name, never a path."""
        if "/" in name or name.startswith(".") or not name.endswith(".png"):
            return None
        return _read(self.run(key) / name, PLOT_BYTES_MAX)

    def plots(self, key: RunKey) -> tuple[str, ...]:
        """Return the names of a run's pictures."""
        folder = self.run(key)
        if not folder.is_dir():
            return ()
        return tuple(sorted(path.name for path in folder.glob("*.png") if path.is_file()))

    def read_events(self, key: RunKey, after: int) -> EventLines:
        """Return the whole lines after byte `after`, EVENTS_READ_BYTES_MAX of them at most.

        What has no end after so many bytes is no line: it is skipped.
        """
        try:
            with (self.run(key) / EVENTS).open("rb") as file:
                file.seek(after)
                data = file.read(EVENTS_READ_BYTES_MAX)
        except OSError:
            return EventLines((), after)  # Not begun, or gone
        whole, end, torn = data.rpartition(b"\n")
        if not end:
            # A line that never ends says nothing; go past it.
            return EventLines((), after + (len(data) if len(data) >= LINE_BYTES_MAX else 0))
        lines = tuple(line for line in whole.split(b"\n") if len(line) <= LINE_BYTES_MAX)
        return EventLines(lines, after + len(data) - len(torn))

    def read_tail(self, key: RunKey, bytes_max: int) -> str:
        """Return the end of what a run's processes printed."""
        try:
            with (self.run(key) / LOG).open("rb") as file:
                file.seek(0, os.SEEK_END)
                file.seek(max(0, file.tell() - min(bytes_max, TAIL_BYTES_MAX)))
                return file.read().decode(errors="replace")
        except OSError:
            return ""

    def remove_run(self, key: RunKey) -> None:
        """Remove a run's folder."""
        shutil.rmtree(self.run(key), ignore_errors=True)

    def remove_job(self, job_id: str) -> None:
        """Remove a Job's folder, not its runs'."""
        shutil.rmtree(self.job(job_id), ignore_errors=True)

    def stale_runs(self, *, before_s: float) -> tuple[RunKey, ...]:
        """Return the run folders that nobody has changed since `before_s`, seconds since 1970."""
        return tuple(RunKey(name) for name in _stale(self.runs, before_s))

    def stale_jobs(self, *, before_s: float) -> tuple[str, ...]:
        """Return the Job folders that nobody has changed since `before_s`."""
        return _stale(self.training / JOBS, before_s)

    def limit_cache(self, bytes_max: int) -> int:
        """Remove the decoded datasets that were used longest ago; return how many went."""
        entries = []
        for path in self.cache.iterdir():
            with suppress(OSError):
                files = [file.stat() for file in path.rglob("*") if file.is_file()]
                used_s = max((max(s.st_atime, s.st_mtime) for s in files), default=0.0)
                entries.append((used_s, sum(s.st_size for s in files), path))
        total, gone = sum(size for _, size, _ in entries), 0
        for _, size, path in sorted(entries):
            if total <= bytes_max:
                break
            shutil.rmtree(path, ignore_errors=True)  # A trainer that maps it keeps what it maps
            total, gone = total - size, gone + 1
        return gone


def _stale(folder: Path, before_s: float) -> tuple[str, ...]:
    found = []
    for path in folder.iterdir():
        with suppress(OSError):
            if path.stat().st_mtime < before_s:
                found.append(path.name)
    return tuple(sorted(found))


def _read(path: Path, bytes_max: int) -> bytes | None:
    try:
        with path.open("rb") as file:
            data = file.read(bytes_max + 1)
    except OSError:
        return None
    return data if len(data) <= bytes_max else None


def _decoded(data: bytes, shape: type[T], name: str) -> T:
    try:
        return msgspec.json.decode(data, type=shape)
    except msgspec.MsgspecError as error:
        raise ContractError("run.result_invalid", f"{name} cannot be read: {error}.") from error


def _read_place_id(path: Path) -> str:
    create_durably(path, f"place-{secrets.token_hex(5)}".encode())
    return path.read_bytes()[:PLACE_ID_CHARS_MAX].decode()
