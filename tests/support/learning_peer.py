"""LearningPeer: plays the SuperLink's process and its ServerApps, as files on the disk show them.

It reads wanted.json and writes standing.json; a ServerApp's part is written through JobFiles, as
the real one does. Nothing of the hub's service is called.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
import numpy as np

from cloud_hub.training.file_job import JobFiles
from cloud_hub.training.file_job_folders import JOBS, SUPERLINK
from cloud_hub.training.job_folder import (
    STANDING,
    WANTED,
    JobEvent,
    JobResult,
    NodeStanding,
    Progress,
    RunStanding,
    Standing,
    Wanted,
)
from shared.durable_file import write_durably
from shared.file_lock import FileLock
from shared.model.weights import digest_weights
from tests.support.manual_clock import ManualClock

PORT = 39092


class LearningPeer:
    """One SuperLink over `<state>/learning`."""

    def __init__(self, learning: Path, clock: ManualClock, *, port: int = PORT) -> None:
        self.learning, self.clock, self.port = learning, clock, port
        self.runs: dict[str, RunStanding] = {}
        self.trouble = ""
        self.is_up = True
        self._locks: dict[str, FileLock] = {}

    @property
    def wanted(self) -> Wanted:
        """What the hub wants."""
        path = self.learning / SUPERLINK / WANTED
        return msgspec.json.decode(path.read_bytes(), type=Wanted)

    def files(self, job: str) -> JobFiles:
        """A Job's folder."""
        return JobFiles(self.learning / JOBS / job)

    def step(self) -> None:
        """Carry out what is wanted, and say so."""
        if not self.is_up or not (self.learning / SUPERLINK / WANTED).exists():
            return
        wanted = self.wanted
        for run in wanted.runs:
            known = self.runs.get(run.job)
            if known is None or known.attempt < run.attempt:
                self.runs[run.job] = RunStanding(
                    job=run.job, attempt=run.attempt, run_id=run.attempt, status="running"
                )
        for job in [job for job in self.runs if job not in {run.job for run in wanted.runs}]:
            self.end_run(job, sub_status="stopped")
        self.say()

    def say(self) -> None:
        """Write standing.json now."""
        wanted = self.wanted
        standing = Standing(
            at_ms=int(self.clock.now_s() * 1000),
            pid=1,
            wanted_revision=wanted.revision,
            device_port=self.port,
            nodes=tuple(
                NodeStanding(device=node.device, node_id=index, status="online")
                for index, node in enumerate(wanted.nodes, start=1)
            ),
            runs=tuple(self.runs.values()),
            trouble=self.trouble,
        )
        path = self.learning / SUPERLINK / STANDING
        write_durably(path, msgspec.json.encode(standing))

    def end_run(self, job: str, *, sub_status: str = "failed", details: str = "") -> None:
        """Let a run end, whatever it has done."""
        self.release(job)
        self.runs[job] = msgspec.structs.replace(
            self.runs[job], status="finished", sub_status=sub_status, details=details
        )

    def hold(self, job: str) -> None:
        """Be a ServerApp that works in a Job's folder."""
        self._locks[job] = self.files(job).lock()

    def release(self, job: str) -> None:
        """Be it no more."""
        lock = self._locks.pop(job, None)
        if lock is not None:
            lock.release()

    def tell(
        self,
        job: str,
        code: str,
        *,
        round: int = 0,  # noqa: A002  (as in JobEvent)
        device: str | None = None,
        text: str = "",
        numbers: Mapping[str, float] | None = None,
    ) -> None:
        """Append one event."""
        self.files(job).append_event(
            JobEvent(
                number=1,
                at_ms=int(self.clock.now_s() * 1000),
                code=code,
                round=round,
                device=device,
                text=text,
                numbers=dict(numbers or {}),
            )
        )

    def close_round(
        self, job: str, number: int, accuracies: Mapping[str, float], *, silent: Sequence[str] = ()
    ) -> str:
        """Play one whole Round; return the digest of its weights.

        Args: accuracies: device -> accuracy of the weights as they came.
        """
        asked = len(accuracies) + len(silent)
        self.tell(job, "round.started", round=number, numbers={"devices_asked": asked})
        for device, accuracy in accuracies.items():
            numbers = {
                "samples_count": 40.0,
                "payload_bytes": 1000.0,
                "loss": 1.0 / number,
                "accuracy_before": accuracy,
            }
            self.tell(job, "update.accepted", round=number, device=device, numbers=numbers)
        for device in silent:
            self.tell(job, "device.silent", round=number, device=device, numbers={"wait_s": 9.0})
        files = self.files(job)
        files.make_rounds_folder()
        weights = {
            name: array + np.float32(number) if array.dtype.kind == "f" else array
            for name, array in files.read_initial().items()
        }
        digest = digest_weights(weights)
        files.write_checkpoint(Progress(rounds_done=number, weights_digest=digest), weights, {})
        numbers = {"devices_counted": float(len(accuracies)), "devices_asked": float(asked)}
        self.tell(job, "round.closed", round=number, numbers=numbers | {"bytes_down": 500.0})
        return digest

    def finish(self, job: str, *, is_completed: bool = True, code: str = "job.completed") -> None:
        """Write the result, and end the run."""
        files = self.files(job)
        progress = files.read_progress()
        done = progress.rounds_done if progress is not None else 0
        self.tell(job, "job.ended", numbers={"rounds_done": float(done)})
        files.write_result(
            JobResult(
                job=job,
                is_completed=is_completed,
                code=code,
                text="All Rounds were closed." if is_completed else "It could not go on.",
                rounds_done=done,
                weights_digest=progress.weights_digest if progress else None,
            )
        )
        self.end_run(job, sub_status="completed")
