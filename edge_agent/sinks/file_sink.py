"""FileSink: decisions as JSON lines in a file on the device, bounded in bytes.

1. One line per decision, written as it comes. What a file holds past `bytes_max` goes to
   `<name>.1`, which goes to `<name>.2`, … up to `files_max` files in all; the oldest is deleted.
   What is no file (/dev/stdout, say) is never moved.
2. A disk that is full costs lines (counted), never the pipeline.
3. A file that somebody else moved or removed, another sink of the same path too, is begun anew.
4. Called by one thread at a time, closed by any. A line that comes after `close` is lost, counted.
"""

import logging
import os
import stat
import threading
from pathlib import Path
from typing import TextIO

import msgspec

from edge_agent.decisions.decision import Decision, ItemResult
from shared.pipeline.sinks import FileSinkSettings

log = logging.getLogger(__name__)


class FileSink:
    """See the rules above."""

    def __init__(self, settings: FileSinkSettings) -> None:
        """Append to the file at `settings.path`, whose folder is made if it is missing."""
        self._settings = settings
        self._path = Path(settings.path)
        self._file: TextIO | None = None
        self._size = 0
        self._is_file = True
        self._standing = ""
        self._lock = threading.Lock()
        self._is_closed = False
        self.lost_count = 0

    @property
    def standing(self) -> str:
        """Why the last line was lost; empty: it was not."""
        return self._standing

    def __call__(self, result: ItemResult) -> None:
        """Write one line if `result` is a Decision."""
        if not isinstance(result, Decision):
            return
        with self._lock:
            if self._is_closed:
                self.lost_count += 1
                return
            try:
                self._write(msgspec.json.encode(result).decode() + "\n")
                self._standing = ""
            except (OSError, msgspec.MsgspecError, TypeError) as error:
                self._lose(str(error))

    def close(self) -> None:
        """Close the file, for good."""
        with self._lock:
            self._is_closed = True
            self._close()

    def _lose(self, reason: str) -> None:
        if self.lost_count == 0:
            log.warning("file_sink.lost", extra={"path": str(self._path), "text": reason})
        self.lost_count += 1
        self._standing = f"{self._path}: {reason}"
        self._close()

    def _close(self) -> None:
        """Close the file; the next line opens it again."""
        if self._file is not None:
            try:
                self._file.close()
            except OSError:  # What could not be written goes with the file
                log.debug("file_sink.close_failed")
            self._file = None

    def _write(self, line: str) -> None:
        size = len(line.encode())
        self._look()
        if self._file is None:
            self._open()
        if self._is_file and self._size > 0 and self._size + size > self._settings.bytes_max:
            self._close()
            self._rotate()
            self._open()
        assert self._file is not None
        self._file.write(line)  # Line-buffered: one write to the kernel, none to the disk
        self._size += size

    def _look(self) -> None:
        """Let go of the file if it is not at its path any more; see how large it is now."""
        if self._file is None or not self._is_file:
            return
        try:
            there = self._path.stat()
        except FileNotFoundError:
            self._close()
            return
        self._size = there.st_size
        if not os.path.samestat(there, os.fstat(self._file.fileno())):
            self._close()

    def _open(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self._path.open("a", buffering=1, encoding="utf-8")
        facts = os.fstat(self._file.fileno())
        self._size, self._is_file = facts.st_size, stat.S_ISREG(facts.st_mode)

    def _rotate(self) -> None:
        """Move <name>.2 to <name>.3, <name>.1 to <name>.2, <name> to <name>.1."""
        for number in range(self._settings.files_max - 1, 0, -1):
            younger = self._numbered(number - 1)
            if younger.exists():
                younger.replace(self._numbered(number))
        self._path.unlink(missing_ok=True)  # Only there still if files_max is 1

    def _numbered(self, number: int) -> Path:
        return self._path.with_name(f"{self._path.name}.{number}") if number else self._path
