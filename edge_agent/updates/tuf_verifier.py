"""TufVerifier: what the hub's signed metadata says, believed only after python-tuf's checks.

1. Trust begins with the root this device was given when it joined (`bootstrap`), never with what
   lies in the metadata folder.
2. Metadata that was seen is kept there, flushed to the disk: older metadata offered later is a
   rollback, also after a power cut.
3. Expiry is judged by the machine's own clock (python-tuf asks it itself); a clock that is far
   off therefore looks like expired metadata, and the error says so. It passes, when the clock is
   set or the hub signs again: of all refusals this one is a TransientError.
4. Each way to be refused has its own code: `tuf.expired`, `tuf.rollback`, `tuf.signature`,
   `tuf.mismatch` (pieces of different states put together), `tuf.unknown_target`, `tuf.invalid`.
"""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

from tuf.api.exceptions import (
    BadVersionNumberError,
    DownloadError,
    DownloadHTTPError,
    DownloadLengthMismatchError,
    ExpiredMetadataError,
    LengthOrHashMismatchError,
    RepositoryError,
    UnsignedMetadataError,
)
from tuf.api.metadata import TargetFile
from tuf.ngclient import FetcherInterface, Updater, UpdaterConfig

from edge_agent.updates.file_blocks import disk_errors
from edge_agent.updates.transfer import BlockTransfer, FileMissingError
from shared.durable_file import sync_folder
from shared.errors import IntegrityError, IsthmusError, TransientError

METADATA_BYTES_MAX = 5_000_000  # The largest python-tuf reads of any role
TIMESTAMP = "timestamp.json"
_NOT_FOUND = 404


class TufVerifier:
    """See the rules above. Used by one thread."""

    def __init__(self, transfer: BlockTransfer, *, folder: Path, bootstrap: bytes) -> None:
        """Args: `folder` keeps metadata; `bootstrap` is root.json as given when joining."""
        self._transfer = transfer
        self._folder = folder
        self._bootstrap = bootstrap

    def refresh(self, stop: threading.Event) -> "TrustedTargets":
        """Return what the hub vouches for now.

        Raises TransientError (no answer, or `tuf.expired`: try later), IntegrityError with
        another code of rule 4, RefusedError `transfer.disk_full`.
        """
        with _translated():
            self._folder.mkdir(parents=True, exist_ok=True)
            updater = Updater(
                metadata_dir=str(self._folder),
                metadata_base_url="metadata/",
                fetcher=_BlockFetcher(self._transfer, stop),
                config=UpdaterConfig(targets_max_length=METADATA_BYTES_MAX),
                bootstrap=self._bootstrap,
            )
            before = _modified(self._folder / TIMESTAMP)
            updater.refresh()
            if _modified(self._folder / TIMESTAMP) != before:
                _flush(self._folder)
        return TrustedTargets(updater)


class TrustedTargets:
    """One verified state of the repository."""

    def __init__(self, updater: Updater) -> None:
        """Args: a python-tuf updater that has refreshed."""
        self._updater = updater

    def file(self, path: str) -> "TrustedFile":
        """Return what is signed about a file.

        Raises IntegrityError `tuf.unknown_target` if nobody entitled signed it; else as refresh.
        """
        with _translated():
            target = self._updater.get_targetinfo(path)
        if target is None:
            raise IntegrityError(
                "tuf.unknown_target", f"The hub's signed metadata does not name {path}."
            )
        return TrustedFile(target)


class TrustedFile:
    """What is signed about one file, and the check that some bytes are it."""

    def __init__(self, target: TargetFile) -> None:
        """Args: a target of verified metadata. Raises IntegrityError `tuf.invalid`."""
        digest = target.hashes.get("sha256")
        if digest is None:
            raise IntegrityError("tuf.invalid", f"{target.path} is signed without a SHA-256.")
        folder, _, name = target.path.rpartition("/")
        self.path = str(target.path)
        self.digest = str(digest)
        self.file_bytes = int(target.length)
        self.repository_path = f"targets/{folder}/{digest}.{name}"  # Consistent snapshots
        self._target = target

    def verify_file(self, path: Path) -> None:
        """Raise IntegrityError `release.digest` unless it is this file. Raises OSError."""
        with path.open("rb") as file:
            self._verify(file)

    def verify_bytes(self, data: bytes) -> None:
        """Raise IntegrityError `release.digest` unless the bytes are this file's."""
        self._verify(data)

    def _verify(self, data: bytes | IO[bytes]) -> None:
        try:
            self._target.verify_length_and_hashes(data)
        except LengthOrHashMismatchError as error:
            raise IntegrityError(
                "release.digest", f"The bytes of {self.path} are not what was signed."
            ) from error


class _BlockFetcher(FetcherInterface):
    """How python-tuf fetches metadata: whole, in memory, over the transfer."""

    def __init__(self, transfer: BlockTransfer, stop: threading.Event) -> None:
        self._transfer = transfer
        self._stop = stop

    def _fetch(self, url: str) -> Iterator[bytes]:
        try:
            data = self._transfer.read(url, bytes_max=METADATA_BYTES_MAX, stop=self._stop)
        except FileMissingError as error:  # This is how python-tuf learns that no newer root is.
            raise DownloadHTTPError(error.message, _NOT_FOUND) from error
        return iter((data,))


@contextmanager
def _translated() -> Iterator[None]:
    """Turn python-tuf's errors into ours."""
    with disk_errors():
        try:
            yield
        except DownloadLengthMismatchError as error:
            raise _mismatch(error) from error
        except DownloadError as error:
            if isinstance(error.__cause__, IsthmusError):
                raise error.__cause__ from None
            raise TransientError("tuf.download", f"Metadata did not come: {error}.") from error
        except RepositoryError as error:
            raise _refusal(error) from error


def _modified(path: Path) -> int | None:
    return path.stat().st_mtime_ns if path.exists() else None


def _flush(folder: Path) -> None:
    """Bring metadata to the disk: python-tuf renames into place, and does not flush."""
    for path in folder.glob("*.json"):
        with path.open("rb") as file:
            os.fsync(file.fileno())
    sync_folder(folder)


def _refusal(error: RepositoryError) -> IntegrityError | TransientError:
    match error:
        case ExpiredMetadataError():
            today = datetime.now(UTC).date()
            return TransientError(
                "tuf.expired",
                f"The hub's signed metadata has expired: {error}.",
                remedy=f"If it is not {today}, set this device's clock; else let the hub sign "
                "its metadata again.",
            )
        case BadVersionNumberError():
            return IntegrityError(
                "tuf.rollback",
                f"The hub offers older metadata than this device has seen: {error}.",
                remedy="After a restore of the hub from a backup, let it sign its metadata again.",
            )
        case UnsignedMetadataError():
            return IntegrityError(
                "tuf.signature",
                f"Metadata is not signed by the keys that this fleet trusts: {error}.",
                remedy="If the hub was set up anew, join this device again.",
            )
        case LengthOrHashMismatchError():
            return _mismatch(error)
        case _:
            return IntegrityError("tuf.invalid", f"The hub's metadata is not valid: {error}.")


def _mismatch(error: Exception) -> IntegrityError:
    return IntegrityError(
        "tuf.mismatch", f"Metadata of different states of the hub was put together: {error}."
    )
