"""CloudSettler: from a finished Job's folder to the object store, a checkpoint and the gate.

1. Files first: what people look at later (weights of the result, reports, pictures, events) goes to
   `jobs/<Job>/run-<index>/` in the object store before anything else; the folder may go after that.
2. Each step is written into the Job's row before the next. Killed in between, the step is done
   again: the same weights of the same Job are the same checkpoint, and the same content the same
   release.
3. One hub at a time settles a result, by a lease. It takes tens of seconds, so it has a thread
   of its own.
4. Of a run that broke off, the newest state is what is kept; where there is none, nothing is.
5. A gate that refuses is an answer, not a failure of the Job. What may work later is tried again,
   and the Job says what it waits for.
"""

import logging
import math
import threading
from dataclasses import replace

import msgspec

from cloud_hub.candidates.checkpoint import Checkpoint
from cloud_hub.candidates.checkpoint_service import CheckpointService
from cloud_hub.explain.explain_files import ANSWERS
from cloud_hub.object_store import ObjectStore
from cloud_hub.releases.service import ReleaseService
from cloud_hub.sql_database import Database
from cloud_hub.training.cloud import sql_cloud_jobs, sql_runs
from cloud_hub.training.cloud.cloud_job import CloudJobId, Run, run_key
from cloud_hub.training.cloud.file_runs import RunFolders
from cloud_hub.training.cloud.order_settings import with_params
from cloud_hub.training.cloud.process_salvage import salvage
from cloud_hub.training.cloud.record import JobRecord, advance_result, delay_result
from cloud_hub.training.gate_answer import GateAnswer, ask_gate
from cloud_hub.training.job import Outcome
from cloud_hub.training.lifecycle import ResultEvent, ResultState
from cloud_hub.training.trainer.run_files import BEST, EVENTS, LOG, REPORT, RESULT, RunResult
from shared.clock import Clock, now_ms
from shared.errors import (
    ContractError,
    IntegrityError,
    RefusedError,
    TransientError,
    UnavailableError,
)

log = logging.getLogger(__name__)

LOOK_S = 1.0
LEASE_S = 900.0  # Longer than the gate takes; renewed before each step
NOTES_CHARS_MAX = 500
METRICS_MAX = 20  # Of the test part, that go with a release
LOG_KEPT_BYTES = 64 << 10
FOLDER = "jobs"  # In the object store
_HOPELESS = (ContractError, IntegrityError, RefusedError, UnavailableError)


def stored_path(job_id: CloudJobId, index: int, name: str) -> str:
    """Return where a run's file lies in the object store."""
    return f"{FOLDER}/{job_id}/run-{index}/{name}"


class CloudSettler:
    """See the rules above. One thread at a time."""

    def __init__(
        self,
        database: Database,
        folders: RunFolders,
        objects: ObjectStore,
        checkpoints: CheckpointService,
        releases: ReleaseService,
        clock: Clock,
        *,
        holder: str,
        retry_s: float,
    ) -> None:
        self._database = database
        self._folders = folders
        self._objects = objects
        self._checkpoints = checkpoints
        self._releases = releases
        self._clock = clock
        self._holder = holder
        self._retry_s = retry_s

    def run(self, stop: threading.Event) -> None:
        """Settle results until `stop` is set."""
        while not stop.is_set():
            try:
                self.settle()
            except TransientError as error:
                log.warning("result.delayed", extra={"code": error.code, "text": error.message})
            self._clock.wait(stop, LOOK_S)

    def settle(self) -> int:
        """Do what can be done now; return how many steps that were. Raises TransientError."""
        steps_count = 0
        while (record := self._claim()) is not None:
            until_ms = 0  # Nobody need wait for it
            try:
                while record.job.result_state is not ResultState.SETTLED:
                    self._renew(record)
                    record = self._step(record)
                    steps_count += 1
            except TransientError as error:
                extra = {"job": record.job.job_id, "code": error.code, "text": error.message}
                log.warning("result.delayed", extra=extra)
                until_ms = now_ms(self._clock) + int(self._retry_s * 1000)
                self._tell_delay(record, error)
            finally:
                self._let_go(record, until_ms=until_ms)
        return steps_count

    def _claim(self) -> JobRecord | None:
        now = now_ms(self._clock)
        with self._database.read() as connection:
            if not sql_cloud_jobs.has_unsettled(connection, self._folders.place_id, now_ms=now):
                return None
        with self._database.begin() as connection:
            return sql_cloud_jobs.claim_result(
                connection,
                place_id=self._folders.place_id,
                holder=self._holder,
                now_ms=now,
                until_ms=now + int(LEASE_S * 1000),
            )

    def _renew(self, record: JobRecord) -> None:
        """Hold a result for longer. Raises TransientError `result.taken`."""
        until_ms = now_ms(self._clock) + int(LEASE_S * 1000)
        with self._database.begin() as connection:
            is_held = sql_cloud_jobs.renew_result(
                connection, record.job.job_id, holder=self._holder, until_ms=until_ms
            )
        if not is_held:
            raise TransientError("result.taken", "Another hub settles this result.")

    def _let_go(self, record: JobRecord, *, until_ms: int) -> None:
        with self._database.begin() as connection:
            sql_cloud_jobs.let_result_go(
                connection, record.job.job_id, holder=self._holder, until_ms=until_ms
            )

    def _tell_delay(self, record: JobRecord, error: TransientError) -> None:
        """Have the Job say what its result waits for, where it is not the database itself."""
        if error.code.startswith(("database.", "result.")):
            return
        with self._database.begin() as connection:
            found = sql_cloud_jobs.read_job(connection, record.job.job_id, locked=True)
            after = delay_result(found, f"{error}", now_ms=now_ms(self._clock))
            if after != found:
                sql_cloud_jobs.update_job(connection, after)

    def _step(self, record: JobRecord) -> JobRecord:
        try:
            if record.job.result_state is ResultState.KEEPING:
                return self._keep(record)
            return self._release(record)
        except _HOPELESS as error:
            extra = {"job": record.job.job_id, "code": error.code, "text": error.message}
            log.warning("result.unusable", extra=extra)
            text = f"Nothing can be made of its weights: {error.message} {error.remedy}".strip()
            return self._change(record, ResultEvent.UNUSABLE, code=error.code, text=text)

    def _keep(self, record: JobRecord) -> JobRecord:
        job = record.job
        with self._database.read() as connection:
            runs = [found.run for found in sql_runs.read_runs(connection, job.job_id)]
        trouble = self._salvage(record, runs)
        for run in runs:
            is_result = run.index == job.result_run and job.order.is_trained
            self._store(run, has_weights=is_result)
        if job.result_run is None or not job.order.is_trained:
            return self._change(record, ResultEvent.NOTHING, code="", text="")
        run = runs[job.result_run]
        result = self._folders.read_result(run.key)
        data = self._folders.read_best(run.key)
        if job.outcome is not Outcome.COMPLETED and (result is None or data is None):
            text = f"No weights are left of it{f': {trouble}' if trouble else ''}."
            return self._change(record, ResultEvent.NOTHING, code="", text=text)
        if result is None or data is None:
            raise IntegrityError(
                "run.result_missing",
                f"The folder of run {run.key} has no result any more.",
                remedy="Order the Job again.",
            )
        _, network = with_params(job.order, record.network, run.params)
        kept = self._checkpoints.add_state(
            record.spec, network, data, origin=job.job_id, lineage_id=job.lineage_id
        )
        if kept.weights_digest != result.weights_digest:
            raise IntegrityError(
                "run.weights_damaged",
                f"The weights of run {run.key} are not those that its result names.",
                remedy="Look at the disk, and order the Job again.",
            )
        is_released = job.outcome is Outcome.COMPLETED and job.order.is_released
        text = f"Its weights are {kept.checkpoint_id}."
        if not is_released:
            text += " Another Job can start from that, or it can be released."
        if job.outcome is not Outcome.COMPLETED:
            text += (
                f" Go on with: cloud-hub train --model {job.model} --dataset {job.dataset}:"
                f"{job.dataset_version} --checkpoint {kept.checkpoint_id}"
            )
        return self._change(
            record,
            ResultEvent.KEPT_FOR_RELEASE if is_released else ResultEvent.KEPT,
            code="",
            text=text,
            checkpoint=kept,
            value=result.value if job.outcome is not Outcome.COMPLETED else job.value,
        )

    def _salvage(self, record: JobRecord, runs: list[Run]) -> str:
        """See to a result of a run that broke off, by rule 4; return what kept it from being."""
        job = record.job
        if job.outcome is Outcome.COMPLETED or job.result_run is None:
            return ""
        key = runs[job.result_run].key
        try:
            if self._folders.read_result(key) is not None:
                return ""
        except ContractError as strange:
            return strange.message
        return salvage(self._folders.run(key))

    def _store(self, run: Run, *, has_weights: bool) -> None:
        """Bring a run's files to the object store; those that are there are put again."""
        names = [EVENTS, RESULT, REPORT, ANSWERS, *self._folders.plots(run.key)]
        names += [BEST] if has_weights else []
        for name in names:
            data = self._folders.read_file(run.key, name)
            if data is not None:
                self._objects.put(stored_path(run.job_id, run.index, name), data)
        words = self._folders.read_tail(run.key, LOG_KEPT_BYTES)
        if words:
            self._objects.put(stored_path(run.job_id, run.index, LOG), words.encode())

    def _release(self, record: JobRecord) -> JobRecord:
        job = record.job
        assert job.result_checkpoint_id is not None, "KEEPING comes before RELEASING"
        answer = ask_gate(
            self._releases,
            self._checkpoints.get(job.result_checkpoint_id),
            notes=_notes(record),
            metrics=self._metrics(record),
            lineage_id=job.lineage_id,
        )
        return self._change(record, answer.event, code=answer.code, text=answer.text, answer=answer)

    def _change(
        self,
        record: JobRecord,
        event: ResultEvent,
        *,
        code: str,
        text: str,
        checkpoint: Checkpoint | None = None,
        value: float | None = None,
        answer: GateAnswer | None = None,
    ) -> JobRecord:
        now = now_ms(self._clock)
        with self._database.begin() as connection:
            found = sql_cloud_jobs.read_job(connection, record.job.job_id, locked=True)
            if found.job.result_state is not record.job.result_state:
                raise TransientError("result.taken", "Another hub settles this result.")
            after = advance_result(found, event, code=code, text=text, now_ms=now)
            job = after.job
            if checkpoint is not None:
                job = replace(job, result_checkpoint_id=checkpoint.checkpoint_id, value=value)
            if answer is not None:
                job = replace(
                    job, candidate_id=answer.candidate_id, release_version=answer.release_version
                )
            after = replace(after, job=job)
            sql_cloud_jobs.update_job(connection, after)
        log.info(f"result.{event}", extra={"job": record.job.job_id, "text": text})
        return after

    def _metrics(self, record: JobRecord) -> dict[str, float]:
        """Return what people want to see of a release that was trained here."""
        job = record.job
        metrics = {"value": job.value} if job.value is not None else {}
        assert job.result_run is not None, "there is a checkpoint"
        data = self._folders.read_file(run_key(job.job_id, job.result_run), RESULT)
        data = data or self._objects.get(stored_path(job.job_id, job.result_run, RESULT))
        if data is not None:
            result = msgspec.json.decode(data, type=RunResult)
            said = {n: v for n, v in result.test_metrics.items() if math.isfinite(v)}
            metrics |= {f"test_{name}": said[name] for name in sorted(said)[:METRICS_MAX]}
        return metrics


def _notes(record: JobRecord) -> str:
    job = record.job
    origin = job.base_checkpoint_id or "fresh weights"
    if job.order.ensemble:
        origin = f"{len(job.order.ensemble)} checkpoints, joined"
    data = f"{job.dataset}:{job.dataset_version}"
    told = f"Trained by Job {job.job_id} from {origin} on {data}. {job.order.notes}"
    return told.strip()[:NOTES_CHARS_MAX]
