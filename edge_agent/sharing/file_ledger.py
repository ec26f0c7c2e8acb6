"""SharingLedger: every sample that left the device, one line each, for its owner to read.

1. The line is on the disk before the item's first byte leaves. Another one says that the hub has
   it. Lines are only ever added.
2. A last line that is cut off is one whose item never left (rule 1): it is taken away. Any other
   line that makes no sense is IntegrityError `sharing.ledger`, and nothing leaves until the owner
   has looked: what is left of a day would not be known.
3. Who can write the file can empty it: it tells the owner what the agent did, it does not bind the
   owner.
4. Bounded: a file of over FILE_BYTES_MAX takes the place of the one before it. A day's lines are
   always in these two (settings.py, ITEMS_PER_DAY_MOST).
5. Written by one process, which holds the state folder's lock; anybody may read.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import msgspec

from edge_agent.sharing.policy import Sending
from shared.durable_file import make_private_folder, sync_folder, write_failed
from shared.errors import IntegrityError
from shared.wire.limits import Count, Digest, Name, UnixMs

FOLDER = "sharing"  # Of the state folder
NAME = "ledger.jsonl"
OLD_NAME = "ledger.old.jsonl"
FILE_BYTES_MAX = 8 << 20  # Two lines for each item of the fullest day, each LINE_BYTES_MAX
LINE_BYTES_MAX = 400
MODE = 0o600
REMEDY = (
    "Look at the file. To go on with an empty day, move it away: what was sent stays at the hub."
)


class SentLine(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="sent"):
    """An item is about to leave."""

    at_ms: UnixMs
    digest: Digest
    bytes_count: Count
    dataset: Name


class KeptLine(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="kept"):
    """The hub has said that it has it."""

    at_ms: UnixMs
    digest: Digest
    dataset: Name


Line = SentLine | KeptLine
_DECODER = msgspec.json.Decoder(Line)
_ENCODER = msgspec.json.Encoder()


class SharingLedger:
    """See the rules above. Used by one thread."""

    def __init__(self, folder: Path, *, file_bytes_max: int = FILE_BYTES_MAX) -> None:
        """Args: folder: `<state>/sharing`."""
        self._folder = folder
        self._file_bytes_max = file_bytes_max

    @property
    def path(self) -> Path:
        """Return where the newest lines lie."""
        return self._folder / NAME

    def open(self) -> None:
        """Make the folder, and take away a line that is cut off. Raises TransientError."""
        make_private_folder(self._folder)
        try:
            with self.path.open("r+b") as file:
                data = file.read()
                if data and not data.endswith(b"\n"):
                    file.truncate(data.rfind(b"\n") + 1)
                    os.fsync(file.fileno())
        except FileNotFoundError:
            return
        except OSError as error:
            raise write_failed(self.path, error) from error

    def lines(self) -> Iterator[Line]:
        """Yield every line, oldest first. Raises IntegrityError `sharing.ledger`."""
        for path in (self._folder / OLD_NAME, self.path):
            yield from _read(path)

    def sendings(self) -> tuple[Sending, ...]:
        """Return every item that was sent, oldest first. Raises as `lines`."""
        return tuple(
            Sending(line.digest, line.bytes_count, line.at_ms, line.dataset)
            for line in self.lines()
            if isinstance(line, SentLine)
        )

    def kept(self) -> frozenset[tuple[str, str]]:
        """Return (dataset, digest) of what the hub has. Raises as `lines`."""
        return frozenset(
            (line.dataset, line.digest) for line in self.lines() if isinstance(line, KeptLine)
        )

    def append(self, line: Line) -> None:
        """Put a line on the disk. Raises TransientError `disk.write_failed`."""
        data = _ENCODER.encode(line) + b"\n"
        assert len(data) <= LINE_BYTES_MAX, "names and digests are short"
        try:
            self._turn_over()
            is_new = not self.path.exists()
            number = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, MODE)
            try:
                self._write(number, data)
            finally:
                os.close(number)
            if is_new:
                sync_folder(self._folder)
        except OSError as error:
            raise write_failed(self.path, error) from error

    def _write(self, number: int, data: bytes) -> None:
        """Write a line whole, or leave the file as it was."""
        before = os.fstat(number).st_size
        try:
            while data:
                data = data[os.write(number, data) :]
            os.fsync(number)
        except OSError:
            os.ftruncate(number, before)
            raise

    def _turn_over(self) -> None:
        if self.path.exists() and self.path.stat().st_size > self._file_bytes_max:
            self.path.replace(self._folder / OLD_NAME)
            sync_folder(self._folder)


def _read(path: Path) -> Iterator[Line]:
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if not line.endswith(b"\n"):
                    return  # Cut off, or being written: see rule 2.
                try:
                    yield _DECODER.decode(line)
                except msgspec.MsgspecError as error:
                    raise IntegrityError(
                        "sharing.ledger", f"{path}, line {number}: {error}.", remedy=REMEDY
                    ) from error
    except FileNotFoundError:
        return
    except OSError as error:
        raise IntegrityError(
            "sharing.ledger", f"{path} cannot be read: {error.strerror or error}.", remedy=REMEDY
        ) from error
