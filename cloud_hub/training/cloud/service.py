"""CloudJobService: training in the cloud, from the order to the checkpoint and the gate.

1. What runs start from is on the disk before a Job is a row; a Job is a row before anything trains.
   Killed between any two of these, the next tick goes on from the rows and the folders.
2. The queue is the database: a hub holds a run by a lease that it renews. The runs of a hub that is
   gone are taken over by any hub that sees the same folder.
3. What people ask and look at may be called from any thread; `tick` and `run_results` have one
   each.
"""

import logging
import secrets
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import msgspec

from cloud_hub.candidates.checkpoint_service import CheckpointService
from cloud_hub.datasets.service import DatasetService
from cloud_hub.explain.explain_files import ANSWERS
from cloud_hub.explain.report import Report, decode_report
from cloud_hub.object_store import ObjectStore
from cloud_hub.releases.service import ReleaseService
from cloud_hub.sql_database import Database
from cloud_hub.training.cloud import needs, sql_cloud_jobs, sql_runs, sql_usage
from cloud_hub.training.cloud.cloud_job import (
    TEXT_CHARS_MAX,
    CloudJob,
    CloudJobId,
    CloudJobState,
    Run,
    RunKey,
    run_key,
)
from cloud_hub.training.cloud.curves import compare_jobs, make_curve, make_trials, number_events
from cloud_hub.training.cloud.driver import JobDriver
from cloud_hub.training.cloud.file_runs import RAY, TAIL_BYTES_MAX, RunFolders
from cloud_hub.training.cloud.lifecycle import require_stoppable
from cloud_hub.training.cloud.order import CloudOrder, ExecutorName
from cloud_hub.training.cloud.planner import Planner
from cloud_hub.training.cloud.run_commands import TRAINER
from cloud_hub.training.cloud.run_keeper import RunKeeper
from cloud_hub.training.cloud.run_plan import first_runs
from cloud_hub.training.cloud.settings import CloudTrainingSettings
from cloud_hub.training.cloud.settler import CloudSettler, stored_path
from cloud_hub.training.cloud.views import (
    Comparison,
    Curve,
    NumberedEvent,
    QueueStatus,
    Trial,
    UsageRow,
)
from cloud_hub.training.executors.executor import Executor
from cloud_hub.training.executors.process_local import LocalExecutor
from cloud_hub.training.executors.process_ray import RayExecutor
from cloud_hub.training.trainer.run_files import EVENTS, LOG, REPORT, RESULT, RunResult
from shared.clock import Clock, now_ms
from shared.errors import IsthmusError, RefusedError
from shared.ids import LineageId, ModelName

log = logging.getLogger(__name__)

OPERATOR = "operator"  # Who, when the caller does not say
EVENTS_SHOWN_MAX = 10_000
EVENTS_READ_MAX = 1_000_000  # Of one run, for its curve
ORPHAN_S = 3600.0  # Folders that no Job knows by then: a hub died while one was submitted


class CloudJobService:
    """See the rules above."""

    def __init__(
        self,
        database: Database,
        datasets: DatasetService,
        releases: ReleaseService,
        objects: ObjectStore,
        clock: Clock,
        *,
        folder: Path,
        settings: CloudTrainingSettings | None = None,
        checkpoints: CheckpointService | None = None,
        trainer: Sequence[str] = TRAINER,
    ) -> None:
        """Make the folder (`<state>/training`) and begin; nothing runs before the first tick.

        Args:
            database: with the tables of sql_store.py.
            datasets: where data comes from.
            releases: where results go.
            objects: where reports and events are kept, under `jobs/`.
            clock: of this hub.
            folder: of this hub, or of several that share a disk.
            settings: limits.
            checkpoints: by default those of `releases`.
            trainer: what Python is given to train: a module or a script.
        """
        self._database = database
        self._objects = objects
        self._clock = clock
        self._settings = settings or CloudTrainingSettings()
        self._folders = RunFolders(folder)
        kept = checkpoints or releases.checkpoints
        holder = f"hub-{secrets.token_hex(6)}"
        self._planner = Planner(datasets, kept, self._folders, self._settings)
        self._executors = self._make_executors(holder)
        self._keeper = RunKeeper(
            database,
            self._folders,
            self._planner,
            self._executors,
            clock,
            self._settings,
            holder=holder,
            trainer=trainer,
        )
        self._driver = JobDriver(database, self._folders, clock, self._settings)
        self._settler = CloudSettler(
            database,
            self._folders,
            objects,
            kept,
            releases,
            clock,
            holder=holder,
            retry_s=self._settings.retry_s,
        )

    # What people ask

    def submit(self, order: CloudOrder, *, by: str = OPERATOR) -> CloudJob:
        """Return a new Job, QUEUED; what it starts from is on the disk.

        Takes seconds where the network is new. Raises ContractError `order.…` naming the field,
        `dataset.…`, `network.unfit`; RefusedError `dataset.unknown`, `checkpoint.unknown`,
        `training.not_installed`, `training.no_ray`, `job.too_many`; TransientError.
        """
        at_ms = now_ms(self._clock)
        record = self._planner.plan(order, by=by, now_ms=at_ms)
        job_id = record.job.job_id
        runs = first_runs(record, now_ms=at_ms)
        try:
            self._planner.prepare_job(record)
            for run in runs:
                self._planner.prepare_run(record, run.run)
            with self._database.begin() as connection:
                if sql_cloud_jobs.count_open(connection) >= self._settings.jobs_open_max:
                    raise RefusedError(
                        "job.too_many",
                        f"There are {self._settings.jobs_open_max} Jobs that are not finished.",
                        remedy="Stop some, or wait.",
                    )
                sql_cloud_jobs.insert_job(connection, record)
                if runs:
                    sql_runs.insert_runs(connection, runs)
        except IsthmusError:
            self._forget(job_id, [run.run.key for run in runs])
            raise
        extra = {"job": job_id, "model": record.job.model, "runs": len(runs), "by": by}
        log.info("job.queued", extra=extra)
        return record.job

    def stop(self, job_id: str, *, by: str = OPERATOR, reason: str = "") -> CloudJob:
        """Have a Job end: its runs are asked to, and what there was until then is kept.

        A second call changes nothing. Raises RefusedError `job.unknown`, `job.cannot_stop`.
        """
        text = f"{by} stopped it: {reason}" if reason else f"{by} stopped it."
        with self._database.begin() as connection:
            record = sql_cloud_jobs.read_job(connection, job_id, locked=True)
            require_stoppable(record.job.state, job_id=job_id)
            if record.job.is_stopping:
                return record.job
            job = replace(
                record.job,
                is_stopping=True,
                code="job.stopping",
                text=text[:TEXT_CHARS_MAX],
                changed_ms=now_ms(self._clock),
            )
            sql_cloud_jobs.update_job(connection, replace(record, job=job))
        log.info("job.stopping", extra={"job": job_id, "by": by})
        return job

    # What people look at

    def get(self, job_id: str) -> CloudJob:
        """Return one Job. Raises RefusedError `job.unknown`, as all that take a Job's id."""
        with self._database.read() as connection:
            return sql_cloud_jobs.read_job(connection, job_id).job

    def list(
        self, *, model: ModelName | None = None, owner: str | None = None, limit: int = 100
    ) -> tuple[CloudJob, ...]:
        """Return Jobs, newest first."""
        with self._database.read() as connection:
            found = sql_cloud_jobs.read_jobs(connection, model=model, owner=owner, limit=limit)
        return tuple(record.job for record in found)

    def jobs_of(self, lineage_id: LineageId) -> tuple[CloudJob, ...]:
        """Return the Jobs of a lineage, oldest first: where a release came from."""
        with self._database.read() as connection:
            found = sql_cloud_jobs.read_lineage(connection, lineage_id)
        return tuple(record.job for record in found)

    def runs(self, job_id: str) -> tuple[Run, ...]:
        """Return a Job's runs, in the order in which they were made."""
        with self._database.read() as connection:
            sql_cloud_jobs.read_job(connection, job_id)
            return tuple(found.run for found in sql_runs.read_runs(connection, job_id))

    def events(
        self, job_id: str, run: int = 0, *, after: int = 0, limit: int = 1000
    ) -> tuple[NumberedEvent, ...]:
        """Return a run's events after line `after`, oldest first."""
        key = self._key(job_id, run)
        data = self._file(key, run, EVENTS) or b""
        return number_events(data, after=max(0, after), limit=min(limit, EVENTS_SHOWN_MAX))

    def curve(self, job_id: str, run: int = 0) -> Curve:
        """Return how a run went, ready to be drawn. Raises RefusedError `run.unknown`."""
        key = self._key(job_id, run)
        data = self._file(key, run, EVENTS) or b""
        events = number_events(data, after=0, limit=EVENTS_READ_MAX)
        return make_curve(CloudJobId(job_id), run, events)

    def trials(self, job_id: str) -> tuple[Trial, ...]:
        """Return a search's trials; none where the Job is no search."""
        runs = self.runs(job_id)
        with self._database.read() as connection:
            return make_trials(runs, sql_runs.read_values(connection, job_id))

    def log(self, job_id: str, run: int = 0, *, tail: int = 64 << 10) -> str:
        """Return the last `tail` bytes of what a run's processes printed."""
        key = self._key(job_id, run)
        words = self._folders.read_tail(key, min(tail, TAIL_BYTES_MAX))
        if words or self._folders.run(key).is_dir():
            return words
        kept = self._objects.get(stored_path(CloudJobId(job_id), run, LOG)) or b""
        return kept[-tail:].decode(errors="replace")

    def result(self, job_id: str, run: int | None = None) -> RunResult | None:
        """Return what came of a run, by default of the one that made the Job's result."""
        data = self._result_file(job_id, run, RESULT)
        try:
            return msgspec.json.decode(data, type=RunResult) if data is not None else None
        except msgspec.MsgspecError:
            return None

    def report(self, job_id: str, run: int | None = None) -> Report | None:
        """Return how good what a run made is, by default the Job's result; None: nobody looked."""
        data = self._result_file(job_id, run, REPORT)
        try:
            return decode_report(data) if data is not None else None
        except msgspec.MsgspecError:
            return None

    def answers(self, job_id: str, run: int | None = None) -> bytes | None:
        """Return what a run's model said of each item (explain/answers.py), or None."""
        return self._result_file(job_id, run, ANSWERS)

    def plot(self, job_id: str, name: str, run: int | None = None) -> bytes | None:
        """Return one of a report's pictures, PNG, or None where there is none of that name."""
        report = self.report(job_id, run)
        if report is None:
            return None
        named = {plot.file for plot in report.plots}
        named |= {file for item in report.worst for file in item.saliency}
        if name not in named or "/" in name or name.startswith("."):
            return None
        return self._result_file(job_id, run, name)

    def compare(self, a: str, b: str) -> Comparison:
        """Return two Jobs beside each other: numbers, classes, and how their orders differ."""
        return compare_jobs(
            self.get(a),
            self.get(b),
            results=(self.result(a), self.result(b)),
            reports=(self.report(a), self.report(b)),
        )

    def usage(
        self, *, model: str | None = None, owner: str | None = None, month: str | None = None
    ) -> tuple[UsageRow, ...]:
        """Return what training took, by month ("2026-11"), model and owner; the newest first."""
        with self._database.read() as connection:
            return sql_usage.read_usage(connection, model=model, owner=owner, month=month)

    def status(self) -> QueueStatus:
        """Return how full the queue is; for metrics."""
        with self._database.read() as connection:
            by_state = sql_runs.count_by_state(connection)
        return QueueStatus(
            runs_queued=by_state.get(CloudJobState.QUEUED, 0),
            runs_running=by_state.get(CloudJobState.RUNNING, 0),
            slots=self._settings.slots,
            trouble=" ".join(filter(None, (one.trouble for one in self._executors.values()))),
        )

    # What must stay as long as a Job needs it

    def require_dataset_free(self, dataset: str, version: int | None) -> None:
        """Raise RefusedError `dataset.needed` while a Job trains, or will, on it; None: any."""
        needs.require_dataset_free(self._unsettled(), dataset, version)

    def require_checkpoint_free(self, checkpoint_id: str) -> None:
        """Raise RefusedError `checkpoint.needed` while a Job starts from it or made it.

        Jobs that go on, and those whose result is not settled yet, of every hub.
        """
        needs.require_checkpoint_free(self._unsettled(), checkpoint_id)

    def require_evaluation_set_free(self, model: str, digest: str) -> None:
        """Raise RefusedError `evaluation.needed` while what a Job learns is to be judged by it."""
        needs.require_evaluation_set_free(self._unsettled(), model, digest)

    # What the hub does

    def tick(self) -> None:
        """Do what time brings; call it every second or so. Raises TransientError."""
        self._keeper.tick()
        self._driver.tick()

    def run_results(self, stop: threading.Event) -> None:
        """Bring results to the object store and the gate until `stop` is set: a Worker's body."""
        self._settler.run(stop)

    def settle(self) -> int:
        """Do what can be done now with results; return how many steps. Takes tens of seconds."""
        return self._settler.settle()

    def sweep(self) -> int:
        """Remove folders that nobody needs any more; return how many. Raises TransientError."""
        count = 0
        place_id = self._folders.place_id
        with self._database.read() as connection:
            old = sql_cloud_jobs.read_cleanable(
                connection, place_id, kept=self._settings.folders_kept
            )
        for record in old:
            self._forget(record.job.job_id, [run.key for run in self.runs(record.job.job_id)])
            with self._database.begin() as connection:
                found = sql_cloud_jobs.read_job(connection, record.job.job_id, locked=True)
                sql_cloud_jobs.update_job(connection, replace(found, is_cleaned=True))
            count += 1
        return (
            count
            + self._sweep_orphans()
            + self._folders.limit_cache(self._settings.cache_bytes_max)
        )

    def close(self) -> None:
        """Give back what is held. What trains goes on, and the next hub finds it."""
        self._keeper.close()

    def _unsettled(self) -> tuple[CloudJob, ...]:
        with self._database.read() as connection:
            found = sql_cloud_jobs.read_unsettled_anywhere(connection)
        return tuple(record.job for record in found)

    def _sweep_orphans(self) -> int:
        """Remove folders of Jobs that never became a row."""
        before_s = self._clock.now_s() - ORPHAN_S
        stale = {key: key.rpartition("-")[0] for key in self._folders.stale_runs(before_s=before_s)}
        jobs = set(self._folders.stale_jobs(before_s=before_s)) | set(stale.values())
        if not jobs:
            return 0
        with self._database.read() as connection:
            known = sql_cloud_jobs.known_jobs(connection, sorted(jobs))
        unknown = jobs - known
        for job_id in unknown:
            self._forget(job_id, [key for key, of in stale.items() if of == job_id])
        return len(unknown)

    def _forget(self, job_id: str, keys: Sequence[RunKey]) -> None:
        for key in keys:
            self._folders.remove_run(key)
        self._folders.remove_job(job_id)

    def _key(self, job_id: str, run: int) -> RunKey:
        """Return a run's name. Raises RefusedError `job.unknown`, `run.unknown`."""
        with self._database.read() as connection:
            sql_cloud_jobs.read_job(connection, job_id)
            return sql_runs.read_run(connection, job_id, run).run.key

    def _result_file(self, job_id: str, run: int | None, name: str) -> bytes | None:
        if run is None:
            run = self.get(job_id).result_run
            if run is None:
                return None
        return self._file(self._key(job_id, run), run, name)

    def _file(self, key: RunKey, run: int, name: str) -> bytes | None:
        """Return a run's file: from its folder, or, when that is gone, as it was stored."""
        data = self._folders.read_file(key, name)
        if data is not None:
            return data
        job_id = CloudJobId(key.rpartition("-")[0])
        assert run_key(job_id, run) == key
        return self._objects.get(stored_path(job_id, run, name))

    def _make_executors(self, holder: str) -> dict[ExecutorName, Executor]:
        settings = self._settings
        executors: dict[ExecutorName, Executor] = {
            ExecutorName.LOCAL: LocalExecutor(
                self._folders.runs,
                self._clock,
                niceness=settings.niceness,
                term_s_max=settings.term_s_max,
            )
        }
        if settings.ray_address:
            executors[ExecutorName.RAY] = RayExecutor(
                self._folders.training / RAY,
                name=holder,
                address=settings.ray_address,
                gpus=settings.ray_gpus,
            )
        return executors
