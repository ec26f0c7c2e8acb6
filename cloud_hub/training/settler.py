"""ResultSettler: from a finished Job's weights to a checkpoint, and through the gate to a release.

1. It takes tens of seconds, so it has a thread of its own; one result at a time.
2. Each step is written into the Job's row before the next. Killed in between, the step is done
   again: the same weights of the same Job are the same checkpoint, and the same content the same
   release.
3. A gate that refuses is an answer, not a failure of the Job. What may work later is tried again,
   at the next look.
"""

import logging
import threading
from dataclasses import replace

from cloud_hub.candidates.checkpoint import Checkpoint
from cloud_hub.candidates.checkpoint_service import CheckpointService
from cloud_hub.releases.service import ReleaseService
from cloud_hub.sql_database import Database
from cloud_hub.training import sql_jobs, sql_progress
from cloud_hub.training.file_job_folders import JobFolders
from cloud_hub.training.gate_answer import ask_gate
from cloud_hub.training.job import Job, Outcome
from cloud_hub.training.job_folder import JobEvent
from cloud_hub.training.lifecycle import ResultEvent, ResultState
from cloud_hub.training.record import JobRecord, advance_result, hub_event
from cloud_hub.training.settings import LearningHubSettings
from cloud_hub.training.spread import spread_over
from cloud_hub.training.sql_changes import change_job
from cloud_hub.training.standing_rules import has_let_go
from cloud_hub.training.superlink import SuperLink
from shared.clock import Clock, now_ms
from shared.errors import (
    ContractError,
    IntegrityError,
    RefusedError,
    TransientError,
    UnavailableError,
)
from shared.model.weights import decode_weights, digest_weights

log = logging.getLogger(__name__)

LOOK_S = 0.5
RETRY_S = 15.0  # After something that may work later
NOTES_CHARS_MAX = 500
_EVENT_CODES = {
    ResultEvent.KEPT: "job.kept",
    ResultEvent.KEPT_FOR_RELEASE: "job.kept",
    ResultEvent.RELEASED: "job.released",
    ResultEvent.REFUSED: "gate.refused",
    ResultEvent.UNUSABLE: "job.result_unusable",
}
_HOPELESS = (ContractError, IntegrityError, RefusedError, UnavailableError)


class ResultSettler:
    """See the rules above. One thread at a time."""

    def __init__(
        self,
        database: Database,
        folders: JobFolders,
        checkpoints: CheckpointService,
        releases: ReleaseService,
        superlink: SuperLink,
        clock: Clock,
        settings: LearningHubSettings,
    ) -> None:
        self._database = database
        self._folders = folders
        self._checkpoints = checkpoints
        self._releases = releases
        self._superlink = superlink
        self._clock = clock
        self._settings = settings

    def run(self, stop: threading.Event) -> None:
        """Settle results until `stop` is set."""
        while not stop.is_set():
            wait_s = LOOK_S
            try:
                self.settle()
            except TransientError as error:
                log.warning("result.delayed", extra={"code": error.code, "text": error.message})
                wait_s = RETRY_S
            self._clock.wait(stop, wait_s)

    def settle(self) -> int:
        """Do what can be done now; return how many steps that were. Raises TransientError."""
        steps_count = 0
        with self._database.read() as connection:
            waiting = sql_jobs.read_unsettled(connection, self._folders.hub_id)
        for record in waiting:
            after: JobRecord | None = record
            while after is not None and after.result_state is not ResultState.SETTLED:
                after = self._step(after)
                steps_count += after is not None
        return steps_count

    def _step(self, record: JobRecord) -> JobRecord | None:
        """Do the next step of one result; return what it made, None if it must wait."""
        try:
            if record.result_state is ResultState.KEEPING:
                is_held = self._folders.is_held(record.job.job_id)
                if is_held or not has_let_go(record, self._superlink.standing()):
                    return None
                return self._keep(record)
            return self._release(record)
        except _HOPELESS as error:
            log.warning(
                "result.unusable",
                extra={"job": record.job.job_id, "code": error.code, "text": error.message},
            )
            text = f"Nothing can be made of its weights: {error.message}"
            return self._change(record, ResultEvent.UNUSABLE, code=error.code, text=text)

    def _keep(self, record: JobRecord) -> JobRecord:
        job = record.job
        progress = self._folders.read_progress(job.job_id)
        if progress is None or progress.rounds_done == 0:
            text = "No Round was closed: there are no new weights."
            return self._change(record, ResultEvent.NOTHING, code="", text=text)
        data = self._folders.read_weights(job.job_id, rounds_done=progress.rounds_done)
        if digest_weights(decode_weights(data)) != progress.weights_digest:
            log.warning("result.not_of_progress", extra={"job": job.job_id})
        base = self._checkpoints.get(job.checkpoint_id)
        kept = self._checkpoints.add_trained(
            base, data, origin=job.job_id, lineage_id=job.lineage_id
        )
        is_released = job.outcome is Outcome.COMPLETED and job.order.is_released
        text = f"Its weights after {progress.rounds_done} Rounds are {kept.checkpoint_id}."
        if not is_released:
            text += " Another Job can start from that, or it can be released."
        return self._change(
            record,
            ResultEvent.KEPT_FOR_RELEASE if is_released else ResultEvent.KEPT,
            code="",
            text=text,
            checkpoint=kept,
        )

    def _release(self, record: JobRecord) -> JobRecord:
        job = record.job
        assert job.result_checkpoint_id is not None, "KEEPING comes before RELEASING"
        checkpoint = self._checkpoints.get(job.result_checkpoint_id)
        answer = ask_gate(
            self._releases,
            checkpoint,
            notes=_notes(job),
            metrics=self._metrics(job),
            lineage_id=job.lineage_id,
        )
        told = replace(
            job, candidate_id=answer.candidate_id, release_version=answer.release_version
        )
        return self._change(
            replace(record, job=told), answer.event, code=answer.code, text=answer.text
        )

    def _change(
        self,
        record: JobRecord,
        event: ResultEvent,
        *,
        code: str,
        text: str,
        checkpoint: Checkpoint | None = None,
    ) -> JobRecord:
        at_ms = now_ms(self._clock)
        told = _EVENT_CODES.get(event)
        events = [hub_event(told, text, now_ms=at_ms)] if told else []
        result_id = checkpoint.checkpoint_id if checkpoint else record.job.result_checkpoint_id

        def change(found: JobRecord) -> tuple[JobRecord, list[JobEvent]]:
            job = replace(
                found.job,
                result_checkpoint_id=result_id,
                candidate_id=record.job.candidate_id,
                release_version=record.job.release_version,
            )
            after = advance_result(
                replace(found, job=job), event, code=code, text=text, now_ms=at_ms
            )
            return after, events

        after = change_job(
            self._database,
            record.job.job_id,
            change,
            events_kept_max=self._settings.events_kept_max,
        )
        log.info(f"result.{event}", extra={"job": after.job.job_id, "text": text})
        return after

    def _metrics(self, job: Job) -> dict[str, float]:
        """Return what people want to see of a release that was learnt together."""
        with self._database.read() as connection:
            devices = sql_progress.read_devices(connection, job.job_id)
        spread = spread_over(job.job_id, devices)
        metrics = {
            "federated_rounds": float(job.rounds_done),
            "federated_devices": float(sum(d.rounds_answered > 0 for d in devices)),
        }
        if spread.before is not None:
            metrics["device_accuracy_before_mean"] = spread.before.mean
        if spread.after is not None:
            metrics["device_accuracy_after_mean"] = spread.after.mean
            metrics["device_accuracy_after_min"] = spread.after.minimum
        return metrics


def _notes(job: Job) -> str:
    asked = f"Learnt by Job {job.job_id} from {job.checkpoint_id}, {job.rounds_done} Rounds."
    return f"{asked} {job.order.notes}".strip()[:NOTES_CHARS_MAX]
