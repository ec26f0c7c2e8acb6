"""The process for Ray: `python -m cloud_hub.training.executors.ray_jobs FOLDER`.

1. It reads wanted.json, submits what is not on the cluster yet, stops what should end, brings logs
   into the runs' folders, and writes standing.json; twice a second.
2. It ends by itself when nothing is wanted for IDLE_S, or when the hub's process is gone: what runs
   on the cluster goes on, and the next process finds it by its submission id.
3. Ray is imported here and nowhere else: it takes hundreds of MB, which no hub should hold.
"""

import logging
import os
import shlex
import sys
import time
from pathlib import Path

import msgspec
from ray.job_submission import JobSubmissionClient

from cloud_hub.training.executors.ray_files import (
    FILE_BYTES_MAX,
    LOCK,
    LOOK_S,
    STANDING,
    WANTED,
    JobStanding,
    RayStanding,
    Wanted,
    WantedJob,
)
from cloud_hub.training.trainer.run_files import LOG, LOG_BYTES_MAX
from shared.durable_file import write_durably
from shared.errors import IsthmusError, UnavailableError
from shared.file_lock import FileLock

IDLE_S = 30.0
TEXT_CHARS_MAX = 2000
LOG_EVERY_S = 2.0
ENDED = ("SUCCEEDED", "FAILED", "STOPPED")
# What JobSubmissionClient raises: of its own, of requests (an OSError), of the cluster's answers.
_RAY_ERRORS = (RuntimeError, ConnectionError, OSError, ValueError, TypeError)


class RayJobs:
    """Carries out wanted.json on a cluster."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._client: JobSubmissionClient | None = None
        self._address = ""
        self._ended: dict[str, JobStanding] = {}
        self._logged_s: dict[str, float] = {}

    def step(self, wanted: Wanted) -> RayStanding:
        """Do what is to be done now, and return how everything stands."""
        jobs: list[JobStanding] = []
        trouble = ""
        for job in wanted.jobs:
            try:
                jobs.append(self._carry_out(job, self._connected(wanted.address)))
            except _RAY_ERRORS as error:
                trouble = f"Ray at {wanted.address}: {_first_line(error)}"
                jobs.append(self._ended.get(job.key) or JobStanding(job.key, "UNKNOWN", trouble))
                self._client = None
        return RayStanding(pid=os.getpid(), jobs=tuple(jobs), trouble=trouble[:TEXT_CHARS_MAX])

    def _connected(self, address: str) -> JobSubmissionClient:
        if self._client is None or self._address != address:
            self._client = JobSubmissionClient(address)
            self._address = address
        return self._client

    def _carry_out(self, job: WantedJob, client: JobSubmissionClient) -> JobStanding:
        if job.key in self._ended:
            return self._ended[job.key]
        known = {details.submission_id: details for details in client.list_jobs()}
        if job.key not in known:
            if job.is_ending:
                return self._bury(JobStanding(job.key, "STOPPED", "it had not begun"))
            client.submit_job(
                entrypoint=shlex.join(job.command),
                submission_id=job.key,
                runtime_env={"env_vars": dict(job.environment)},
                entrypoint_num_cpus=job.processes,
                entrypoint_num_gpus=job.gpus * job.processes or None,
            )
            return JobStanding(job.key, "PENDING")
        details = known[job.key]
        status = str(details.status.value)
        if job.is_ending and status not in ENDED:
            client.stop_job(job.key)
        self._bring_log(job, client, is_last=status in ENDED)
        standing = JobStanding(job.key, status, str(details.message or "")[:TEXT_CHARS_MAX])
        return self._bury(standing) if status in ENDED else standing

    def _bury(self, standing: JobStanding) -> JobStanding:
        self._ended[standing.key] = standing
        return standing

    def _bring_log(self, job: WantedJob, client: JobSubmissionClient, *, is_last: bool) -> None:
        now_s = time.monotonic()
        if not is_last and now_s - self._logged_s.get(job.key, -LOG_EVERY_S) < LOG_EVERY_S:
            return
        self._logged_s[job.key] = now_s
        text = client.get_job_logs(job.key).encode()[-LOG_BYTES_MAX:]
        write_durably(Path(job.folder) / LOG, text)


def main() -> None:
    """Work until nothing is wanted, or the hub is gone."""
    logging.disable(logging.WARNING)
    folder = Path(sys.argv[1])
    hub_pid = os.getppid()
    try:
        lock = FileLock(folder / LOCK, code="ray.running", holder="Another process")
    except UnavailableError:
        return  # It works already
    jobs = RayJobs(folder)
    written = b""
    idle_since_s = time.monotonic()
    while os.getppid() == hub_pid and time.monotonic() - idle_since_s < IDLE_S:
        wanted = _read(folder / WANTED)
        if wanted is not None and wanted.jobs:
            idle_since_s = time.monotonic()
            try:
                standing = msgspec.json.encode(jobs.step(wanted))
                if standing != written:
                    write_durably(folder / STANDING, standing)
                    written = standing
            except IsthmusError as error:
                sys.stderr.write(f"{error}\n")  # The disk: tried again
        time.sleep(LOOK_S)
    lock.release()


def _read(path: Path) -> Wanted | None:
    try:
        data = path.read_bytes()
        return msgspec.json.decode(data, type=Wanted) if len(data) <= FILE_BYTES_MAX else None
    except (OSError, msgspec.MsgspecError):
        return None


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:300]


if __name__ == "__main__":
    main()
