"""JobFolders: the hub's side of `<state>/learning/`: its name, and one folder for each Job.

1. `hub_id` names the hub whose disk this is; a Job's row carries it.
2. A folder is prepared before its Job is dispatched, and may be prepared again.
3. Events are read from where the last look ended; a process that has just started reads from the
   beginning, and the caller says which are known.
4. When a Job is over, everything large goes at once; plan, events and result stay for people to
   look at, of the newest FOLDERS_KEPT_MAX.
"""

import secrets
import shutil
from pathlib import Path

import msgspec

from cloud_hub.training.file_job import LOCK, JobFiles
from cloud_hub.training.job import JobId
from cloud_hub.training.job_folder import (
    CHECKPOINT,
    EVENTS,
    INITIAL,
    PLAN,
    STANDING,
    JobEvent,
    JobPlan,
    JobResult,
    Progress,
)
from shared.durable_file import create_durably, make_folder, make_private_folder, write_failed
from shared.errors import ContractError
from shared.file_lock import is_locked

JOBS = "jobs"
SUPERLINK = "superlink"
HUB_ID = "hub_id"
FOLDERS_KEPT_MAX = 100
EVENTS_READ_BYTES_MAX = 4 << 20  # In one look
HUB_ID_CHARS_MAX = 63


class JobFolders:
    """See the rules above. Not safe to share between threads, but for what it says."""

    def __init__(self, learning: Path) -> None:
        """Make the folder `learning` and its name, unless they are there."""
        make_private_folder(learning)
        make_folder(learning / JOBS)
        self.learning = learning
        self.hub_id = _read_hub_id(learning / HUB_ID)
        self._ends: dict[JobId, int] = {}  # Bytes of events.jsonl that were read

    @property
    def standing_path(self) -> Path:
        """Return where the SuperLink says what it has."""
        return self.learning / SUPERLINK / STANDING

    def folder(self, job_id: JobId) -> Path:
        """Return a Job's folder. From any thread."""
        return self.learning / JOBS / job_id

    def is_prepared(self, job_id: JobId) -> bool:
        """Whether a Job's folder is whole. From any thread."""
        return (self.folder(job_id) / PLAN).exists()  # Written last

    def prepare(self, plan: JobPlan, initial: bytes) -> None:
        """Write what the ServerApp needs. From any thread; raises TransientError."""
        JobFiles(self.folder(JobId(plan.job))).create(plan, initial)

    def ask_end(self, job_id: JobId) -> None:
        """Ask a Job's ServerApp to end, if there is such a folder. Raises TransientError."""
        files = JobFiles(self.folder(job_id))
        if files.folder.is_dir() and not files.is_stop_asked():
            files.ask_stop()

    def read_result(self, job_id: JobId) -> JobResult | None:
        """Return how a Job's ServerApp ended; None while it has not. Raises ContractError."""
        return JobFiles(self.folder(job_id)).read_result()

    def read_progress(self, job_id: JobId) -> Progress | None:
        """Return what the checkpoint holds; None: no Round was closed. From any thread.

        Raises ContractError `job.file_invalid`.
        """
        return JobFiles(self.folder(job_id)).read_progress()

    def read_weights(self, job_id: JobId, *, rounds_done: int) -> bytes:
        """Return the weights that `read_progress` is about. From any thread.

        checkpoint.npz is one Round newer where a kill came before its checkpoint.json.
        Raises ContractError `job.file_invalid`.
        """
        files = JobFiles(self.folder(job_id))
        path = files.weights_path(rounds_done)
        if not path.exists():
            path = files.folder / CHECKPOINT
        try:
            return path.read_bytes()
        except OSError as error:
            text = f"Cannot read {path}: {error.strerror}."
            raise ContractError("job.file_invalid", text) from error

    def read_events(self, job_id: JobId, *, after: int) -> tuple[JobEvent, ...]:
        """Return whole events numbered above `after` that came since the last look.

        Call `forget_look` if they could not be stored. At most EVENTS_READ_BYTES_MAX at a time.
        """
        start = self._ends.get(job_id, 0)
        try:
            with (self.folder(job_id) / EVENTS).open("rb") as file:
                file.seek(start)
                data = file.read(EVENTS_READ_BYTES_MAX)
        except FileNotFoundError:
            return ()
        except OSError as error:
            raise ContractError("job.file_invalid", f"Cannot read events: {error}.") from error
        whole = data[: data.rfind(b"\n") + 1]
        self._ends[job_id] = start + len(whole)
        events = (_decode(line) for line in whole.splitlines())
        return tuple(event for event in events if event is not None and event.number > after)

    def forget_look(self, job_id: JobId) -> None:
        """Read a Job's events from the beginning at the next look."""
        self._ends.pop(job_id, None)

    def is_held(self, job_id: JobId) -> bool:
        """Whether a ServerApp works in a Job's folder now. From any thread."""
        return is_locked(self.folder(job_id) / LOCK)

    def clean(self, job_id: JobId) -> None:
        """Remove everything large of a Job that is over. Raises TransientError."""
        files = JobFiles(self.folder(job_id))
        try:
            if files.rounds.exists():
                shutil.rmtree(files.rounds)
            for name in (INITIAL, CHECKPOINT):
                (files.folder / name).unlink(missing_ok=True)
        except OSError as error:
            raise write_failed(files.folder, error) from error
        self._ends.pop(job_id, None)
        self._drop_old()

    def _drop_old(self) -> None:
        """Remove the oldest folders of Jobs that are over: those without first weights."""
        over = [
            folder
            for folder in (self.learning / JOBS).iterdir()
            if folder.is_dir() and (folder / PLAN).exists() and not (folder / INITIAL).exists()
        ]
        over.sort(key=lambda folder: (folder / PLAN).stat().st_mtime_ns)
        for folder in over[: max(0, len(over) - FOLDERS_KEPT_MAX)]:
            shutil.rmtree(folder, ignore_errors=True)


def _read_hub_id(path: Path) -> str:
    create_durably(path, f"hub-{secrets.token_hex(8)}\n".encode())
    try:
        return path.read_text().strip()[:HUB_ID_CHARS_MAX]
    except OSError as error:
        raise write_failed(path, error) from error


def _decode(line: bytes) -> JobEvent | None:
    try:
        return msgspec.json.decode(line, type=JobEvent)
    except (msgspec.MsgspecError, ValueError):
        return None
