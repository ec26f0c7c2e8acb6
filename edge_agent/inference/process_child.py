"""WorkerChild: one worker process, from its start to its end. A session may need several in turn.

1. Started with a clean environment, in a session of its own, with no descriptor but its sockets.
   `-S` and `-P`: it reads the folders where the agent's own modules were found and no others.
2. The thread that starts it must live as long as it does: the kernel kills it with that thread.
3. A lane belongs to one thread at a time. A thread whose run got no answer in time, or whose lane
   broke, says so with `lose`; the supervising thread finds out the rest.
4. Its last words (standard error) are kept for the log; a worker that says much is not held up.
"""

import os
import queue
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

from edge_agent.inference.procfs_threads import thread_cpu_s
from edge_agent.inference.run_watch import LaneLook
from shared.quiet_libraries import QUIET

ROOT = Path(__file__).parents[2]
LAST_WORDS_BYTES_MAX = 64 * 1024
LAST_WORDS_CHARS_MAX = 500
TERMINATE_S = 0.1  # From SIGTERM to SIGKILL: it has nothing to save
ENDED_S_MAX = 5.0  # From SIGKILL on; a process longer in the kernel is left to it
THREADS_OF_LIBRARIES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
_TIME = struct.Struct("@ll")  # struct timeval


class WorkerChild:
    """See the rules above."""

    def __init__(
        self, module: str, model: str, path: Path, *, threads: int, bytes_max: int, number: int
    ) -> None:
        """Start it. Raises OSError.

        Args: number: which of its session's, from 1.
        """
        self.number = number
        self.is_lost = threading.Event()
        self.cause = ""
        self.threads: tuple[int, ...] = ()  # Of the lanes, once it has told them
        self.first_cpu_s = 0.0  # What the first run computed, for one row
        self.rows_max = 1  # Of all runs
        self._free: list[socket.socket] = []
        self._waiting: deque[queue.SimpleQueue[socket.socket]] = deque()
        self._lock = threading.Lock()
        with ExitStack() as theirs, ExitStack() as ours:
            self.control, control = _pair(theirs, ours)
            pairs = [_pair(theirs, ours) for _ in range(threads)]
            self._errors = _read_end(theirs, ours)
            numbers = (control, *(their for _, their in pairs))
            arguments = (
                str(control), ",".join(str(their) for _, their in pairs), str(os.getpid()),
                str(bytes_max), model, str(path),
            )  # fmt: skip
            self._process = subprocess.Popen(
                (sys.executable, "-S", "-P", "-m", module, *arguments),
                env=_environment(),
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=self._errors[1],
                pass_fds=numbers,
                start_new_session=True,
            )
            self.pid = self._process.pid
            self.pidfd = os.pidfd_open(self.pid)
            ours.callback(os.close, self.pidfd)
            self._opened = ours.pop_all()
        self._lanes = [lane for lane, _ in pairs]
        self._turns = dict.fromkeys(self._lanes, 0)
        for lane in self._lanes:
            self.give_back_lane(lane)

    def take_lane(self, seconds_max: float) -> socket.socket | None:
        """Return a lane that is free within `seconds_max`; who came first has it first."""
        with self._lock:
            if self._free:
                return self._free.pop()  # The one used last: its thread is warm
            waiting: queue.SimpleQueue[socket.socket] = queue.SimpleQueue()
            self._waiting.append(waiting)
        try:
            return waiting.get(timeout=seconds_max)
        except queue.Empty:
            pass
        with self._lock:
            if waiting in self._waiting:
                self._waiting.remove(waiting)
                return None
        return waiting.get()  # It came at the last moment

    def give_back_lane(self, lane: socket.socket) -> None:
        """Let the next one have it."""
        with self._lock:
            self._turns[lane] += 1
            if self._waiting:
                self._waiting.popleft().put(lane)
            else:
                self._free.append(lane)

    def look_at_lanes(self) -> list[LaneLook]:
        """Return how each lane stands now, and how long its thread has computed."""
        with self._lock:
            seen = [(self._turns[lane], lane not in self._free) for lane in self._lanes]
        return [
            LaneLook(turn, is_busy, thread_cpu_s(self.pid, thread) if is_busy else None)
            for (turn, is_busy), thread in zip(seen, self.threads, strict=False)
        ]

    def lanes_cpu_s(self) -> float:
        """Return how long all lanes together have computed."""
        return sum(thread_cpu_s(self.pid, thread) or 0.0 for thread in self.threads)

    def limit_runs(self, seconds: float) -> None:
        """Let an answer take that long from now on."""
        for lane in self._lanes:
            whole = int(seconds)
            value = _TIME.pack(whole, int((seconds - whole) * 1e6))
            lane.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, value)
            lane.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, value)

    def kill(self) -> None:
        """Kill it at once; harmless when it is gone."""
        with suppress(OSError):
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)

    def end(self) -> str:
        """Terminate, kill, reap; return in words how it ended. Only by the supervising thread."""
        self._process.poll()
        if self._process.returncode is None:
            self._process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(TERMINATE_S)
        if self._process.returncode is None:
            self._process.kill()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(ENDED_S_MAX)
        return ending_in_words(self._process.returncode)

    def reap(self) -> str:
        """Return in words how a process ended that is over or about to be."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(TERMINATE_S)
        return self.end()

    def last_words(self) -> str:
        """Return the end of what it wrote to standard error."""
        try:
            data = os.read(self._errors[0], LAST_WORDS_BYTES_MAX)
        except OSError:
            return ""
        return data.decode(errors="replace").strip()[-LAST_WORDS_CHARS_MAX:]

    def close(self) -> None:
        """Close sockets and descriptors; nobody uses it any more."""
        self._opened.close()


def ending_in_words(status: int | None) -> str:
    """Return how a process ended, for people. Args: status: as subprocess tells it."""
    match status:
        case None:
            return "cannot be killed"
        case -9:
            return "killed by SIGKILL, as the kernel does when memory runs out"
        case _ if status < 0 and -status in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            return f"killed by {signal.Signals(-status).name}"
        case _ if status < 0:
            return f"crashed with {_signal_name(-status)}"
        case _:
            return f"ended with status {status}"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _pair(theirs: ExitStack, ours: ExitStack) -> tuple[socket.socket, int]:
    our, their = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.callback(our.close)
    theirs.callback(their.close)
    return our, their.fileno()


def _read_end(theirs: ExitStack, ours: ExitStack) -> tuple[int, int]:
    """Return a pipe that neither side ever waits for."""
    read, write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    ours.callback(os.close, read)
    theirs.callback(os.close, write)
    return read, write


def _environment() -> dict[str, str]:
    paths: Sequence[str] = (str(ROOT), *(path for path in sys.path if path))
    return {
        "PATH": os.defpath,
        "LC_ALL": "C.UTF-8",
        "PYTHONPATH": os.pathsep.join(dict.fromkeys(paths)),
        **dict.fromkeys(THREADS_OF_LIBRARIES, "1"),
        **QUIET,
    }
