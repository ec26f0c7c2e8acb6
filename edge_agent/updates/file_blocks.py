"""FileBlocks: a file that arrives in blocks, and goes on after a kill or a power cut.

1. `model.onnx` grows as `model.onnx.part`; beside it `model.onnx.blocks` holds a header that says
   of which file and size, and one mark for each block (block_map.py).
2. A block is written first, its mark after. What was marked is checked when the file is opened
   again: a block whose bytes did not reach the disk is simply missing.
3. Another file's remains are thrown away: the header holds the path and the size.
4. `commit` flushes and renames: `model.onnx` is whole or absent.
"""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from edge_agent.updates.block_map import (
    MARK_BYTES,
    BlockMap,
    decode_marks,
    encode_mark,
    mark_of,
)
from shared.durable_file import sync_folder
from shared.errors import IntegrityError, IsthmusError, RefusedError, TransientError
from shared.release.digest import digest_of
from shared.wire.blocks import BLOCK_BYTES, Block, block_bytes, blocks_count

_MAGIC = b"ISTHMUS-BLOCKS-1"
_HEADER_BYTES = len(_MAGIC) + 64
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class FileBlocks:
    """See the rules above. Used by one thread; close it."""

    def __init__(self, into: Path, *, path: str, file_bytes: int) -> None:
        """Open what is already there of the file `path` that shall become `into`."""
        self.file_bytes = file_bytes
        self.part_path = part_path(into)
        self.map = BlockMap(blocks_count(file_bytes))
        self._into = into
        self._path = path
        self._marks_path = marks_path(into)
        self._header = _MAGIC + digest_of(f"{path}\n{file_bytes}".encode()).encode()
        with ExitStack() as opened:
            self._part = _open(self.part_path, opened)
            self._marks = _open(self._marks_path, opened)
            self._resume()
            self._opened = opened.pop_all()
        self.resumed_count = self.map.blocks_count - self.map.missing_count

    def missing_bytes(self) -> int:
        """Return how many bytes are still to come, rounded up to blocks."""
        return min(self.map.missing_count * BLOCK_BYTES, self.file_bytes)

    def accept(self, block: Block) -> bool:
        """Write a block; return whether it was of use.

        Raises IntegrityError `release.digest` if the file behind it has another size.
        """
        if block.file_bytes != self.file_bytes:
            raise IntegrityError(
                "release.digest",
                f"{self._path} has {block.file_bytes} bytes, {self.file_bytes} were signed.",
            )
        if not is_sound(block, blocks_count=self.map.blocks_count) or self.map.has(block.index):
            return False
        _write_at(self._part, block.data, block.index * BLOCK_BYTES)
        mark = mark_of(block.data)
        _write_at(self._marks, encode_mark(mark), _HEADER_BYTES + block.index * MARK_BYTES)
        self.map.mark(block.index, mark)
        return True

    def flush(self) -> None:
        """Bring the file to the disk, cut to its size."""
        os.ftruncate(self._part, self.file_bytes)
        os.fsync(self._part)

    def commit(self) -> None:
        """Give the file its name."""
        self.part_path.replace(self._into)
        sync_folder(self._into.parent)
        self._marks_path.unlink(missing_ok=True)

    def discard(self) -> None:
        """Throw away all there is."""
        self.part_path.unlink(missing_ok=True)
        self._marks_path.unlink(missing_ok=True)

    def close(self) -> None:
        """Close the files; what was written stays."""
        self._opened.close()

    def _resume(self) -> None:
        if os.pread(self._marks, _HEADER_BYTES, 0) != self._header:
            for descriptor in (self._part, self._marks):
                if os.fstat(descriptor).st_size:
                    os.ftruncate(descriptor, 0)
            _write_at(self._marks, self._header, 0)
            return
        count = self.map.blocks_count
        data = os.pread(self._marks, count * MARK_BYTES, _HEADER_BYTES)
        for index, mark in enumerate(decode_marks(data, blocks_count=count)):
            if mark and mark == self._mark_on_disk(index):
                self.map.mark(index, mark)

    def _mark_on_disk(self, index: int) -> int:
        wanted = block_bytes(index, self.file_bytes)
        data = os.pread(self._part, wanted, index * BLOCK_BYTES)
        return mark_of(data) if len(data) == wanted else 0


def part_path(into: Path) -> Path:
    """Return where a file grows."""
    return into.with_name(into.name + ".part")


def marks_path(into: Path) -> Path:
    """Return where the marks of a file that grows lie."""
    return into.with_name(into.name + ".blocks")


def is_sound(block: Block, *, blocks_count: int) -> bool:
    """Whether a block is one of the file's, and of the right size."""
    if block.is_missing or block.index >= blocks_count:
        return False
    return len(block.data) == block_bytes(block.index, block.file_bytes)


def check_room(folder: Path, *, needed_bytes: int, reserve_bytes: int) -> None:
    """Raise RefusedError `transfer.disk_full` unless there is room, with some to spare."""
    free_bytes = shutil.disk_usage(folder).free
    if free_bytes < needed_bytes + reserve_bytes:
        raise _disk_full(
            f"{needed_bytes} bytes are needed and {reserve_bytes} kept free, {free_bytes} are free"
        )


@contextmanager
def disk_errors() -> Iterator[None]:
    """Turn a disk's errors into RefusedError `transfer.disk_full` or TransientError.

    The latter is `transfer.disk_failed`.
    """
    try:
        yield
    except IsthmusError:
        raise
    except OSError as error:
        if error.errno in _FULL:
            raise _disk_full(error.strerror or "it is full") from error
        raise TransientError("transfer.disk_failed", f"The disk: {error}.") from error


def _open(path: Path, opened: ExitStack) -> int:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    opened.callback(os.close, descriptor)
    return descriptor


def _disk_full(detail: str) -> RefusedError:
    return RefusedError(
        "transfer.disk_full",
        f"The disk has no room for a release: {detail}.",
        remedy="Free some space; what has arrived stays, and the rest is fetched then.",
    )


def _write_at(descriptor: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written
