"""NodeProcess: the learning process, started, watched and ended. One at a time.

1. It runs in a session of its own, so that it and what it started (a child for each message) end
   together: SIGTERM to it, after STOP_S_MAX SIGKILL to all.
2. It inherits no descriptor but the log's, and reads its order from its folder.
3. A process that a killed agent left behind is known by its command line, which names the folder,
   and is ended through a descriptor of its own (pidfd), so that no other process can be hit.
4. Whether what it needs is installed is looked up without importing it.
"""

import importlib.util
import logging
import os
import select
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

log = logging.getLogger(__name__)

MODULE = "edge_agent.training.flwr_node"
NEEDED = ("flwr", "torch")
STOP_S_MAX = 4.0  # From SIGTERM to SIGKILL; the agent waits ten seconds for its parts
ENDED_S_MAX = 2.0  # From SIGKILL on; a process longer in the kernel is left to it
PROC = Path("/proc")
COMMAND_BYTES_MAX = 64 * 1024


def node_command(folder: Path) -> tuple[str, ...]:
    """Return how the learning process of `<state>/learning` is started."""
    return (sys.executable, "-m", MODULE, str(folder.resolve()))


def missing_modules() -> tuple[str, ...]:
    """Return which libraries for learning are not installed here; imports none of them."""
    return tuple(name for name in NEEDED if importlib.util.find_spec(name) is None)


class NodeProcess:
    """See the rules above. Used by one thread."""

    def __init__(self, command: Sequence[str]) -> None:
        """Args: command: of node_command; what follows the program names the folder."""
        self._command = tuple(command)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """Return its id while it is there."""
        return self._process.pid if self._process else None

    def start(self) -> bool:
        """Start it; return whether the system let it."""
        assert self._process is None
        try:
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, start_new_session=True
            )
        except OSError as error:
            log.error("learning.not_started", extra={"text": str(error)})
            return False
        log.info("learning.started", extra={"node_pid": self._process.pid})
        return True

    def ended(self) -> int | None:
        """Return how it ended, as the system tells it; None while it runs. Cleans up after it."""
        process = self._process
        if process is None:
            return None
        # Looked at, not taken: while it is not taken its id is no other's.
        if os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            return None
        _kill_session(process.pid)
        self._process = None
        return process.wait()

    def stop(self) -> None:
        """End it and all that it started; returns when they are gone."""
        process = self._process
        if process is None:
            return
        process.terminate()
        if not _has_ended(process.pid, STOP_S_MAX):
            log.warning("learning.killed", extra={"node_pid": process.pid})
        _kill_session(process.pid)
        with suppress(subprocess.TimeoutExpired):
            process.wait(ENDED_S_MAX)
        self._process = None
        log.info("learning.stopped", extra={"node_pid": process.pid})

    def end_orphans(self) -> int:
        """End what a killed agent left running with this folder; return how many there were."""
        mark = self._command[1:]
        found = [pid for pid in _all_pids() if pid != self.pid and _arguments(pid)[1:] == mark]
        ended = sum(_end_orphan(pid, mark) for pid in found)
        if ended:
            log.warning("learning.orphans_ended", extra={"count": ended})
        return ended


def _has_ended(pid: int, seconds_max: float) -> bool:
    """Wait for our child's end without taking it."""
    descriptor = os.pidfd_open(pid)
    try:
        return _is_over(descriptor, seconds_max)
    finally:
        os.close(descriptor)


def _is_over(descriptor: int, seconds_max: float) -> bool:
    poller = select.poll()
    poller.register(descriptor, select.POLLIN)
    return bool(poller.poll(seconds_max * 1000))


def _kill_session(pid: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def _all_pids() -> list[int]:
    return [int(entry.name) for entry in PROC.glob("[0-9]*")]


def _arguments(pid: int) -> tuple[str, ...]:
    """Return a process's command line; empty if it is gone, or not ours to see."""
    try:
        with (PROC / str(pid) / "cmdline").open("rb") as file:
            data = file.read(COMMAND_BYTES_MAX)
    except OSError:
        return ()
    return tuple(os.fsdecode(part) for part in data.split(b"\0")[:-1])


def _end_orphan(pid: int, mark: tuple[str, ...]) -> bool:
    try:
        descriptor = os.pidfd_open(pid)
    except OSError:
        return False
    try:
        if _arguments(pid)[1:] != mark:  # Another one by now: looked at again with it held
            return False
        signal.pidfd_send_signal(descriptor, signal.SIGTERM)
        if not _is_over(descriptor, STOP_S_MAX):
            signal.pidfd_send_signal(descriptor, signal.SIGKILL)
            _is_over(descriptor, ENDED_S_MAX)
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True
