"""LocalExecutor: runs on this machine, each a session of its own.

1. Each run's first process leads a session and a process group, and says in its environment which
   run of which folder it works for. So it is found again in /proc by a hub that did not start it,
   and so is every process that it started: nothing is written down that a kill could leave half
   done.
2. The lock on the run's folder is an open file that the process inherits: it is held exactly as
   long as the process lives, and a second one is never started.
3. Ending one means all its processes: SIGTERM to the group, SIGKILL after `term_s_max`. When the
   first process dies by itself, those that it left behind are killed.
4. What it prints goes to trainer.log in its folder, emptied when over LOG_BYTES_MAX.
"""

import fcntl
import logging
import os
import select
import signal
import subprocess
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from cloud_hub.training.executors.executor import LOCK, Stage, Standing, Work
from cloud_hub.training.trainer.run_files import LOG, LOG_BYTES_MAX
from shared.clock import Clock
from shared.durable_file import write_failed
from shared.errors import TransientError
from shared.file_lock import is_locked

log = logging.getLogger(__name__)

# In its environment: "<key>@<the folder of all runs>". Another hub's runs are not ours.
MARK = "ISTHMUS_TRAINING_RUN"
OOM_SCORE = "500"  # Of 1000: when memory runs out, what trains is killed, not the hub
ENDED_KEPT_MAX = 1000  # How runs ended, until they are asked for: far more than run at a time
_SESSION_FIELD = 3  # Of /proc/<pid>/stat, counted behind the name: state, ppid, pgrp, session


@dataclass(slots=True)
class _Running:
    pid: int
    pidfd: int
    folder: Path
    process: subprocess.Popen[bytes] | None  # None: started by an earlier process of the hub
    ending_s: float | None = None  # Since when it should end, monotonic
    is_killed: bool = False


class LocalExecutor:
    """See the rules above. One thread."""

    def __init__(
        self, runs: Path, clock: Clock, *, niceness: int = 10, term_s_max: float = 10.0
    ) -> None:
        """Args: `runs` is the folder in which every run has its own."""
        self._runs = str(runs.resolve())
        self._clock = clock
        self._niceness = niceness
        self._term_s_max = term_s_max
        self._running: dict[str, _Running] = {}
        self._ended: dict[str, str] = {}  # Key -> how it ended, until it is started again

    def adopt(self) -> None:
        """Find what runs already for this folder."""
        for pid, key in _marked(self._runs):
            if key not in self._running and _is_leader(pid):
                with suppress(ProcessLookupError):
                    folder = Path(self._runs) / key
                    self._running[key] = _Running(pid, os.pidfd_open(pid), folder, None)
                    log.info("run.adopted", extra={"run": key, "pid": pid})

    def start(self, work: Work) -> None:
        """Start it. Raises TransientError `run.busy`, `disk.write_failed`, `run.no_start`."""
        if work.key in self._running:
            return
        self._kill_leftovers(work.key)
        lock = _take_lock(work.folder / LOCK)
        try:
            process = self._spawn(work, lock)
        finally:
            os.close(lock)  # The process has it now, if there is one
        pidfd = os.pidfd_open(process.pid)
        with suppress(OSError):  # Dead already: seen by `look`
            os.setpriority(os.PRIO_PROCESS, process.pid, self._niceness)
            Path(f"/proc/{process.pid}/oom_score_adj").write_text(OOM_SCORE)
        self._ended.pop(work.key, None)
        self._running[work.key] = _Running(process.pid, pidfd, work.folder, process)
        log.info("run.started", extra={"run": work.key, "pid": process.pid})

    def look(self, key: str) -> Standing:
        """Return how it stands."""
        running = self._running.get(key)
        if running is not None:
            if not select.select([running.pidfd], [], [], 0)[0]:
                return Standing(Stage.RUNNING)
            del self._running[key]
            self._ended[key] = self._bury(key, running)
            while len(self._ended) > ENDED_KEPT_MAX:
                del self._ended[next(iter(self._ended))]
        if key in self._ended:
            return Standing(Stage.ENDED, self._ended[key])
        # Held, though not by anything found here: it runs on another machine of this folder.
        is_held = is_locked(Path(self._runs) / key / LOCK)
        return Standing(Stage.RUNNING if is_held else Stage.MISSING)

    def end(self, key: str) -> None:
        """Have it end: SIGTERM now; `tick` kills it if it does not."""
        running = self._running.get(key)
        if running is not None and running.ending_s is None:
            running.ending_s = self._clock.monotonic_s()
            _signal(running, signal.SIGTERM)

    def tick(self) -> None:
        """Keep logs short, and kill what was asked to end and did not."""
        now_s = self._clock.monotonic_s()
        for running in self._running.values():
            _limit(running.folder / LOG)
            since_s = running.ending_s
            if since_s is not None and now_s - since_s > self._term_s_max and not running.is_killed:
                running.is_killed = True
                _signal(running, signal.SIGKILL)

    def close(self) -> None:
        """Let go of everything; what runs goes on."""
        for running in self._running.values():
            os.close(running.pidfd)
            if running.process is not None:
                # Not ours to wait for any more; without this its object would complain.
                running.process.returncode = running.process.poll() or 0
        self._running.clear()

    @property
    def trouble(self) -> str:
        """Return "": this machine is always there."""
        return ""

    def _spawn(self, work: Work, lock: int) -> subprocess.Popen[bytes]:
        path = work.folder / LOG
        try:
            with path.open("ab") as printed:
                return subprocess.Popen(
                    list(work.command),
                    stdin=subprocess.DEVNULL,
                    stdout=printed,
                    stderr=printed,
                    cwd=work.folder,
                    env=os.environ | work.environment | {MARK: f"{work.key}@{self._runs}"},
                    start_new_session=True,
                    pass_fds=(lock,),
                )
        except FileNotFoundError as error:
            raise TransientError(
                "run.no_start",
                f"Cannot start {work.command[0]}: {error.strerror}.",
                remedy="Look at the hub's installation.",
            ) from error
        except OSError as error:
            raise write_failed(path, error) from error

    def _bury(self, key: str, running: _Running) -> str:
        text = "it ended while no hub looked"
        if running.process is not None:
            _signal(running, signal.SIGKILL)  # Its own id is held until the wait
            text = _how(running.process.wait())
        os.close(running.pidfd)
        self._kill_leftovers(key)
        log.info("run.ended", extra={"run": key, "how": text})
        return text

    def _kill_leftovers(self, key: str) -> None:
        """Kill what a dead run has left behind."""
        for pid, found in _marked(self._runs):
            if found == key:
                with suppress(ProcessLookupError, PermissionError):
                    pidfd = os.pidfd_open(pid)
                    try:
                        # Opened first and looked at again: the id may be another's by now.
                        if _mark_of(pid, self._runs) == key:
                            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                    finally:
                        os.close(pidfd)


def _marked(runs: str) -> list[tuple[int, str]]:
    """Return every process of this folder's runs, with the run's key."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            key = _mark_of(int(entry.name), runs)
            if key is not None:
                found.append((int(entry.name), key))
    return found


def _mark_of(pid: int, runs: str) -> str | None:
    try:
        data = Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return None  # Gone meanwhile, or another user's
    for entry in data.split(b"\0"):
        name, _, value = entry.partition(b"=")
        if name == MARK.encode():
            key, _, folder = value.decode(errors="replace").partition("@")
            return key if folder == runs else None
    return None


def _is_leader(pid: int) -> bool:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return fields[_SESSION_FIELD] == str(pid) and fields[0] != "Z"
    except (OSError, IndexError):
        return False


def _take_lock(path: Path) -> int:
    """Return the open lock file, locked. Raises TransientError `run.busy`, `disk.write_failed`."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise write_failed(path, error) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        raise TransientError(
            "run.busy",
            f"Somebody works in {path.parent} already.",
            remedy="Wait: it is looked at again.",
        ) from error
    return descriptor


def _signal(running: _Running, number: signal.Signals) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(running.pid, number)


def _limit(path: Path) -> None:
    with suppress(OSError):
        if path.stat().st_size > LOG_BYTES_MAX:
            os.truncate(path, 0)  # It is open for appending: what comes next goes to the start


def _how(code: int) -> str:
    if code >= 0:
        return f"exit status {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"
