"""Journals and the newest Target on the disk: one small file each, replaced as a whole.

What must not live here: what a journal means.
"""

import contextlib
from pathlib import Path

import msgspec

from edge_agent.updates.journal import Journal
from shared.durable_file import write_durably
from shared.errors import ContractError
from shared.wire.target import Target

FILE_BYTES_MAX = 256 * 1024
MODE = 0o600


class FileJournal:
    """One journal per model, `<folder>/<model>.json`. Used by one thread."""

    def __init__(self, folder: Path) -> None:
        """Open the folder, made if it is missing; sweep what a crash left half-written."""
        folder.mkdir(parents=True, exist_ok=True)
        for leftover in folder.glob(".*.tmp"):
            leftover.unlink(missing_ok=True)
        self._folder = folder

    def read(self, model: str) -> Journal | None:
        """Return a model's journal, None if there never was one.

        Raises ContractError `journal.corrupt`; the file is then kept aside, for people.
        """
        path = self._path(model)
        data = _read_bounded(path)
        if data is None:
            return None
        try:
            return _parse(data, model)
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            with contextlib.suppress(OSError):
                path.replace(path.with_suffix(".unreadable"))
            raise ContractError("journal.corrupt", f"{path.name} is damaged: {error}.") from error

    def write(self, journal: Journal) -> None:
        """Put a journal on the disk. Raises TransientError `disk.write_failed`."""
        data = msgspec.json.format(msgspec.json.encode(journal))
        write_durably(self._path(journal.model), data, mode=MODE)

    def _path(self, model: str) -> Path:
        return self._folder / f"{model}.json"


class FileTarget:
    """The Target that the device has taken up, so that it starts without a network."""

    def __init__(self, path: Path) -> None:
        """Args: the file; its folder is made if it is missing."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path

    def read(self) -> Target | None:
        """Return the Target, None if there is none. Raises ContractError `target.corrupt`."""
        data = _read_bounded(self._path)
        if data is None:
            return None
        try:
            return msgspec.json.decode(data, type=Target)
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            raise ContractError(
                "target.corrupt", f"{self._path.name} is damaged: {error}."
            ) from error

    def write(self, target: Target) -> None:
        """Put the Target on the disk. Raises TransientError `disk.write_failed`."""
        write_durably(self._path, msgspec.json.encode(target), mode=MODE)


def _parse(data: bytes, model: str) -> Journal:
    journal = msgspec.json.decode(data, type=Journal)
    if journal.model != model:
        raise ValueError(f"it is the journal of {journal.model}")
    return journal


def _read_bounded(path: Path) -> bytes | None:
    """Return a file's bytes, None if there is none; what is too long or unreadable is damaged."""
    try:
        with path.open("rb") as file:
            data = file.read(FILE_BYTES_MAX + 1)
    except FileNotFoundError:
        return None
    except OSError:
        return b""
    return data if len(data) <= FILE_BYTES_MAX else b""
