"""JobFiles: the folder of one Job on the disk, by the names and shapes of job_folder.py.

1. The hub writes the plan, the first weights and `stop`; the ServerApp everything else.
2. A checkpoint is whole or not there. Weights and optimiser state of Round N go to
   `rounds/weights-N.npz` and `rounds/server-N.npz`, checkpoint.npz becomes a second name of that
   first file, and then checkpoint.json says N: that write is the instant at which Round N is done.
3. `rounds/open.json` says who was asked in the Round that runs, so that after a kill only those
   who have not answered are asked again.
4. `rounds/closing.json` holds the events that follow from a Round being done. It is written before
   the checkpoint, they are appended after it: a kill in between loses none.
5. One appender of events at a time: whoever holds the lock.
"""

import os
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import msgspec
import numpy as np

from cloud_hub.training.job_folder import (
    CHECKPOINT,
    EVENT_BYTES_MAX,
    EVENTS,
    FILE_BYTES_MAX,
    INITIAL,
    PLAN,
    PROGRESS,
    RESULT,
    ROUNDS,
    STOP,
    JobEvent,
    JobPlan,
    JobResult,
    NodeStanding,
    Progress,
    Standing,
)
from cloud_hub.training.round_rules import Closing, Opened
from shared.clock import Clock
from shared.durable_file import make_folder, sync_folder, write_durably, write_failed
from shared.errors import ContractError
from shared.file_lock import FileLock, wait_for_lock
from shared.model.weights import WEIGHTS_BYTES_MAX, Array, decode_weights, encode_weights

LOCK = "lock"
LOCK_WAIT_S = 30.0  # For another ServerApp, whose run is over, to end
OPEN = "open.json"
CLOSING = "closing.json"
EVENTS_READ_BYTES_MAX = 64 << 20  # At once; more is read from the last number on

T = TypeVar("T")


class JobFiles:
    """See the rules above. Not safe to share between threads."""

    def __init__(self, folder: Path) -> None:
        """Args: `folder` exists, or is made by `create`."""
        self.folder = folder
        self.rounds = folder / ROUNDS
        self._events_end: tuple[int, int] | None = None  # Bytes that are whole, and the last number

    def create(self, plan: JobPlan, initial: bytes) -> None:
        """Write what the hub writes: the first weights, then the plan.

        Raises TransientError `disk.write_failed`.
        """
        make_folder(self.folder)
        write_durably(self.folder / INITIAL, initial)
        write_durably(self.folder / PLAN, msgspec.json.format(msgspec.json.encode(plan)))

    def lock(self) -> FileLock:
        """Return the right to run this Job. Raises UnavailableError `job.running`."""
        return FileLock(
            self.folder / LOCK, code="job.running", holder="Another ServerApp runs this Job"
        )

    @contextmanager
    def held(self, clock: Clock) -> Iterator[None]:
        """Hold the right to run this Job, waiting LOCK_WAIT_S for another to let go of it.

        Raises UnavailableError `job.running`.
        """
        lock = wait_for_lock(self.lock, clock, seconds_max=LOCK_WAIT_S)
        try:
            yield
        finally:
            lock.release()

    def read_plan(self) -> JobPlan:
        """Return the plan. Raises ContractError `job.file_invalid`."""
        plan = self._read(self.folder / PLAN, JobPlan)
        if plan is None:
            raise ContractError("job.file_invalid", f"{self.folder / PLAN} is not there.")
        return plan

    def read_initial(self) -> dict[str, Array]:
        """Return the weights to start from. Raises ContractError `weights.invalid`."""
        return _read_weights(self.folder / INITIAL)

    # Events

    def append_event(self, event: JobEvent) -> JobEvent:
        """Return `event` with its number, durably appended.

        Args: `event` may carry any number; the next one is put in its place.

        Raises TransientError `disk.write_failed`; then nothing was appended.
        """
        end, last = self._events_end or self._recover_events()
        numbered = msgspec.structs.replace(event, number=last + 1)
        line = msgspec.json.encode(numbered) + b"\n"
        assert len(line) <= EVENT_BYTES_MAX
        path = self.folder / EVENTS
        try:
            with path.open("r+b") as file:
                file.seek(end)
                file.write(line)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            self._events_end = None  # What was half written is cut off before the next
            raise write_failed(path, error) from error
        self._events_end = (end + len(line), last + 1)
        return numbered

    def read_events(self, *, after: int = 0, limit: int | None = None) -> tuple[JobEvent, ...]:
        """Return whole events numbered above `after`, oldest first."""
        events = []
        for line in self._event_lines():
            event = _decode(line, JobEvent)
            if event is None or event.number <= after:
                continue
            events.append(event)
            if limit is not None and len(events) >= limit:
                break
        return tuple(events)

    # How far the Job is

    def read_progress(self) -> Progress | None:
        """Return what the checkpoint holds; None before the first Round is done."""
        return self._read(self.folder / PROGRESS, Progress)

    def read_checkpoint(self) -> dict[str, Array]:
        """Return the weights of the last Round that is done. Raises ContractError."""
        return _read_weights(self.folder / CHECKPOINT)

    def weights_path(self, number: int) -> Path:
        """Return where the weights after Round `number` are, if it was closed last."""
        return self.rounds / f"weights-{number}.npz"

    def read_round(self, number: int) -> tuple[dict[str, Array], dict[str, Array]]:
        """Return weights and optimiser state after Round `number`. Raises ContractError."""
        return (
            _read_weights(self.weights_path(number)),
            _read_state(self.rounds / f"server-{number}.npz"),
        )

    def write_checkpoint(
        self, progress: Progress, weights: Mapping[str, Array], state: Mapping[str, Array]
    ) -> None:
        """Make Round `progress.rounds_done` done; rule 2.

        Raises TransientError `disk.write_failed`: then the last checkpoint stands.
        """
        number = progress.rounds_done
        written = self.weights_path(number)
        write_durably(self.rounds / f"server-{number}.npz", encode_weights(state))
        write_durably(written, encode_weights(weights))
        _link_durably(written, self.folder / CHECKPOINT)
        write_durably(self.folder / PROGRESS, msgspec.json.encode(progress))
        self.drop_rounds_but(number)

    def updates_folder(self, number: int) -> Path:
        """Return where the updates of Round `number` go until it is done."""
        return self.rounds / f"updates-{number}"

    def drop_rounds_but(self, number: int) -> None:
        """Remove what Rounds before and after `number` left, but for what came for the next."""
        for path in self.rounds.glob("*.npz"):
            kind, _, of = path.stem.rpartition("-")
            if kind in ("weights", "server") and of != str(number):
                path.unlink(missing_ok=True)
        for folder in self.rounds.glob("updates-*"):
            if folder != self.updates_folder(number + 1):
                shutil.rmtree(folder, ignore_errors=True)

    def read_opened(self) -> Opened | None:
        """Return who was asked in the Round that ran last; None if nobody was yet."""
        return self._read(self.rounds / OPEN, Opened)

    def write_opened(self, opened: Opened) -> None:
        """Remember who is asked. Raises TransientError `disk.write_failed`."""
        write_durably(self.rounds / OPEN, msgspec.json.encode(opened))

    def read_closing(self) -> Closing | None:
        """Return what is to be said of the Round that was closed last, if it is done."""
        return self._read(self.rounds / CLOSING, Closing)

    def write_closing(self, closing: Closing) -> None:
        """Remember what is to be said; rule 4. Raises TransientError `disk.write_failed`."""
        write_durably(self.rounds / CLOSING, msgspec.json.encode(closing))

    def make_rounds_folder(self) -> None:
        """Make the ServerApp's own folder, without what a kill left half written.

        Raises TransientError `disk.write_failed`.
        """
        make_folder(self.rounds)
        own = (CHECKPOINT, PROGRESS, RESULT)  # The hub may be writing its own here
        patterns = [f".{name}.*.tmp" for name in own]
        left = [path for pattern in patterns for path in self.folder.glob(pattern)]
        for path in (*left, *self.rounds.glob(".*.tmp")):
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                raise write_failed(path, error) from error

    # How it ends

    def is_stop_asked(self) -> bool:
        """Whether the hub wants the Job to end."""
        return (self.folder / STOP).exists()

    def ask_stop(self) -> None:
        """Ask the ServerApp to end the Job. Raises TransientError `disk.write_failed`."""
        write_durably(self.folder / STOP, b"")

    def read_result(self) -> JobResult | None:
        """Return how the Job ended; None while it has not."""
        return self._read(self.folder / RESULT, JobResult)

    def write_result(self, result: JobResult) -> None:
        """Say how it ended; the last file. Raises TransientError `disk.write_failed`."""
        write_durably(self.folder / RESULT, msgspec.json.encode(result))

    def _recover_events(self) -> tuple[int, int]:
        """Cut off a torn last line; return how long the file is, and its last number."""
        path = self.folder / EVENTS
        last = max((event.number for event in self.read_events()), default=0)
        try:
            with path.open("a+b") as file:
                file.seek(0)
                end = file.read().rfind(b"\n") + 1
                file.truncate(end)
        except OSError as error:
            raise write_failed(path, error) from error
        return end, last

    def _event_lines(self) -> Sequence[bytes]:
        try:
            data = (self.folder / EVENTS).read_bytes()
        except FileNotFoundError:
            return ()
        return data[: data.rfind(b"\n") + 1].splitlines()

    def _read(self, path: Path, shape: type[T]) -> T | None:
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return None
        found = _decode(data, shape) if len(data) <= FILE_BYTES_MAX else None
        if found is None:
            raise ContractError("job.file_invalid", f"{path} is not understood.")
        return found


def read_nodes(standing_path: Path) -> tuple[NodeStanding, ...]:
    """Return which node is which device, by the SuperLink's last word; () if it has none."""
    try:
        standing = _decode(standing_path.read_bytes(), Standing)
    except OSError:
        return ()
    return () if standing is None else standing.nodes


def _decode(data: bytes, shape: type[T]) -> T | None:
    try:
        return msgspec.json.decode(data, type=shape)
    except (msgspec.MsgspecError, ValueError):
        return None


def _read_weights(path: Path) -> dict[str, Array]:
    try:
        return decode_weights(path.read_bytes())
    except OSError as error:
        raise ContractError("job.file_invalid", f"Cannot read {path}: {error.strerror}.") from error


def _read_state(path: Path) -> dict[str, Array]:
    """Return an optimiser's arrays, of whatever type they are."""
    try:
        if path.stat().st_size > 2 * WEIGHTS_BYTES_MAX:
            raise ContractError("job.file_invalid", f"{path} is too large.")
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError) as error:
        raise ContractError("job.file_invalid", f"Cannot read {path}: {error}.") from error


def _link_durably(path: Path, other_name: Path) -> None:
    """Make `other_name` a second name of the file at `path`, in one step."""
    temporary = other_name.with_name(f".{other_name.name}.{secrets.token_hex(4)}.tmp")
    try:
        temporary.hardlink_to(path)
        temporary.replace(other_name)
        temporary.unlink(missing_ok=True)  # Two names of one file: rename leaves both
        sync_folder(other_name.parent)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise write_failed(other_name, error) from error
