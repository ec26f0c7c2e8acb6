"""FilePictures: pictures in a folder, and in one folder for each class below it, as they lie there.

1. Only regular PNG and JPEG files that begin as such; no link is followed out of the folder, and
   nothing that only begins to be written (WRITTEN_S) is taken.
2. A file is sent as it is: what a camera wrote into it besides the picture (place, time, maker) is
   sent with it. Its name and folder are not, but for the class where labels may be told.
"""

import os
from collections.abc import Container, Iterator
from dataclasses import dataclass
from pathlib import Path

from edge_agent.sharing.local_item import ITEMS_MAX, WRITTEN_S, LocalItem
from shared.errors import RefusedError
from shared.release.digest import digest_of
from shared.wire.device_samples import ITEM_BYTES_MAX, SampleKind

SUFFIXES = frozenset({".png", ".jpg", ".jpeg"})
MAGICS = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff")
CLASSES_MAX = 10_000
LABEL_CHARS_MAX = 120
REMEDY = "Correct `path` under [[sharing.samples]] in the agent's file."


@dataclass(frozen=True, slots=True)
class FilePictures:
    """See the rules above."""

    path: Path

    def items(self, done: Container[int], *, now_s: float) -> Iterator[LocalItem]:
        """Yield every picture that is not done. Raises RefusedError `samples.missing`."""
        try:
            root = self.path.resolve(strict=True)
            files = self._files(root)
            for entry, label in files:
                found = _picture(entry, label, done, now_s=now_s)
                if found is not None:
                    yield found
        except OSError as error:
            raise RefusedError(
                "samples.missing",
                f"The folder {self.path} cannot be read: {error.strerror or error}.",
                remedy=REMEDY,
            ) from error

    def _files(self, root: Path) -> Iterator[tuple["os.DirEntry[str]", str | None]]:
        """Yield pictures in the order of their names, each with its class."""
        count = 0
        folders = [entry for entry in _sorted(root) if entry.is_dir(follow_symlinks=False)]
        for label, folder in (
            (None, root),
            *((entry.name, Path(entry.path)) for entry in folders[:CLASSES_MAX]),
        ):
            for entry in _sorted(folder):
                if Path(entry.name).suffix.lower() not in SUFFIXES:
                    continue
                if entry.is_file(follow_symlinks=False):
                    count += 1
                    if count > ITEMS_MAX:
                        return
                    yield entry, label


def _picture(
    entry: "os.DirEntry[str]", label: str | None, done: Container[int], *, now_s: float
) -> LocalItem | None:
    """Return a picture, or None if it is done, being written, or none."""
    try:
        facts = entry.stat(follow_symlinks=False)
        key = hash((entry.path, facts.st_size, facts.st_mtime_ns))
        is_fresh = 0.0 <= now_s - facts.st_mtime < WRITTEN_S
        if key in done or is_fresh or not 0 < facts.st_size <= ITEM_BYTES_MAX:
            return None
        data = _read(entry.path)
    except FileNotFoundError:  # It went meanwhile.
        return None
    if not data.startswith(MAGICS):
        return None
    is_class = label is not None and len(label) <= LABEL_CHARS_MAX and label.isprintable()
    return LocalItem(
        key=key,
        kind=SampleKind.IMAGE,
        data=data,
        digest=digest_of(data),
        label=label if is_class else None,
        captured_ms=max(0, facts.st_mtime_ns // 1_000_000),
    )


def _read(path: str) -> bytes:
    """Return a file's bytes, through no link."""
    number = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(number, "rb") as file:
        return file.read(ITEM_BYTES_MAX)


def _sorted(folder: Path) -> list["os.DirEntry[str]"]:
    with os.scandir(folder) as found:
        return sorted(found, key=lambda entry: entry.name)
