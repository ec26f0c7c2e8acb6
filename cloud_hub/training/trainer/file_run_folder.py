"""RunFolder: the files of one training run, as run_files.py says they are.

What must not live here: torch, what an Event means.

1. One process at a time holds the folder, by a lock that dies with it.
2. An Event that would tear after another's torn end begins a line of its own.
3. Some bytes are kept back while training goes on and given up for ERROR: a full disk can still be
   told from a silent death.
4. A file that does not fit on the disk raises RefusedError `disk.full`; what was there stays.
"""

import errno
import os
import re
from pathlib import Path
from typing import BinaryIO

import msgspec

from cloud_hub.training.trainer.run_files import (
    ERROR,
    EVENTS,
    EVENTS_BYTES_MAX,
    RESULT,
    SPEC,
    STATE_PATTERN,
    STATES_KEPT,
    STOP,
    Event,
    Progressed,
    RunError,
    RunResult,
    encode_event,
)
from cloud_hub.training.trainer.spec import TrainSpec
from shared.durable_file import create_durably, write_durably
from shared.errors import ContractError, IsthmusError, RefusedError, TransientError
from shared.file_lock import FileLock

SPEC_BYTES_MAX = 4 << 20
WEIGHTS_BYTES_MAX = 2 << 30
RESERVE = ".reserve"
RESERVE_BYTES = 16 << 10
LOCK = ".lock"
TEXT_MAX = 2000  # Of what ERROR says
_STATE_NAME = re.compile(r"state-\d{10}\.pt\Z")


class RunFolder:
    """See the rules above. One writer: rank 0."""

    def __init__(self, path: Path) -> None:
        """Args: path: of the folder that holds job.json."""
        self.path = path
        self._lock: FileLock | None = None
        self._events: BinaryIO | None = None

    def read_spec(self) -> TrainSpec:
        """Return the run's spec. Raises ContractError `training.spec`."""
        return read_spec(self.path / SPEC)

    def hold(self) -> None:
        """Make this process the folder's only writer.

        Raises UnavailableError `training.running` and RefusedError `disk.full`.
        """
        holder = f"Another trainer works in {self.path}"
        self._lock = FileLock(self.path / LOCK, code="training.running", holder=holder)
        try:
            (self.path / ERROR).unlink(missing_ok=True)  # Of an earlier attempt
            (self.path / RESERVE).write_bytes(bytes(RESERVE_BYTES))
            for left in self.path.glob(".*.tmp"):
                left.unlink(missing_ok=True)  # A torn write of one who died
        except OSError as error:
            raise write_refused(self.path, error) from error

    def release(self) -> None:
        """Let the next one in."""
        if self._events is not None:
            self._events.close()
            self._events = None
        (self.path / RESERVE).unlink(missing_ok=True)
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def append(self, event: Event) -> None:
        """Tell an Event. Raises RefusedError `disk.full` or TransientError `disk.write_failed`."""
        try:
            if self._events is None:
                self._events = _open_events(self.path / EVENTS)
            is_full = self._events.tell() > EVENTS_BYTES_MAX
            if is_full and isinstance(event, Progressed):
                return
            self._events.write(encode_event(event))
        except OSError as error:
            raise write_refused(self.path / EVENTS, error) from error

    @property
    def is_stop_asked(self) -> bool:
        """Whether somebody wants this run to end."""
        return (self.path / STOP).exists()

    @property
    def has_result(self) -> bool:
        """Whether the run is done."""
        return (self.path / RESULT).exists()

    def states(self) -> list[Path]:
        """Return the saved states, newest first."""
        found = (p for p in self.path.iterdir() if _STATE_NAME.fullmatch(p.name))
        return sorted(found, key=lambda p: p.name, reverse=True)

    def write_state(self, step: int, data: bytes) -> None:
        """Make a state durable, and forget those before the last STATES_KEPT."""
        self.write(STATE_PATTERN.format(step=step), data)
        for old in self.states()[STATES_KEPT:]:
            old.unlink(missing_ok=True)

    def forget_states(self) -> None:
        """Remove what nobody resumes from: the run is done."""
        for state in self.states():
            state.unlink(missing_ok=True)

    def write_result(self, result: RunResult) -> None:
        """Say that the run is done; the last thing written."""
        self.write(RESULT, msgspec.json.encode(result))

    def write(self, name: str, data: bytes) -> None:
        """Write a file whole. Raises RefusedError `disk.full`, or TransientError."""
        try:
            write_durably(self.path / name, data)
        except TransientError as error:
            if isinstance(error.__cause__, OSError):
                raise write_refused(self.path / name, error.__cause__) from error
            raise

    def write_error(self, error: IsthmusError) -> bool:
        """Say why the run cannot go on, unless another process has; return whether that lasts."""
        (self.path / RESERVE).unlink(missing_ok=True)
        told = RunError(error.code, error.message[:TEXT_MAX], error.remedy[:TEXT_MAX])
        try:
            create_durably(self.path / ERROR, msgspec.json.encode(told))
        except TransientError:
            return False  # Not even that fits; the exit code still tells
        return True


def read_spec(path: Path) -> TrainSpec:
    """Return a job.json as a TrainSpec. Raises ContractError `training.spec`."""
    try:
        data = path.read_bytes()
        if len(data) > SPEC_BYTES_MAX:
            raise _bad_spec(f"it is over {SPEC_BYTES_MAX} bytes")
        return msgspec.json.decode(data, type=TrainSpec)
    except OSError as error:
        raise _bad_spec(f"it cannot be read ({error.strerror})") from error
    except msgspec.MsgspecError as error:
        raise _bad_spec(str(error)) from error


def read_weights(path: Path) -> bytes:
    """Return a weights file's bytes. Raises ContractError `weights.missing`."""
    try:
        if path.stat().st_size > WEIGHTS_BYTES_MAX:
            raise ContractError(
                "weights.invalid", f"{path.name} is over {WEIGHTS_BYTES_MAX} bytes."
            )
        return path.read_bytes()
    except OSError as error:
        raise ContractError(
            "weights.missing",
            f"The weights {path.name} cannot be read: {error.strerror}.",
            remedy="Put them beside job.json, or leave start.weights out.",
        ) from error


def write_refused(path: Path, error: OSError) -> IsthmusError:
    """Return the error for a file that cannot be written; see rule 4."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return RefusedError(
            "disk.full",
            f"There is no room left for {path}.",
            remedy="Free some space there, or keep runs elsewhere, and order the Job again.",
        )
    return TransientError(
        "disk.write_failed",
        f"Cannot write {path}: {error.strerror or error}.",
        remedy="Look at the disk and at who owns the folder.",
    )


def _open_events(path: Path) -> BinaryIO:
    """Open for appending, unbuffered, after a whole line; see rule 2."""
    is_torn = False
    if path.exists() and path.stat().st_size:
        with path.open("rb") as file:
            file.seek(-1, os.SEEK_END)
            is_torn = file.read(1) != b"\n"
    events = path.open("ab", buffering=0)
    if is_torn:
        events.write(b"\n")
    return events


def _bad_spec(text: str) -> ContractError:
    return ContractError(
        "training.spec",
        f"{SPEC} is not a training run: {text}.",
        remedy="Correct that key; `$` stands for the whole file.",
    )
