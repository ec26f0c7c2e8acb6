"""SuperLinkProcess: keeps Flower's SuperLink running while the hub wants it, and talks to it.

1. They meet through files only (job_folder.py): `want` writes wanted.json, `standing` reads
   standing.json. Nothing of Flower is imported here.
2. It runs while nodes or runs are wanted, is started again with backoff when it ends, and is ended
   when nothing was wanted for `idle_s`, and with the hub.
3. It ends when the hub dies: its standard input is a pipe that only the hub holds. The hub that
   comes next starts it again on the same database and the same ports. ServerApps are in sessions
   of their own and outlive both: they try again until it is back, and it adopts them. A hub that
   stops in order ends them too; their Jobs go on from their checkpoints by a new attempt.
4. No secret passes between the two: those of Flower's APIs are made in its process, and stay there.
"""

import logging
import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated, TypeVar

import msgspec
from msgspec import Meta

from cloud_hub.training.job_folder import (
    FILE_BYTES_MAX,
    STANDING,
    WANTED,
    Standing,
    Wanted,
    WantedNode,
    WantedRun,
)
from cloud_hub.training.superlink_start import (
    ERRORS,
    FLOWER_HOME,
    SERVER_MODULE,
    START,
    SuperLinkStart,
)
from shared.backoff import Backoff
from shared.clock import Clock
from shared.durable_file import make_private_folder, write_durably, write_failed
from shared.errors import IsthmusError
from shared.settings import Settings

log = logging.getLogger(__name__)

STANDING_AGE_S_MAX = 5.0  # It is written every second
POLL_S = 0.2
RESTART_S_MIN = 0.5
RESTART_S_MAX = 30.0
HEALTHY_S = 60.0
STOP_S_MAX = 12.0  # It gives its ServerApps their time to end
_FINISHED = "finished"
T = TypeVar("T")


class SuperLinkSettings(Settings, frozen=True):
    """Where devices find the SuperLink, and its limits."""

    host: str = "0.0.0.0"  # noqa: S104
    port: Annotated[int, Meta(ge=0, le=65535)] = 9092  # 0: any free one
    idle_s: Annotated[float, Meta(ge=0.0, le=86_400.0)] = 120.0
    connections_max: Annotated[int, Meta(ge=16, le=65_536)] = 4096


class SuperLinkProcess:
    """See the rules above. `want` and `standing` are safe from any thread; `run` has one."""

    def __init__(
        self,
        folder: Path,
        *,
        ca_path: Path,
        certificate_path: Path,
        key_path: Path,
        settings: SuperLinkSettings,
        clock: Clock,
        server_module: str = SERVER_MODULE,
    ) -> None:
        """Args: `folder` is made if need be. Raises TransientError `disk.write_failed`."""
        self._folder, self._settings, self._clock = folder.absolute(), settings, clock
        self._paths = (ca_path.absolute(), certificate_path.absolute(), key_path.absolute())
        make_private_folder(folder)
        self._server_module = server_module
        self._lock = threading.Lock()
        self._wanted = _read(self._folder / WANTED, Wanted)
        self._process: subprocess.Popen[bytes] | None = None
        self._started_s = 0.0
        self.starts_count = 0

    @property
    def pid(self) -> int | None:
        """Return the process's id while it runs."""
        process = self._process
        return process.pid if process is not None and process.returncode is None else None

    def want(self, nodes: Sequence[WantedNode], runs: Sequence[WantedRun]) -> int:
        """Say what it should have; return the revision, a new one only if something changed.

        Raises TransientError `disk.write_failed`; what was wanted before still is.
        """
        with self._lock:
            old = self._wanted
            new = Wanted(
                revision=old.revision + 1 if old is not None else 1,
                nodes=tuple(nodes),
                runs=tuple(runs),
            )
            if old is not None and (old.nodes, old.runs) == (new.nodes, new.runs):
                return old.revision
            write_durably(self._folder / WANTED, msgspec.json.encode(new), mode=0o600)
            self._wanted = new
            return new.revision

    def standing(self) -> Standing | None:
        """Return what it has; None when it did not say so for STANDING_AGE_S_MAX."""
        standing = _read(self._folder / STANDING, Standing)
        if standing is None:
            return None
        age_s = abs(self._clock.now_s() - standing.at_ms / 1000)
        return standing if age_s <= STANDING_AGE_S_MAX else None

    def run(self, stop: threading.Event) -> None:
        """Serve until `stop` is set. The process has ended when this returns."""
        backoff = Backoff(delay_s_min=RESTART_S_MIN, delay_s_max=RESTART_S_MAX)
        needed_s = self._clock.monotonic_s() if self._left_runs() else None
        try:
            while not stop.is_set():
                if self._is_wanted():
                    needed_s = self._clock.monotonic_s()
                if needed_s is None or self._is_idle_since(needed_s):
                    self._end()
                elif not self._serve_once(stop):
                    self._clock.wait(stop, backoff.next_delay_s())
                    continue
                elif self._clock.monotonic_s() - self._started_s > HEALTHY_S:
                    backoff.reset()
                self._clock.wait(stop, POLL_S)
        finally:
            self._end()

    def _serve_once(self, stop: threading.Event) -> bool:
        """Start it unless it runs; return False if it had ended, or could not be started."""
        if self._process is None:
            try:
                self._start()
            except IsthmusError as error:
                log.error("superlink.not_started", extra={"code": error.code, "text": str(error)})
                return False
        elif self._process.poll() is not None and not stop.is_set():
            log.warning("superlink.ended", extra={"code": self._process.returncode})
            self._end()
            return False
        return True

    def _start(self) -> None:
        ca_path, certificate_path, key_path = self._paths
        start = SuperLinkStart(
            folder=str(self._folder),
            ca_path=str(ca_path),
            certificate_path=str(certificate_path),
            key_path=str(key_path),
            host=self._settings.host,
            port=self._settings.port,
            connections_max=self._settings.connections_max,
            server_module=self._server_module,
        )
        path = self._folder / START
        write_durably(path, msgspec.json.encode(start), mode=0o600)
        self._started_s = self._clock.monotonic_s()
        try:
            # Emptied at each start: what a process says that dies before it has its log.
            with (self._folder / ERRORS).open("wb") as errors:
                self._process = subprocess.Popen(
                    [sys.executable, "-m", "cloud_hub.training.flwr_superlink", str(path)],
                    stdin=subprocess.PIPE,
                    stdout=errors,
                    stderr=errors,
                    env=flower_environment(self._folder),
                    start_new_session=True,  # Ctrl+C is the hub's: it decides who ends when
                )
        except OSError as error:
            raise write_failed(self._folder / ERRORS, error) from error
        self.starts_count += 1
        log.info("superlink.started", extra={"pid": self._process.pid})

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        try:
            process.wait(STOP_S_MAX)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        assert process.stdin is not None
        with suppress(OSError):
            process.stdin.close()

    def _is_wanted(self) -> bool:
        wanted = self._wanted
        return wanted is not None and bool(wanted.nodes or wanted.runs)

    def _is_idle_since(self, needed_s: float) -> bool:
        return self._clock.monotonic_s() - needed_s > self._settings.idle_s

    def _left_runs(self) -> bool:
        """Return whether a run of the hub before us may still go on."""
        standing = _read(self._folder / STANDING, Standing)
        return standing is not None and any(r.status != _FINISHED for r in standing.runs)


def flower_environment(folder: Path) -> dict[str, str]:
    """Return the environment for Flower's processes: nothing of it is outside `folder`.

    What the hub's own environment says of Flower is left out: some of it opens APIs to everybody.
    """
    kept = {k: v for k, v in os.environ.items() if not k.startswith("FLWR_")}
    programs = str(Path(sys.executable).parent)
    return kept | {
        "PATH": f"{programs}{os.pathsep}{kept.get('PATH', os.defpath)}",
        "FLWR_HOME": str(folder / FLOWER_HOME),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "NO_COLOR": "1",
    }


def _read(path: Path, shape: type[T]) -> T | None:
    """Return the file at `path`; None if it is not there, or makes no sense."""
    try:
        with path.open("rb") as file:
            return msgspec.json.decode(file.read(FILE_BYTES_MAX + 1), type=shape)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        log.warning("superlink.file_unreadable", extra={"path": str(path), "text": str(error)})
        return None
