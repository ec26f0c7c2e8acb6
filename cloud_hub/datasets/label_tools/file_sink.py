"""Sinks: where an export is written, a folder or a .zip. What is there at the end is whole.

1. A .zip is written under another name, then renamed; its entries carry no time, so that the same
   version makes the same file.
2. A folder must not exist yet.
"""

import shutil
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from shared.errors import RefusedError, TransientError

ZIP_TIME = (1980, 1, 1, 0, 0, 0)  # The first that a .zip can hold
FILE_MODE = 0o644 << 16
PACKED = frozenset({".png", ".jpg", ".webp"})  # Do not get smaller


class Sink(Protocol):
    """Takes the files of an export."""

    def write(self, name: str, data: bytes) -> None:
        """Write one file, "images/a.png"."""
        ...


class _Folder:
    def __init__(self, root: Path) -> None:
        self._root = root

    def write(self, name: str, data: bytes) -> None:
        path = self._root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


class _Zip:
    def __init__(self, archive: zipfile.ZipFile) -> None:
        self._archive = archive

    def write(self, name: str, data: bytes) -> None:
        entry = zipfile.ZipInfo(name, ZIP_TIME)
        entry.external_attr = FILE_MODE
        is_packed = Path(name).suffix in PACKED
        entry.compress_type = zipfile.ZIP_STORED if is_packed else zipfile.ZIP_DEFLATED
        self._archive.writestr(entry, data)


@contextmanager
def open_sink(target: Path) -> Iterator[Sink]:
    """Give a sink whose files are at `target` (a .zip by its suffix) if the body ends well.

    Raises RefusedError `dataset.export_exists`, TransientError `dataset.export_failed`.
    """
    if target.exists():
        raise RefusedError(
            "dataset.export_exists", f"{target} is there already.", remedy="Name another place."
        )
    part = target.with_name(f".{target.name}.part")
    try:
        _remove(part)
        if target.suffix == ".zip":
            part.parent.mkdir(parents=True, exist_ok=True)
            with zipfile.ZipFile(part, "w") as archive:
                yield _Zip(archive)
        else:
            part.mkdir(parents=True)
            yield _Folder(part)
        part.rename(target)
    except OSError as error:
        raise TransientError(
            "dataset.export_failed",
            f"{target} cannot be written: {error.strerror}.",
            remedy="Free space there, or name another place.",
        ) from error
    finally:
        _remove(part)


def _remove(part: Path) -> None:
    if part.is_dir():
        shutil.rmtree(part, ignore_errors=True)
    elif part.exists():
        part.unlink()
