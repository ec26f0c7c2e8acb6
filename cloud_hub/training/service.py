"""TrainingService: federated Jobs, from the order to the checkpoint and the gate.

1. A Job is a row before it is anything else; its folder is whole before it is DISPATCHED; devices
   are told once the SuperLink says where it listens. Killed between any two of these, the next
   tick goes on from the row.
2. A Job belongs to the hub on whose disk its folder lies; any hub of the same database shows it,
   approves it and stops it.
3. One Job of a model runs at a time, and `jobs_max` of a hub; the others wait, APPROVED, in the
   order in which they were started.
"""

import importlib.util
import logging
import secrets
import threading
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import sqlalchemy as sa

from cloud_hub.candidates.checkpoint_service import CheckpointService
from cloud_hub.devices.service import DeviceService
from cloud_hub.releases.service import ReleaseService
from cloud_hub.sql_database import Database
from cloud_hub.training import sql_jobs, sql_progress
from cloud_hub.training.driver import JobDriver
from cloud_hub.training.file_job_folders import JobFolders
from cloud_hub.training.history import explain_job
from cloud_hub.training.job import Job, JobDevice, JobId, RoundSummary
from cloud_hub.training.job_folder import JobEvent
from cloud_hub.training.lifecycle import LIVE, Event, require_step
from cloud_hub.training.membership import Membership
from cloud_hub.training.order import JobOrder
from cloud_hub.training.planner import Planner
from cloud_hub.training.record import JobRecord, advance, hub_event
from cloud_hub.training.settings import LearningHubSettings
from cloud_hub.training.settler import ResultSettler
from cloud_hub.training.spread import AccuracySpread, spread_over
from cloud_hub.training.sql_changes import change_job, store_change
from cloud_hub.training.standing_rules import compose_orders
from cloud_hub.training.superlink import SuperLink
from shared.clock import Clock, now_ms
from shared.errors import IntegrityError, RefusedError, TransientError
from shared.ids import NAME_CHARS_MAX, DeviceId, LineageId, ModelName, new_lineage_id
from shared.plural import counted
from shared.wire.report import LearningReport
from shared.wire.target import LearningOrder

log = logging.getLogger(__name__)

OPERATOR = "operator"  # Who, when the caller does not say
EVENTS_SHOWN_MAX = 1000
JOBS_OPEN_MAX = 1000  # Not finished, in one database
NEEDED = ("flwr", "torch")  # Looked for, never imported here


class TrainingService:
    """See the rules above. Safe to share between threads; `tick` is for one."""

    def __init__(
        self,
        database: Database,
        devices: DeviceService,
        releases: ReleaseService,
        superlink: SuperLink,
        clock: Clock,
        *,
        learning: Path,
        checkpoints: CheckpointService | None = None,
        settings: LearningHubSettings | None = None,
    ) -> None:
        """Make the folder `learning` (`<state>/learning`) and begin.

        Args: checkpoints: by default those of `releases`.
        """
        self._database = database
        self._clock = clock
        self._settings = settings or LearningHubSettings()
        self._superlink = superlink
        kept = checkpoints or releases.checkpoints
        self._folders = JobFolders(learning)
        self._membership = Membership(database, devices)
        self._planner = Planner(database, devices, kept, self._folders)
        self._driver = JobDriver(
            database,
            self._folders,
            self._planner,
            self._membership,
            superlink,
            clock,
            self._settings,
        )
        self._settler = ResultSettler(
            database, self._folders, kept, releases, superlink, clock, self._settings
        )
        self._unknown: Counter[DeviceId] = Counter()
        self._lock = threading.Lock()  # Guards the counter above

    # What people ask

    def start(self, order: JobOrder, *, actor: str = OPERATOR) -> Job:
        """Return a new Job: APPROVED, or SUBMITTED where the order needs a person's approval.

        Raises RefusedError `learning.not_installed`, `checkpoint.unknown`, `job.no_checkpoint`,
        `job.checkpoint_model`, `job.no_devices`, `job.device_not_active`, `job.too_few_devices`,
        `job.too_many_devices`, `job.mandatory`, `job.too_many`; TransientError `database.…`.
        """
        self._require_installed()
        at_ms = now_ms(self._clock)
        planned = self._planner.plan(
            order,
            job_id=JobId("job-" + secrets.token_hex(5)),
            lineage_id=new_lineage_id(),
            actor=actor[:NAME_CHARS_MAX],
            now_ms=at_ms,
        )
        job = planned.record.job
        code = "job.submitted" if order.needs_approval else "job.approved"
        text = f"{actor} asked {counted(len(planned.devices), 'device')} to learn {order.model}."
        with self._database.begin() as connection:
            if sql_jobs.count_open(connection) >= JOBS_OPEN_MAX:
                raise RefusedError(
                    "job.too_many",
                    f"There are {JOBS_OPEN_MAX} Jobs that are not finished.",
                    remedy="Stop some, or wait.",
                )
            sql_jobs.insert_job(connection, planned.record, planned.devices)
            told = hub_event(code, text, now_ms=at_ms)
            store_change(
                connection,
                planned.record,
                [told],
                events_kept_max=self._settings.events_kept_max,
            )
        log.info(code, extra={"job": job.job_id, "model": job.model, "by": actor})
        try:
            # Here, because weights may be large and far away; a tick does what is left undone.
            self._planner.prepare(planned.record)
        except (TransientError, IntegrityError) as error:
            log.warning("job.not_prepared", extra={"job": job.job_id, "code": error.code})
        return job

    def approve(self, job_id: JobId, *, actor: str = OPERATOR) -> Job:
        """Let a SUBMITTED Job run. Raises RefusedError `job.unknown`, `job.cannot_approve`."""
        return self._act(
            job_id, Event.APPROVED, told="job.approved", code="", text=f"{actor} approved it."
        )

    def stop(self, job_id: JobId, *, actor: str = OPERATOR, reason: str = "") -> Job:
        """End a Job for good: FINISHED, outcome STOPPED; the weights of its last Round are kept.

        They become a checkpoint (`result_checkpoint_id`) as soon as its run has let go of them;
        they are not released. Raises RefusedError `job.unknown`, `job.cannot_stop`.
        """
        text = f"{actor} stopped it: {reason}" if reason else f"{actor} stopped it."
        return self._act(job_id, Event.STOPPED, told="job.finished", code="job.stopped", text=text)

    # What Jobs still need

    def require_checkpoint_free(self, checkpoint_id: str) -> None:
        """Raise RefusedError `checkpoint.needed` while a Job starts from it or made it.

        Jobs that go on, and those whose result is not settled yet, of every hub.
        """
        for job in self._unsettled():
            if checkpoint_id in (job.checkpoint_id, job.result_checkpoint_id):
                raise RefusedError(
                    "checkpoint.needed",
                    f"Job {job.job_id} needs {checkpoint_id} until its result is settled.",
                    remedy=f"Wait for it, or stop it: cloud-hub jobs stop {job.job_id}.",
                )

    def require_evaluation_set_free(self, model: ModelName, digest: str) -> None:
        """Raise RefusedError `evaluation.needed` where what Jobs learn is still to be judged by it.

        Args: digest: of the model's newest set: older ones judge nothing any more.
        """
        for job in self._unsettled():
            if job.model == model and job.order.is_released:
                raise RefusedError(
                    "evaluation.needed",
                    f"What Job {job.job_id} learns will be judged by {digest[:12]}.",
                    remedy="Add another set first, or wait until that is judged.",
                )

    def _unsettled(self) -> tuple[Job, ...]:
        with self._database.read() as connection:
            return tuple(r.job for r in sql_jobs.read_unsettled_anywhere(connection))

    # What people look at

    def get(self, job_id: JobId) -> Job:
        """Return one Job. Raises RefusedError `job.unknown`, as all that take a JobId."""
        with self._database.read() as connection:
            return sql_jobs.read_record(connection, job_id).job

    def jobs(self, model: ModelName | None = None, *, limit: int = 100) -> tuple[Job, ...]:
        """Return Jobs of one model or of all, newest first."""
        with self._database.read() as connection:
            return sql_jobs.read_jobs(connection, model=model, limit=limit)

    def events(
        self, job_id: JobId, *, after: int = 0, limit: int = EVENTS_SHOWN_MAX
    ) -> tuple[JobEvent, ...]:
        """Return a Job's events after number `after`, oldest first.

        Of the ServerApp (JOB_EVENTS) and of the hub itself (record.HUB_EVENTS), numbered together
        in the order in which the hub learned of them.
        """
        with self._database.read() as connection:
            sql_jobs.read_record(connection, job_id)
            return sql_progress.read_events(
                connection, job_id, after=after, limit=min(limit, EVENTS_SHOWN_MAX)
            )

    def rounds(self, job_id: JobId) -> tuple[RoundSummary, ...]:
        """Return a Job's Rounds, the first one first."""
        with self._database.read() as connection:
            sql_jobs.read_record(connection, job_id)
            return sql_progress.read_rounds(connection, job_id)

    def devices(self, job_id: JobId) -> tuple[JobDevice, ...]:
        """Return a Job's devices, in order of id."""
        with self._database.read() as connection:
            sql_jobs.read_record(connection, job_id)
            return sql_progress.read_devices(connection, job_id)

    def accuracy_spread(self, job_id: JobId) -> AccuracySpread:
        """Return how accuracy is spread over a Job's devices, before and after."""
        return spread_over(job_id, self.devices(job_id))

    def jobs_of(self, lineage_id: LineageId) -> tuple[Job, ...]:
        """Return the Jobs of a lineage, oldest first: where a release came from."""
        with self._database.read() as connection:
            return sql_jobs.read_lineage(connection, lineage_id)

    def explain(self, lineage_id: LineageId) -> tuple[str, ...]:
        """Return in sentences how a lineage's Jobs came about and ended; none where none."""
        return tuple(
            sentence
            for job in self.jobs_of(lineage_id)
            for sentence in explain_job(job, self.devices(job.job_id))
        )

    @property
    def is_installed(self) -> bool:
        """Whether this hub has what federated Jobs need (`isthmus[hub,train]`)."""
        return all(importlib.util.find_spec(name) is not None for name in NEEDED)

    @property
    def trouble(self) -> str:
        """Return what the SuperLink complains of; "" where nothing, or where it need not run."""
        standing = self._superlink.standing()
        if standing is not None:
            return standing.trouble
        with self._database.read() as connection:
            watched = sql_jobs.read_watched(connection, self._folders.hub_id)
        is_wanted = any(record.job.state in LIVE for record in watched)
        return "It does not answer; devices cannot learn now." if is_wanted else ""

    @property
    def unknown_reports_count(self) -> int:
        """Return how often devices reported on Jobs that do not ask them, since start."""
        with self._lock:
            return sum(self._unknown.values())

    # What the hub does

    def tick(self) -> None:
        """Do what time brings; call it every second or so. Never blocks for long.

        Raises TransientError `database.unavailable`, `disk.write_failed`.
        """
        self._driver.tick()

    def run_results(self, stop: threading.Event) -> None:
        """Bring finished Jobs' weights to the gate until `stop` is set: a Worker's body."""
        self._settler.run(stop)

    def settle(self) -> int:
        """Do what can be done now with results; return how many steps. Takes tens of seconds."""
        return self._settler.settle()

    def orders(self) -> Mapping[DeviceId, tuple[LearningOrder, ...]]:
        """Return what learning each device's Target is to ask for; devices with none are absent."""
        with self._database.read() as connection:
            told = sql_jobs.read_told(connection)
        return compose_orders(told, self._membership.members(told))

    def on_report(
        self,
        connection: sa.Connection,
        device_id: DeviceId,
        learning: tuple[LearningReport, ...],
    ) -> None:
        """Take what a device's newest Report says of Jobs, in the transaction that stores it."""
        for report in learning:
            if not sql_progress.put_report(connection, device_id, report):
                with self._lock:
                    self._unknown[device_id] += 1
                log.info("job.report_unknown", extra={"device": device_id, "job": report.job})

    def _require_installed(self) -> None:
        if not self.is_installed:
            raise RefusedError(
                "learning.not_installed",
                "This hub has not installed what federated Jobs need: flwr and torch.",
                remedy='pip install "isthmus[hub,train]", and restart the hub.',
            )

    def _act(self, job_id: JobId, event: Event, *, told: str, code: str, text: str) -> Job:
        at_ms = now_ms(self._clock)

        def change(found: JobRecord) -> tuple[JobRecord, tuple[JobEvent, ...]]:
            require_step(found.job.state, event, job_id=job_id)
            after = advance(found, event, code=code, text=text, now_ms=at_ms)
            return after, (hub_event(told, text, now_ms=at_ms),)

        after = change_job(
            self._database, job_id, change, events_kept_max=self._settings.events_kept_max
        )
        log.info(told, extra={"job": job_id, "text": text})
        return after.job
