"""CappedFolder: files that are kept under a cap of the disk; the oldest go first.

1. Only files of its own count and go: their name begins with the time, as `name_for` writes it, and
   ends as told. What a person or another sink put there stays.
2. A file appears under its name when it is whole and on the disk. What a crash left half written
   (".….tmp") goes when the folder is opened.
3. Before a file is written, those go that are older than `age_s_max`, then the oldest, until it
   fits under `bytes_max`. Where less than `free_bytes_min` would be left free nothing is written:
   deleting is no way out there, somebody else may be filling the disk.
4. What others delete or add is seen when the folder is read again, every RESCAN_S.
5. Belongs to one thread.
"""

import os
import re
import shutil
from collections import deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from shared.clock import Clock
from shared.durable_file import make_folder, sync_folder, write_durably, write_failed
from shared.errors import RefusedError
from shared.pipeline.sinks import ClipSinkSettings, SnapshotSinkSettings

OURS = re.compile(r"^\d{8}T\d{6}\.\d{3}Z_")
HALF_WRITTEN = re.compile(r"^\.\d{8}T\d{6}\.\d{3}Z_.*(\.[0-9a-f]{8}\.tmp|\.tmp\.[a-z0-9]+)$")
UNSAFE = re.compile(r"[^A-Za-z0-9-]+")
TIME_FORMAT, TIME_CHARS = "%Y%m%dT%H%M%S", 15
RESCAN_S = 600.0
LABELS_IN_NAME_MAX = 4
NAME_CHARS_MAX = 120
FILE_MODE = 0o640  # Pictures are not for everybody on the device
FOLDER_MODE = 0o750


@dataclass(frozen=True, slots=True)
class _Kept:
    name: str
    size: int

    @property
    def at_s(self) -> float:
        """Return the time that its name says, seconds since 1970; 0: a time that never was."""
        try:
            at = datetime.strptime(f"{self.name[:TIME_CHARS]}+0000", f"{TIME_FORMAT}%z")
        except ValueError:
            return 0.0
        return at.timestamp()


class CappedFolder:
    """See the rules above."""

    def __init__(
        self,
        path: Path,
        *,
        suffixes: Collection[str],
        bytes_max: int,
        age_s_max: float,
        free_bytes_min: int,
        clock: Clock,
    ) -> None:
        """Touch nothing yet; the first use opens the folder. Args: `suffixes` of its own files."""
        self.path, self._suffixes = path, frozenset(suffixes)
        self._bytes_max, self._age_s_max = bytes_max, age_s_max
        self._free_bytes_min, self._clock = free_bytes_min, clock
        self._kept: deque[_Kept] = deque()  # The oldest first
        self._size = 0
        self._scanned_s: float | None = None

    @property
    def size_bytes(self) -> int:
        """Return how much its files take up, as far as is known."""
        return self._size

    def write(self, name: str, data: bytes) -> Path:
        """Write a file. Raises RefusedError `disk.low` or TransientError `disk.write_failed`."""
        self.make_room(len(data))
        write_durably(self.path / name, data, mode=FILE_MODE)
        self._take(name, len(data))
        return self.path / name

    def half_written(self, name: str) -> Path:
        """Return where a file called `name` is written until `finish`; its suffix is the same."""
        return self.path / f".{name}.tmp{Path(name).suffix}"

    def finish(self, name: str) -> Path:
        """Give a file that was written at `half_written` its name.

        Raises RefusedError `disk.low` or TransientError `disk.write_failed`; the file is gone then.
        """
        half, whole = self.half_written(name), self.path / name
        try:
            size = half.stat().st_size
            self.make_room(size, is_written=True)
            _sync(half)
            half.chmod(FILE_MODE)
            half.replace(whole)
            sync_folder(self.path)
        except OSError as error:
            raise write_failed(whole, error) from error
        finally:
            half.unlink(missing_ok=True)
        self._take(name, size)
        return whole

    def make_room(self, size: int, *, is_written: bool = False) -> None:
        """Delete what must go before `size` bytes more; see rule 3.

        Args: is_written: they are on the disk already.
        Raises RefusedError `disk.low` or TransientError `disk.write_failed`.
        """
        try:
            self._open_if_due()
            now_s = self._clock.now_s()
            while self._kept and (
                self._size + size > self._bytes_max or now_s - self._kept[0].at_s > self._age_s_max
            ):
                self._delete_oldest()
            free = shutil.disk_usage(self.path).free - (0 if is_written else size)
        except OSError as error:
            raise write_failed(self.path, error) from error
        if size > self._bytes_max:
            raise RefusedError("disk.low", f"One file of {size} bytes is over the cap.")
        if free < self._free_bytes_min:
            raise RefusedError(
                "disk.low",
                f"Only {max(free, 0)} bytes would be left free on the disk of {self.path}.",
            )

    def _open_if_due(self) -> None:
        now_s = self._clock.monotonic_s()
        if self._scanned_s is None:
            make_folder(self.path, mode=FOLDER_MODE)
            self._scan(with_half_written=True)
        elif now_s - self._scanned_s >= RESCAN_S or not self.path.is_dir():
            make_folder(self.path, mode=FOLDER_MODE)
            self._scan(with_half_written=False)

    def _scan(self, *, with_half_written: bool) -> None:
        """Read the folder. Raises OSError."""
        found = []
        with os.scandir(self.path) as entries:
            for entry in entries:
                is_file = entry.is_file(follow_symlinks=False)
                if not is_file or Path(entry.name).suffix not in self._suffixes | {".tmp"}:
                    continue
                if OURS.match(entry.name):
                    facts = entry.stat(follow_symlinks=False)
                    found.append(_Kept(entry.name, facts.st_size))
                elif with_half_written and HALF_WRITTEN.match(entry.name):
                    Path(entry.path).unlink(missing_ok=True)
        self._kept = deque(sorted(found, key=lambda kept: kept.name))  # A name begins with the time
        self._size = sum(kept.size for kept in found)
        self._scanned_s = self._clock.monotonic_s()

    def _take(self, name: str, size: int) -> None:
        self._kept.append(_Kept(name, size))
        self._size += size

    def _delete_oldest(self) -> None:
        kept = self._kept.popleft()
        (self.path / kept.name).unlink(missing_ok=True)
        self._size -= kept.size


def folder_for(
    settings: SnapshotSinkSettings | ClipSinkSettings,
    pipeline: str,
    *,
    suffixes: Collection[str],
    clock: Clock,
) -> CappedFolder:
    """Return the folder of a pipeline's files of one kind, as its settings say."""
    return CappedFolder(
        Path(settings.path) / pipeline,
        suffixes=suffixes,
        bytes_max=settings.bytes_max,
        age_s_max=settings.age_s_max,
        free_bytes_min=settings.free_bytes_min,
        clock=clock,
    )


def name_for(captured_ms: int, pipeline: str, labels: Sequence[str], *, suffix: str) -> str:
    """Return "20260101T120000.000Z_gate_car-person.jpg"; names sort as their times do."""
    at = datetime.fromtimestamp(captured_ms / 1000.0, tz=UTC)
    words = "-".join(UNSAFE.sub("-", label).strip("-") for label in labels[:LABELS_IN_NAME_MAX])
    stem = f"{at:{TIME_FORMAT}}.{captured_ms % 1000:03}Z_{UNSAFE.sub('-', pipeline)}_{words}"
    return stem[:NAME_CHARS_MAX].rstrip("_-") + suffix


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
