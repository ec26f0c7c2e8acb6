"""FileLock: one process at a time on a state folder, held by the system until that process ends.

The lock is on an open file, so that a killed process leaves none behind. What must not live here:
what the folder holds.
"""

import fcntl
import os
import threading
from collections.abc import Callable
from pathlib import Path

from shared.clock import Clock
from shared.errors import UnavailableError

RETRY_S = 0.2


class FileLock:
    """Holds the lock file at `path` from when it is made until `release`."""

    def __init__(self, path: Path, *, code: str, holder: str) -> None:
        """Take the lock. Its folder exists.

        Args:
            path: the lock file, made if it is not there.
            code: the code of the error if another process holds it ("hub.running").
            holder: who that is, as the sentence's subject ("Another hub runs with …").

        Raises UnavailableError with `code`, or `state.unusable` if the file cannot be opened.
        """
        try:
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise UnavailableError(
                "state.unusable",
                f"The state folder {path.parent} cannot be used: {error.strerror or error}.",
                remedy="Run as the user that owns it, or name another folder with --state.",
            ) from error
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._descriptor)
            raise UnavailableError(
                code,
                f"{holder}.",
                remedy="Stop it, or give this one a folder of its own with --state.",
            ) from error

    def release(self) -> None:
        """Let the next process have it. Once."""
        os.close(self._descriptor)


def wait_for_lock(
    take: Callable[[], FileLock],
    clock: Clock,
    *,
    seconds_max: float,
    stop: threading.Event | None = None,
) -> FileLock:
    """Return what `take` returns, tried while another process holds it: it may be about to end.

    Args: stop: gives up waiting when it is set; the lock is tried once more.

    Raises what `take` raises at last.
    """
    until_s = clock.monotonic_s() + seconds_max
    stop = stop or threading.Event()
    while clock.monotonic_s() < until_s and not stop.is_set():
        try:
            return take()
        except UnavailableError:
            clock.wait(stop, RETRY_S)
    return take()


def is_locked(path: Path) -> bool:
    """Return whether a process holds the lock file at `path`; False where it cannot be told."""
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False
