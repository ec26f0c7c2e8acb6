"""RayExecutor: runs on a Ray cluster, through a process that speaks to it; see ray_files.py.

1. The hub's process never imports Ray. It writes what should run and reads what does.
2. Each hub has a folder and a process of its own; who takes a run over takes over its submission.
3. Run folders lie on a path that every machine of the cluster sees under the same name.
4. The process is started when a run is wanted, and again when it died.
"""

import logging
import shutil
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import msgspec

from cloud_hub.training.executors.executor import Stage, Standing, Work
from cloud_hub.training.executors.ray_files import (
    FILE_BYTES_MAX,
    LOCK,
    LOG,
    RAY_MODULE,
    STANDING,
    WANTED,
    JobStanding,
    RayStanding,
    Wanted,
    WantedJob,
    attempt_of,
)
from shared.durable_file import make_private_folder, write_durably
from shared.file_lock import is_locked

log = logging.getLogger(__name__)

SUCCEEDED = "SUCCEEDED"
ENDED = (SUCCEEDED, "FAILED", "STOPPED")
STOP_S_MAX = 10.0


@dataclass(slots=True)
class _Helper:
    process: subprocess.Popen[bytes]


class RayExecutor:
    """See the rules above. One thread, but for `trouble`."""

    def __init__(self, folder: Path, *, name: str, address: str, gpus: float = 0.0) -> None:
        """Begin; nothing is started or written yet.

        Args:
            folder: of all hubs that share a disk; each has one of its own in it.
            name: this hub's.
            address: the cluster's.
            gpus: asked for by each process.
        """
        self._all = folder
        self._folder = folder / name
        self._found: dict[str, WantedJob] = {}  # By other hubs, or earlier ones
        self._address = address
        self._gpus = gpus
        self._wanted: dict[str, WantedJob] = {}
        self._written: bytes | None = None
        self._helper: _Helper | None = None
        self._trouble = ""

    def adopt(self) -> None:
        """Find what other hubs, and earlier ones, of this folder wanted.

        It is this hub's when it is looked at: then its lease is.
        """
        for path in sorted(self._all.glob(f"*/{WANTED}")):
            if path.parent == self._folder:
                continue
            with suppress(OSError, msgspec.MsgspecError):
                jobs = msgspec.json.decode(path.read_bytes(), type=Wanted).jobs
                for job in jobs:
                    known = self._found.get(job.run)
                    if known is None or attempt_of(known.key) < attempt_of(job.key):
                        self._found[job.run] = job
                if not jobs and not is_locked(path.parent / LOCK):
                    shutil.rmtree(path.parent, ignore_errors=True)

    def start(self, work: Work) -> None:
        """Want it. Raises TransientError `disk.write_failed`."""
        self._wanted[work.key] = WantedJob(
            key=f"{work.key}-{work.attempt}",
            run=work.key,
            folder=str(work.folder),
            command=tuple(work.command),
            environment=dict(work.environment),
            processes=work.processes,
            gpus=self._gpus,
        )
        self._write()

    def look(self, key: str) -> Standing:
        """Return how it stands, as the process last said."""
        job = self._wanted.get(key)
        if job is None:
            job = self._found.pop(key, None)
            if job is None:
                return Standing(Stage.MISSING)
            self._wanted[key] = job
            self._write()
        said = self._said().get(job.key)
        if said is None or said.status not in ENDED:
            return Standing(Stage.RUNNING, said.text if said is not None else "")
        del self._wanted[key]
        self._write()
        text = "" if said.status == SUCCEEDED else f"Ray says {said.status}: {said.text}"
        return Standing(Stage.ENDED, text)

    def end(self, key: str) -> None:
        """Have it end: Ray sends SIGTERM, and SIGKILL after a while."""
        job = self._wanted.get(key)
        if job is not None and not job.is_ending:
            self._wanted[key] = msgspec.structs.replace(job, is_ending=True)
            self._write()

    def tick(self) -> None:
        """See to it that the process runs while anything is wanted."""
        if self._helper is not None and self._helper.process.poll() is not None:
            log.info("ray.ended", extra={"code": self._helper.process.returncode})
            self._helper = None
        if self._wanted and self._helper is None:
            self._write()
            self._helper = _Helper(self._spawn())

    def close(self) -> None:
        """End the process; what runs on the cluster goes on."""
        if self._helper is not None:
            self._helper.process.terminate()
            try:
                self._helper.process.wait(STOP_S_MAX)
            except subprocess.TimeoutExpired:
                self._helper.process.kill()
                self._helper.process.wait()
            self._helper = None
        if not self._wanted:
            shutil.rmtree(self._folder, ignore_errors=True)

    @property
    def trouble(self) -> str:
        """Return what keeps it from working; "" where nothing."""
        return self._trouble if self._wanted else ""

    def _spawn(self) -> subprocess.Popen[bytes]:
        with (self._folder / LOG).open("wb") as printed:
            return subprocess.Popen(
                [sys.executable, "-m", RAY_MODULE, str(self._folder)],
                stdin=subprocess.DEVNULL,
                stdout=printed,
                stderr=printed,
                start_new_session=True,
            )

    def _said(self) -> dict[str, JobStanding]:
        try:
            with (self._folder / STANDING).open("rb") as file:
                standing = msgspec.json.decode(file.read(FILE_BYTES_MAX), type=RayStanding)
        except (OSError, msgspec.MsgspecError):
            return {}  # Not written yet
        self._trouble = standing.trouble
        return {job.key: job for job in standing.jobs}

    def _write(self) -> None:
        make_private_folder(self._all)
        make_private_folder(self._folder)
        jobs = tuple(self._wanted[run] for run in sorted(self._wanted))
        data = msgspec.json.encode(Wanted(address=self._address, jobs=jobs))
        if data != self._written:
            write_durably(self._folder / WANTED, data)
            self._written = data
