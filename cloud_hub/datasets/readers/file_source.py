"""Source: the one door through which readers touch files. Nothing outside it is ever read.

1. A source is a folder, or one file in a folder. Names are relative to it, with "/".
2. No symbolic link below it is followed; a name that leaves it is refused. Both are Broken.
3. Folders are walked in the order of their names, at most DEPTH_MAX deep, ENTRIES_MAX in all.
4. A file is a regular file of a bounded size, read through one descriptor.
"""

import gzip
import os
import stat
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

from cloud_hub.datasets.manifest import ITEM_BYTES_MAX, ITEMS_MAX
from cloud_hub.datasets.raw_item import Broken
from cloud_hub.datasets.readers.raw_texts import short_name
from shared.errors import ContractError

DEPTH_MAX = 12
ENTRIES_MAX = 2 * ITEMS_MAX  # An item may have a file of labels
NAME_CHARS_MAX = 1_000
GZIP_MAGIC = b"\x1f\x8b"
IGNORED = frozenset({"__MACOSX", "Thumbs.db"})  # And all that starts with a dot
DAMAGES = (EOFError, zlib.error, gzip.BadGzipFile)  # What gzip says of a damaged file


@dataclass(frozen=True, slots=True)
class Source:
    """Where items come from; see the rules above."""

    root: Path  # Without links
    only: str = ""  # The name of the one file, where the source is one

    @classmethod
    def at(cls, path: Path) -> "Source":
        """Return the source at `path`. Raises ContractError `dataset.missing`."""
        try:
            whole = path.resolve(strict=True)
        except (OSError, ValueError, RuntimeError) as error:
            raise ContractError(
                "dataset.missing", f"There is nothing at {path}.", remedy="Check the path."
            ) from error
        return cls(whole) if whole.is_dir() else cls(whole.parent, whole.name)

    def names(self, under: str = "") -> Iterator[str | Broken]:
        """Yield the names of all files below a folder of the source, in order; links as Broken."""
        if self.only:
            yield self.only
            return
        for count, found in enumerate(self._walk(under, depth=0)):
            if count >= ENTRIES_MAX:
                raise too_many(self.root, ENTRIES_MAX, "files")
            yield found

    def folders(self, under: str = "") -> list[str]:
        """Return the names (without the path) of the folders right below one."""
        if self.only:
            return []
        return sorted(
            entry.name
            for entry in _entries(self.root / under)
            if not _is_ignored(entry.name) and entry.is_dir(follow_symlinks=False)
        )

    def files(self, under: str = "") -> list[str]:
        """Return the names (without the path) of the regular files right below a folder."""
        if self.only:
            return [self.only]
        return sorted(
            entry.name
            for entry in _entries(self.root / under)
            if not _is_ignored(entry.name) and entry.is_file(follow_symlinks=False)
        )

    def has(self, name: str) -> bool:
        """Return whether there is such a regular file."""
        path = self._inside(name)
        return isinstance(path, Path) and path.is_file()

    def read(self, name: str, bytes_max: int = ITEM_BYTES_MAX) -> bytes | Broken:
        """Return a file's bytes, or why there are none."""
        opened = self.open(name)
        if isinstance(opened, Broken):
            return opened
        with closing(opened):
            if os.fstat(opened.fileno()).st_size > bytes_max:
                return Broken(short_name(name), f"is over {bytes_max} bytes")
            try:
                data = opened.read(bytes_max + 1)
            except OSError as error:
                return Broken(short_name(name), f"cannot be read: {error.strerror}")
        return data if len(data) <= bytes_max else Broken(short_name(name), "grew while being read")

    def open(self, name: str) -> BinaryIO | Broken:
        """Return a regular file, open for reading, or why not; the caller closes it."""
        path = self._inside(name)
        if isinstance(path, Broken):
            return path
        try:
            # Non-blocking, so that a pipe that nobody writes does not hold us.
            number = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except (OSError, ValueError) as error:
            return Broken(short_name(name), f"cannot be read: {_words(error)}")
        if not stat.S_ISREG(os.fstat(number).st_mode):
            os.close(number)
            return Broken(short_name(name), "is not a regular file")
        return os.fdopen(number, "rb")

    def open_unpacked(self, name: str) -> BinaryIO | Broken:
        """Return a file open for reading, unpacked where it is gzip; reading may raise DAMAGES."""
        opened = self.open(name)
        if isinstance(opened, Broken):
            return opened
        is_packed = opened.read(len(GZIP_MAGIC)) == GZIP_MAGIC
        opened.seek(0)
        return cast(BinaryIO, _Unpacked(opened)) if is_packed else opened

    def _inside(self, name: str) -> Path | Broken:
        """Return where `name` lies, or Broken if it leaves the source or goes through a link."""
        parts = name.split("/")
        if len(name) > NAME_CHARS_MAX or "\0" in name or not name:
            return Broken(short_name(name), "is no file name")
        if name.startswith("/") or ".." in parts or len(parts) > DEPTH_MAX + 1:
            return Broken(short_name(name), "lies outside the source")
        path = self.root
        for part in parts:
            path = path / part
            try:
                if path.is_symlink():
                    return Broken(short_name(name), "is a symbolic link, or lies behind one")
            except OSError as error:
                return Broken(short_name(name), f"cannot be read: {error.strerror}")
        return path

    def _walk(self, under: str, depth: int) -> Iterator[str | Broken]:
        if depth > DEPTH_MAX:
            yield Broken(short_name(under), f"lies over {DEPTH_MAX} folders deep")
            return
        for entry in sorted(_entries(self.root / under), key=lambda entry: entry.name):
            name = f"{under}/{entry.name}" if under else entry.name
            if _is_ignored(entry.name):
                continue
            if entry.is_symlink():
                yield Broken(short_name(name), "is a symbolic link, or lies behind one")
            elif entry.is_dir(follow_symlinks=False):
                yield from self._walk(name, depth + 1)
            else:
                yield name


class _Unpacked(gzip.GzipFile):
    """A gzip file that closes what it reads from, as gzip's own does not."""

    def __init__(self, packed: BinaryIO) -> None:
        super().__init__(fileobj=packed)
        self._packed = packed

    def close(self) -> None:
        super().close()
        self._packed.close()


def wrong_layout(layout: str, where: Path | str, reason: str, remedy: str) -> ContractError:
    """Return the error for a source that is not of a layout at all."""
    return ContractError(
        "dataset.layout", f"{where} is not of the layout {layout!r}: {reason}.", remedy=remedy
    )


def too_many(where: Path | str, limit: int, what: str) -> ContractError:
    """Return the error for a source with more than one dataset may hold."""
    return ContractError(
        "dataset.too_many",
        f"{where} has over {limit} {what}.",
        remedy="Import it as several datasets, or a part of it.",
    )


def required(source: Source, name: str, layout: str, *, bytes_max: int, remedy: str) -> bytes:
    """Return the bytes of a file without which a source is not of its layout."""
    data = source.read(name, bytes_max)
    if isinstance(data, Broken):
        raise wrong_layout(layout, source.root / name, data.reason, remedy)
    return data


def limited(count_max: int, where: Path) -> Callable[[], None]:
    """Return what counts items, and refuses the one too many."""
    count = 0

    def another() -> None:
        nonlocal count
        count += 1
        if count > count_max:
            raise too_many(where, count_max, "items")

    return another


def _entries(folder: Path) -> list["os.DirEntry[str]"]:
    entries = []
    try:
        with os.scandir(folder) as found:
            for entry in found:
                entries.append(entry)
                if len(entries) > ENTRIES_MAX:
                    raise too_many(folder, ENTRIES_MAX, "files")
    except OSError as error:
        raise ContractError(
            "dataset.missing",
            f"The folder {folder} cannot be read: {error.strerror}.",
            remedy="Check the path and its permissions.",
        ) from error
    return entries


def _is_ignored(name: str) -> bool:
    return name.startswith(".") or name in IGNORED


def _words(error: OSError | ValueError) -> str:
    return (error.strerror or str(error)) if isinstance(error, OSError) else str(error)
