"""Planner: from an order to a Job's row, and from its row to its folder.

What the folder holds follows from the row and its checkpoint alone, so that it can be made again.
"""

from dataclasses import dataclass

from cloud_hub.candidates.checkpoint_service import CheckpointService
from cloud_hub.devices.service import DeviceService
from cloud_hub.sql_database import Database
from cloud_hub.training import sql_jobs
from cloud_hub.training.file_job_folders import JobFolders
from cloud_hub.training.job import Job, JobId, JobState
from cloud_hub.training.job_folder import JobPlan
from cloud_hub.training.order import JobOrder
from cloud_hub.training.order_rules import check_checkpoint, check_devices
from cloud_hub.training.record import JobRecord
from shared.errors import IntegrityError
from shared.ids import DeviceId, LineageId, ModelName
from shared.model.weights import decode_weights, digest_weights


@dataclass(frozen=True, slots=True)
class Planned:
    """A Job that may be, and who takes part."""

    record: JobRecord
    devices: tuple[DeviceId, ...]


class Planner:
    """See above. Safe to share between threads."""

    def __init__(
        self,
        database: Database,
        devices: DeviceService,
        checkpoints: CheckpointService,
        folders: JobFolders,
    ) -> None:
        self._database = database
        self._devices = devices
        self._checkpoints = checkpoints
        self._folders = folders

    def plan(
        self, order: JobOrder, *, job_id: JobId, lineage_id: LineageId, actor: str, now_ms: int
    ) -> Planned:
        """Return the Job of an order, not stored. Raises RefusedError naming the field."""
        found = (
            self._checkpoints.newest(order.model)
            if order.checkpoint is None
            else self._checkpoints.get(order.checkpoint)
        )
        checkpoint = check_checkpoint(order, found)
        active = self._devices.select()
        named = tuple(DeviceId(device_id) for device_id in sorted(set(order.devices)))
        chosen = named or (self._devices.select(order.group) if order.group else active)
        check_devices(order, chosen, frozenset(active))
        job = Job(
            job_id=job_id,
            model=ModelName(order.model),
            order=order,
            state=JobState.SUBMITTED if order.needs_approval else JobState.APPROVED,
            outcome=None,
            code="",
            text="",
            lineage_id=lineage_id,
            checkpoint_id=checkpoint.checkpoint_id,
            result_checkpoint_id=None,
            candidate_id=None,
            release_version=None,
            rounds_done=0,
            attempt=0,
            created_ms=now_ms,
            changed_ms=now_ms,
            created_by=actor,
        )
        return Planned(JobRecord(job=job, hub_id=self._folders.hub_id), chosen)

    def prepare(self, record: JobRecord) -> int:
        """Make a Job's folder whole, unless it is; return how many devices it was planned with.

        Raises RefusedError `checkpoint.unknown`; IntegrityError `checkpoint.damaged`;
        TransientError.
        """
        job = record.job
        with self._database.read() as connection:
            devices = sql_jobs.read_plan_devices(connection, [job.job_id])[job.job_id]
        if self._folders.is_prepared(job.job_id):
            return len(devices)
        checkpoint = self._checkpoints.get(job.checkpoint_id)
        initial = self._checkpoints.weights(job.checkpoint_id)
        if digest_weights(decode_weights(initial)) != checkpoint.weights_digest:
            raise IntegrityError(
                "checkpoint.damaged",
                f"The weights of {job.checkpoint_id} are not those that were stored.",
                remedy="Put the object store back from a backup, or start from another.",
            )
        plan = JobPlan(
            job=job.job_id,
            order=job.order,
            spec=checkpoint.spec,
            network=checkpoint.network,
            devices=devices,
            standing_path=str(self._folders.standing_path),
        )
        self._folders.prepare(plan, initial)
        return len(devices)
