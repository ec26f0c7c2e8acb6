"""Files that survive a power cut: either the old content or the new, never half of one.

1. The new content goes to a temporary file beside the old one, is flushed to the disk, and takes
   the old one's place by a rename; then the folder is flushed, so that the rename itself lasts.
2. A temporary file left by a crash is named `.<name>.<random>.tmp` and means nothing.
"""

import os
import secrets
from pathlib import Path

from shared.errors import TransientError

PRIVATE_MODE = 0o700


def write_durably(path: Path, data: bytes, *, mode: int = 0o644) -> None:
    """Make `data` the content of the file at `path`, with exactly these permissions.

    The folder must exist. When this returns the content is on the disk; when it raises, the old
    content stands. Raises TransientError `disk.write_failed`.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        try:
            _write_new(temporary, data, mode=mode)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        sync_folder(path.parent)
    except OSError as error:
        raise write_failed(path, error) from error


def create_durably(path: Path, data: bytes, *, mode: int = 0o644) -> bool:
    """Make the file at `path` with `data`, unless there is one; return whether it was made.

    Of several that try at once one wins, and nobody ever sees it half written. Raises
    TransientError `disk.write_failed`.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        try:
            _write_new(temporary, data, mode=mode)
            path.hardlink_to(temporary)
        except FileExistsError:
            return False
        finally:
            temporary.unlink(missing_ok=True)
        sync_folder(path.parent)
    except OSError as error:
        raise write_failed(path, error) from error
    return True


def make_folder(path: Path, *, mode: int = 0o755) -> None:
    """Make the folder at `path`, and those above it, unless they are there.

    Raises TransientError `disk.write_failed`.
    """
    try:
        if path.is_dir():
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir(mode=mode, exist_ok=True)
        sync_folder(path.parent)
    except OSError as error:
        raise write_failed(path, error) from error


def make_private_folder(path: Path) -> None:
    """Make the folder at `path` one into which only its own user can look, whatever it was.

    What programs write into it then needs no care of its own: a database, a model, a journal.
    Raises TransientError `disk.write_failed`.
    """
    make_folder(path, mode=PRIVATE_MODE)
    try:
        is_open = path.stat().st_mode & ~PRIVATE_MODE & 0o777
        if is_open and path.stat().st_uid == os.geteuid():
            path.chmod(PRIVATE_MODE)
    except OSError as error:
        raise write_failed(path, error) from error


def sync_folder(path: Path) -> None:
    """Flush a folder's list of names to the disk. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_failed(path: Path, error: OSError) -> TransientError:
    """Return the error for a file that cannot be written."""
    return TransientError(
        "disk.write_failed",
        f"Cannot write {path}: {error.strerror or error}.",
        remedy="Look at the disk's free space and at who owns the folder.",
    )


def _write_new(path: Path, data: bytes, *, mode: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        os.fchmod(descriptor, mode)  # Not at open: there the umask would take bits away.
        file.write(data)
        file.flush()
        os.fsync(descriptor)
