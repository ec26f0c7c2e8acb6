"""A cache of decoded arrays in a folder: written whole, then renamed; checked when it is read.

1. An entry is a folder of .npy files and `facts.json`, which says each file's size and CRC-32.
2. It is written beside its place and renamed last: who is killed leaves a folder that begins with
   `TEMPORARY`, which the next one who writes here removes once it is old.
3. An entry that is not what was written is removed and made again by whoever finds it.
"""

import os
import shutil
import tempfile
import time
import zlib
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from shared.errors import TransientError

FACTS = "facts.json"
TEMPORARY = "tmp-"
TEMPORARY_S_MAX = 86_400.0
PIECE_BYTES = 8 << 20
RENAMES_MAX = 10  # Others who make the same entry at the same moment are in the way

Array = NDArray[np.generic]


class FileFacts(msgspec.Struct, frozen=True):
    """What a file was when it was written."""

    bytes_count: int
    crc32: int


class ArrayCache:
    """One entry to be. For one thread."""

    def __init__(self, folder: Path, key: str) -> None:
        self._folder = folder
        self._place = folder / key

    def read(self, names: tuple[str, ...]) -> dict[str, Array] | None:
        """Return the entry's arrays, memory-mapped, or None where there is none that is whole."""
        try:
            facts = msgspec.json.decode(
                (self._place / FACTS).read_bytes(), type=dict[str, FileFacts]
            )
            if any(facts.get(name) != _facts(self._place / f"{name}.npy") for name in names):
                return None
            # Copy on write: whoever writes into them changes their own memory, never the file.
            return {
                name: np.load(self._place / f"{name}.npy", mmap_mode="c", allow_pickle=False)
                for name in names
            }
        except (OSError, ValueError, msgspec.MsgspecError):
            return None

    def begin(self) -> "OpenEntry":
        """Return a place to write a new entry to. Raises TransientError `dataset.cache`."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._remove_old()
            made = Path(tempfile.mkdtemp(prefix=TEMPORARY, dir=self._folder))
        except OSError as error:
            raise _failed(self._folder, error) from error
        return OpenEntry(made, self._place)

    def _remove_old(self) -> None:
        for found in self._folder.glob(f"{TEMPORARY}*"):
            if time.time() - found.stat().st_mtime > TEMPORARY_S_MAX:
                shutil.rmtree(found, ignore_errors=True)


class OpenEntry:
    """An entry being written; `finish` or `drop` it."""

    def __init__(self, made: Path, place: Path) -> None:
        self._made = made
        self._place = place

    def create(self, name: str, shape: tuple[int, ...], dtype: type[np.generic]) -> Array:
        """Return an array that is the entry's file. Raises TransientError `dataset.cache`."""
        path = self._made / f"{name}.npy"
        try:
            # np.lib.format cannot map an array without items.
            if 0 in shape:
                empty = np.zeros(shape, dtype)
                np.save(path, empty)
                return empty
            _check_room(self._made, int(np.prod(shape)) * np.dtype(dtype).itemsize)
            mapped: Array = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
            return mapped
        except OSError as error:
            raise _failed(self._made, error) from error

    def finish(self, arrays: Mapping[str, Array]) -> None:
        """Put the entry in its place; another that came first there stays."""
        try:
            for array in arrays.values():
                if isinstance(array, np.memmap):
                    array.flush()
            facts = {name: _facts(self._made / f"{name}.npy") for name in arrays}
            (self._made / FACTS).write_bytes(msgspec.json.encode(facts))
            self._rename(facts)
        except OSError as error:
            raise _failed(self._made, error) from error

    def drop(self) -> None:
        """Forget what was written."""
        shutil.rmtree(self._made, ignore_errors=True)

    def _rename(self, facts: Mapping[str, FileFacts]) -> None:
        for _ in range(RENAMES_MAX):
            with suppress(OSError):  # One is there: damaged, or another process was faster.
                self._made.rename(self._place)
                return
            if self._is_there(facts):
                self.drop()
                return
            old = Path(tempfile.mkdtemp(prefix=TEMPORARY, dir=self._place.parent))
            with suppress(FileNotFoundError):
                self._place.rename(old / "old")
            shutil.rmtree(old, ignore_errors=True)
        self._made.rename(self._place)

    def _is_there(self, facts: Mapping[str, FileFacts]) -> bool:
        """Whether the same entry lies in its place, whole."""
        with suppress(OSError, msgspec.MsgspecError):
            told = msgspec.json.decode(
                (self._place / FACTS).read_bytes(), type=dict[str, FileFacts]
            )
            return told == facts and all(
                _facts(self._place / f"{name}.npy") == facts[name] for name in facts
            )
        return False


def _facts(path: Path) -> FileFacts:
    crc32 = 0
    with path.open("rb") as file:
        while piece := file.read(PIECE_BYTES):
            crc32 = zlib.crc32(piece, crc32)
        return FileFacts(bytes_count=file.tell(), crc32=crc32)


def _check_room(folder: Path, bytes_count: int) -> None:
    """Raise OSError if a disk is too small: writing to a mapped file there ends the process."""
    found = os.statvfs(folder)
    if found.f_bavail * found.f_frsize < bytes_count:
        raise OSError(28, f"{bytes_count} bytes are needed and not free")


def _failed(folder: Path, error: OSError) -> TransientError:
    return TransientError(
        "dataset.cache",
        f"Cannot keep decoded items in {folder}: {error.strerror or error}.",
        remedy="Free some space there, or name another folder.",
    )
