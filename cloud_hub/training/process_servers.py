"""Servers: the ServerApp processes of this machine, one per run.

1. Each is the leader of a session of its own and says in its environment which run it works for.
   So it is found again in /proc by a SuperLink that did not start it: nothing is written down that
   a kill could leave half done.
2. It is told how to reach the SuperLink by one JSON line on its standard input; the token in it is
   on no command line, in no file and in no environment.
3. Ending one means its whole process group: SIGTERM, and SIGKILL after TERM_S_MAX.
4. What it prints goes to server.log in its Job's folder, emptied when over SERVER_LOG_BYTES_MAX.
"""

import logging
import os
import select
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import msgspec

from cloud_hub.training.superlink_start import SERVER_LOG, SERVER_LOG_BYTES_MAX
from shared.durable_file import write_failed

log = logging.getLogger(__name__)

# In its environment: "<run id>@<the SuperLink's folder>". Another hub's ServerApps are not ours.
MARK = "ISTHMUS_FLOWER_RUN"
TERM_S_MAX = 8.0
_SESSION_FIELD = 3  # Of /proc/<pid>/stat, counted behind the name: state, ppid, pgrp, session


class Access(msgspec.Struct, frozen=True):
    """How a ServerApp reaches the SuperLink."""

    address: str
    ca_path: str
    token: str


@dataclass(slots=True)
class _Server:
    pid: int
    pidfd: int
    log_path: Path | None
    process: subprocess.Popen[bytes] | None  # None: started by a SuperLink before this one
    is_killed: bool = False
    ending_s: float | None = None  # Since when it should end, monotonic


class Servers:
    """See the rules above. One thread."""

    def __init__(self, owner: Path, *, module: str) -> None:
        """Args: `owner` is the SuperLink's folder; `module` is run with the Job's folder."""
        self._owner = str(owner.resolve())
        self._module = module
        self._servers: dict[int, _Server] = {}

    def adopt(self) -> None:
        """Find those that an earlier SuperLink of this folder started, of any run."""
        for folder in Path("/proc").iterdir():
            if folder.name.isdigit():
                run_id = _run_of(folder, self._owner)
                if run_id is not None and run_id not in self._servers:
                    with suppress(ProcessLookupError):
                        pid = int(folder.name)
                        self._servers[run_id] = _Server(pid, os.pidfd_open(pid), None, None)

    def alive(self) -> frozenset[int]:
        """Return the runs that have a live ServerApp; those that died are reaped and forgotten."""
        for run_id, server in list(self._servers.items()):
            if select.select([server.pidfd], [], [], 0)[0]:
                del self._servers[run_id]
                self._bury(server)
                log.info("server.ended", extra={"run": run_id, "code": _code(server)})
            elif server.log_path is not None:
                _limit(server.log_path)
        return frozenset(self._servers)

    def start(self, run_id: int, folder: Path, access: Access) -> None:
        """Start the ServerApp of a run. Raises TransientError `disk.write_failed`."""
        log_path = folder / SERVER_LOG
        try:
            with log_path.open("ab") as printed:
                process = subprocess.Popen(
                    [sys.executable, "-m", self._module, str(folder)],
                    stdin=subprocess.PIPE,
                    stdout=printed,
                    stderr=printed,
                    cwd=folder,
                    env=os.environ | {MARK: f"{run_id}@{self._owner}"},
                    start_new_session=True,
                )
        except OSError as error:
            raise write_failed(log_path, error) from error
        pidfd = os.pidfd_open(process.pid)
        self._servers[run_id] = _Server(process.pid, pidfd, log_path, process)
        assert process.stdin is not None
        with suppress(OSError), process.stdin:  # One that is dead already is seen by `alive`
            process.stdin.write(msgspec.json.encode(access) + b"\n")
        log.info("server.started", extra={"run": run_id, "pid": process.pid})

    def end(self, run_id: int) -> None:
        """Have the ServerApp of a run end; call it again until it is no longer alive."""
        server = self._servers.get(run_id)
        if server is None:
            return
        now_s = time.monotonic()
        if server.ending_s is None:
            server.ending_s = now_s
            _signal(server, signal.SIGTERM)
        elif now_s - server.ending_s > TERM_S_MAX and not server.is_killed:
            server.is_killed = True
            _signal(server, signal.SIGKILL)

    def end_all(self) -> None:
        """Have all end, and wait for it: TERM_S_MAX and a moment at most."""
        deadline_s = time.monotonic() + TERM_S_MAX + 1.0
        while (alive := self.alive()) and time.monotonic() < deadline_s:
            for run_id in alive:
                self.end(run_id)
            select.select([server.pidfd for server in self._servers.values()], [], [], 0.1)

    def _bury(self, server: _Server) -> None:
        if server.process is not None:
            _signal(server, signal.SIGKILL)  # What it started; its own id is held until the wait
            server.process.wait()
        os.close(server.pidfd)


def _run_of(folder: Path, owner: str) -> int | None:
    """Return the run of `owner` for which a process is the ServerApp."""
    try:
        for entry in (folder / "environ").read_bytes().split(b"\0"):
            name, _, value = entry.partition(b"=")
            if name == MARK.encode():
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
                is_leader = fields[_SESSION_FIELD] == folder.name and fields[0] != "Z"
                run_id, _, of = value.decode().partition("@")
                return int(run_id) if is_leader and of == owner else None
    except (OSError, ValueError, IndexError):
        pass  # Gone meanwhile, or another user's
    return None


def _signal(server: _Server, number: signal.Signals) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(server.pid, number)


def _limit(path: Path) -> None:
    with suppress(OSError):
        if path.stat().st_size > SERVER_LOG_BYTES_MAX:
            os.truncate(path, 0)  # It is open for appending: what comes next goes to the start


def _code(server: _Server) -> int | None:
    return server.process.returncode if server.process is not None else None
