"""Files of a Round: one for each update that is not in a checkpoint, and the checkpoint.

    <number>.update   length of the record (8 bytes), UpdateRecord as JSON, float32 numbers
    sum.checkpoint    length of the ledger (8 bytes), Ledger as JSON, float64 numbers

1. A file appears whole and on the disk, or not at all: written beside, flushed, renamed, and the
   folder flushed.
2. Numbers are little-endian and read back by blocks, never a whole file at once but where an
   update's own memory is at hand for it. Reading, not mapping: mapped pages would count as the
   process's memory until the kernel takes them back.
"""

import os
import secrets
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from cloud_hub.training.aggregation.entry import UpdateRecord
from cloud_hub.training.aggregation.mean import Sum
from cloud_hub.training.aggregation.robust import Block, BlockMean
from shared.durable_file import make_folder, sync_folder, write_failed
from shared.errors import IntegrityError
from shared.model.weights import Vector

CHECKPOINT_NAME = "sum.checkpoint"
HEADER_BYTES_MAX = 16 << 20
BLOCK_BYTES = 32 << 20  # Of one block of columns over all updates
WORKERS = 2  # Blocks at a time
CHUNK = 1 << 20  # Numbers read at a time where one update is folded from its file
_SUFFIX = ".update"
_UPDATE_DTYPE = np.dtype("<f4")
_SUM_DTYPE = np.dtype("<f8")
Number = TypeVar("Number", np.float32, np.float64)
Shape = TypeVar("Shape", bound=msgspec.Struct)


class Ledger(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which updates a checkpoint's sum holds, in the order they were folded."""

    folded: tuple[UpdateRecord, ...]


class Spool:
    """The folder of one Round."""

    def __init__(self, folder: Path, size: int) -> None:
        """Args: size: numbers of an update."""
        self._folder = folder
        self._size = size
        make_folder(folder)

    def update_bytes(self) -> int:
        """Return about how large one update's file is."""
        return self._size * _UPDATE_DTYPE.itemsize

    def write(self, record: UpdateRecord, vector: Vector) -> None:
        """Put an update on the disk. Raises TransientError `disk.write_failed`."""
        numbers = np.ascontiguousarray(vector, _UPDATE_DTYPE)
        _write(self._path(record.number), msgspec.json.encode(record), numbers)

    def drop(self, number: int) -> None:
        """Remove an update, if it is there. Raises TransientError `disk.write_failed`."""
        path = self._path(number)
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise write_failed(path, error) from error

    def records(self) -> tuple[UpdateRecord, ...]:
        """Return what is here, in order of arrival, and remove what a crash left half written.

        Raises IntegrityError `round.damaged`, TransientError `disk.write_failed`.
        """
        for path in self._folder.glob(".*.tmp"):
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                raise write_failed(path, error) from error
        found = [self._record(path) for path in self._folder.glob("*" + _SUFFIX)]
        return tuple(sorted(found, key=lambda record: record.number))

    def write_checkpoint(self, ledger: Ledger, total: Sum) -> None:
        """Put the sum on the disk. Raises TransientError `disk.write_failed`."""
        numbers = np.ascontiguousarray(total, _SUM_DTYPE)
        _write(self._folder / CHECKPOINT_NAME, msgspec.json.encode(ledger), numbers)

    def read_checkpoint(self) -> tuple[Ledger, Sum] | None:
        """Return the newest checkpoint, if there is one. Raises IntegrityError `round.damaged`."""
        path = self._folder / CHECKPOINT_NAME
        if not path.exists():
            return None
        ledger, start = _read_header(path, Ledger, self._size * _SUM_DTYPE.itemsize)
        total = np.empty(self._size, _SUM_DTYPE)
        _read_into(path, start, total)
        return ledger, total

    def for_each_chunk(self, number: int, work: Callable[[int, Vector], None]) -> None:
        """Call `work` with where a part of an update starts, and the part; it is valid until then.

        Raises IntegrityError `round.damaged`.
        """
        path, start = self._path(number), self._numbers_start(number)
        buffer = np.empty(min(CHUNK, self._size), _UPDATE_DTYPE)
        for first in range(0, self._size, CHUNK):
            part = buffer[: min(CHUNK, self._size - first)]
            _read_into(path, start + first * _UPDATE_DTYPE.itemsize, part)
            work(first, part)

    def map_columns(self, numbers: Sequence[int], mean: BlockMean) -> Vector:
        """Return `mean` of every column over some updates (N,), WORKERS blocks at a time."""
        result = np.empty(self._size, np.float32)
        starts = [self._numbers_start(number) for number in numbers]
        columns = self._columns(len(numbers))

        def work(first: int) -> None:
            stop = min(first + columns, self._size)
            result[first:stop] = mean(self._block(numbers, starts, first, stop))

        with ThreadPoolExecutor(WORKERS) as pool:
            list(pool.map(work, range(0, self._size, columns)))
        return result

    def for_each_block(self, numbers: Sequence[int], work: Callable[[Block], None]) -> None:
        """Call `work` with one block of columns (n, b) after the other."""
        starts = [self._numbers_start(number) for number in numbers]
        columns = self._columns(len(numbers))
        for first in range(0, self._size, columns):
            work(self._block(numbers, starts, first, min(first + columns, self._size)))

    def remove(self) -> None:
        """Remove the folder and all in it. Raises TransientError `disk.write_failed`."""
        try:
            for path in self._folder.glob("*"):
                path.unlink(missing_ok=True)
            for path in self._folder.glob(".*.tmp"):
                path.unlink(missing_ok=True)
            self._folder.rmdir()
            sync_folder(self._folder.parent)
        except FileNotFoundError:
            return
        except OSError as error:
            raise write_failed(self._folder, error) from error

    def _columns(self, count: int) -> int:
        return max(1, BLOCK_BYTES // (max(count, 1) * _UPDATE_DTYPE.itemsize))

    def _block(self, numbers: Sequence[int], starts: Sequence[int], first: int, stop: int) -> Block:
        block = np.empty((len(numbers), stop - first), _UPDATE_DTYPE)
        for row, number in enumerate(numbers):
            offset = starts[row] + first * _UPDATE_DTYPE.itemsize
            _read_into(self._path(number), offset, block[row])
        return block

    def _path(self, number: int) -> Path:
        return self._folder / f"{number:08}{_SUFFIX}"

    def _record(self, path: Path) -> UpdateRecord:
        return _read_header(path, UpdateRecord, self.update_bytes())[0]

    def _numbers_start(self, number: int) -> int:
        return _read_header(self._path(number), UpdateRecord, self.update_bytes())[1]


def _write(path: Path, header: bytes, numbers: NDArray[Number]) -> None:
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        try:
            with temporary.open("xb", buffering=0) as file:
                _write_all(file.fileno(), len(header).to_bytes(8, "little") + header)
                _write_all(file.fileno(), numbers.view(np.uint8).data)
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        sync_folder(path.parent)
    except OSError as error:
        raise write_failed(path, error) from error


def _write_all(descriptor: int, data: bytes | memoryview) -> None:
    view = memoryview(data)
    while view:  # One call writes 2 GiB at most.
        view = view[os.write(descriptor, view) :]


def _read_header(path: Path, shape: type[Shape], numbers_bytes: int) -> tuple[Shape, int]:
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = file.read(length) if length <= HEADER_BYTES_MAX else b""
        file_bytes = path.stat().st_size
        record = msgspec.json.decode(header, type=shape)
    except (OSError, msgspec.MsgspecError) as error:
        raise _damaged(path, str(error)) from error
    if file_bytes != 8 + length + numbers_bytes:
        raise _damaged(path, f"{file_bytes} bytes")
    return record, 8 + length


def _read_into(path: Path, offset: int, numbers: NDArray[Number]) -> None:
    view = numbers.view(np.uint8).data
    try:
        with path.open("rb", buffering=0) as file:
            while view:
                count = os.preadv(file.fileno(), [view], offset)
                if count == 0:
                    break
                view, offset = view[count:], offset + count
    except OSError as error:
        raise _damaged(path, str(error)) from error
    if view:
        raise _damaged(path, "it ends too soon")


def _damaged(path: Path, why: str) -> IntegrityError:
    return IntegrityError(
        "round.damaged",
        f"{path} cannot be read back: {why}.",
        remedy="Remove the Round's folder: the Round is asked again.",
    )
