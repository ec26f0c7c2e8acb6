"""Slots: the two folders in which releases of one model lie, `<folder>/<model>/A` and `/B`.

1. `<slot>.digest` beside a slot names the release that its files are of. It is written before the
   first file, and a slot is emptied before another release's name stands there: files of two
   releases never mix.
2. What is in a slot is believed only after ReleaseSource.reopen has checked it.
"""

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from edge_agent.updates.journal import Slot
from shared.durable_file import write_durably
from shared.errors import RefusedError, TransientError

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_MARK_BYTES_MAX = 64


class FileSlots:
    """Both slots of every model. Used by one thread."""

    def __init__(self, folder: Path, *, free_bytes_min: int) -> None:
        """Args: a fetch is refused while the disk has less than `free_bytes_min` free."""
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._free_bytes_min = free_bytes_min

    def path(self, model: str, slot: Slot) -> Path:
        """Return a slot's folder, which need not exist."""
        return self._folder / model / slot

    def holds_files(self, model: str, slot: Slot) -> bool:
        """Return whether there is anything in a slot."""
        path = self.path(model, slot)
        return path.is_dir() and any(path.iterdir())

    def prepare(self, model: str, slot: Slot, manifest_digest: str) -> Path:
        """Return a slot's folder, holding files of this release only.

        Room on the disk is looked at before a release begins, not when it goes on: what is there
        already needs none.

        Raises RefusedError `disk.full`, TransientError `disk.failed` or `disk.write_failed`.
        """
        path = self.path(model, slot)
        with self.guard():
            if self._mark(path) != manifest_digest:
                self.clear(model, slot)
                path.parent.mkdir(parents=True, exist_ok=True)
                self._check_room(path.parent)
                write_durably(_mark_path(path), manifest_digest.encode())
            path.mkdir(exist_ok=True)
        return path

    def sync(self, model: str, slot: Slot) -> None:
        """Flush every file of a slot to the disk, before the journal says that they are there.

        Raises TransientError `disk.failed`.
        """
        path = self.path(model, slot)
        with self.guard():
            for file in (*path.iterdir(), path, path.parent):
                descriptor = os.open(file, os.O_RDONLY)
                try:
                    os.fsync(descriptor)
                finally:
                    os.close(descriptor)

    def clear(self, model: str, slot: Slot) -> None:
        """Empty a slot, mark first, so that a cut in between leaves nothing believed.

        Raises TransientError `disk.failed`.
        """
        path = self.path(model, slot)
        with self.guard():
            _mark_path(path).unlink(missing_ok=True)
            with contextlib.suppress(FileNotFoundError):
                shutil.rmtree(path)

    @contextlib.contextmanager
    def guard(self) -> Iterator[None]:
        """Turn a disk's error while a slot is written into one of ours.

        Raises RefusedError `disk.full`, TransientError `disk.failed`.
        """
        try:
            yield
        except OSError as error:
            if error.errno in _FULL:
                raise _disk_full(f"{error.strerror}") from error
            raise TransientError("disk.failed", f"The disk: {error}.") from error

    def _check_room(self, path: Path) -> None:
        free_bytes = shutil.disk_usage(path).free
        if free_bytes < self._free_bytes_min:
            raise _disk_full(f"{free_bytes} bytes are free, {self._free_bytes_min} are needed")

    def _mark(self, path: Path) -> str:
        try:
            with _mark_path(path).open("rb") as file:
                return file.read(_MARK_BYTES_MAX + 1).decode("ascii", "replace")
        except FileNotFoundError:
            return ""


def _mark_path(path: Path) -> Path:
    return path.with_name(path.name + ".digest")


def _disk_full(detail: str) -> RefusedError:
    return RefusedError(
        "disk.full",
        f"The disk has no room for a release: {detail}.",
        remedy="Free some space, then roll the release out again.",
    )
