"""Queries on Jobs. Who changes one holds its row; see read_record's `locked`."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import fields

import msgspec
import sqlalchemy as sa

from cloud_hub.candidates.candidate import CandidateId
from cloud_hub.candidates.checkpoint import CheckpointId
from cloud_hub.sql_database import upsert
from cloud_hub.training.job import Job, JobId, JobState, Outcome
from cloud_hub.training.lifecycle import LIVE, ResultState
from cloud_hub.training.order import JobOrder
from cloud_hub.training.record import JobRecord
from cloud_hub.training.sql_store import job_devices, job_models, jobs
from shared.errors import RefusedError
from shared.ids import DeviceId, LineageId, ModelName

JOBS_SHOWN_MAX = 1000
LINEAGE_SHOWN_MAX = 100
_ORDERS = msgspec.json.Decoder(JobOrder)
_HUBS_OWN = tuple(field.name for field in fields(JobRecord) if field.name != "job")


def insert_job(connection: sa.Connection, record: JobRecord, devices: Sequence[DeviceId]) -> None:
    """Store a new Job with its devices."""
    connection.execute(sa.insert(jobs).values(_to_row(record)))
    blank = {
        "code": "", "text": "", "node_status": "", "rounds_answered": 0, "last_round": 0,
        "updates_refused": 0, "bytes_up": 0, "accuracy_after_round": 0,
    }  # fmt: skip
    rows = [{"job_id": record.job.job_id, "device_id": device_id, **blank} for device_id in devices]
    connection.execute(sa.insert(job_devices), rows)


def update_job(connection: sa.Connection, record: JobRecord) -> None:
    """Store a Job's changes."""
    connection.execute(
        sa.update(jobs).where(jobs.c.job_id == record.job.job_id).values(_to_row(record))
    )


def read_record(connection: sa.Connection, job_id: JobId, *, locked: bool = False) -> JobRecord:
    """Return one Job; `locked` makes everybody else wait who wants to change it.

    Raises RefusedError `job.unknown`.
    """
    query = sa.select(jobs).where(jobs.c.job_id == job_id)
    if locked:
        query = query.with_for_update()
    row = connection.execute(query).one_or_none()
    if row is None:
        raise RefusedError(
            "job.unknown", f"There is no Job {job_id[:63]}.", remedy="List the Jobs for their ids."
        )
    return _to_record(row)


def read_jobs(connection: sa.Connection, *, model: ModelName | None, limit: int) -> tuple[Job, ...]:
    """Return the newest Jobs first."""
    query = sa.select(jobs).order_by(jobs.c.created_ms.desc(), jobs.c.job_id.desc())
    if model is not None:
        query = query.where(jobs.c.model == model)
    rows = connection.execute(query.limit(min(limit, JOBS_SHOWN_MAX)))
    return tuple(_to_record(row).job for row in rows)


def read_lineage(connection: sa.Connection, lineage_id: LineageId) -> tuple[Job, ...]:
    """Return the Jobs of a lineage, oldest first."""
    query = sa.select(jobs).where(jobs.c.lineage_id == lineage_id)
    rows = connection.execute(
        query.order_by(jobs.c.created_ms, jobs.c.job_id).limit(LINEAGE_SHOWN_MAX)
    )
    return tuple(_to_record(row).job for row in rows)


def read_watched(connection: sa.Connection, hub_id: str) -> tuple[JobRecord, ...]:
    """Return a hub's Jobs about which something is still to be done, oldest first."""
    query = (
        sa.select(jobs)
        .where(jobs.c.hub_id == hub_id, jobs.c.is_cleaned.is_(False))
        .where(jobs.c.state != JobState.SUBMITTED)
        .order_by(jobs.c.created_ms, jobs.c.job_id)
    )
    return tuple(_to_record(row) for row in connection.execute(query))


def read_unsettled(connection: sa.Connection, hub_id: str) -> tuple[JobRecord, ...]:
    """Return a hub's finished Jobs with whose result something is to be done, oldest first."""
    states = (ResultState.KEEPING, ResultState.RELEASING)
    query = (
        sa.select(jobs)
        .where(jobs.c.hub_id == hub_id, jobs.c.result_state.in_(states))
        .order_by(jobs.c.changed_ms, jobs.c.job_id)
    )
    return tuple(_to_record(row) for row in connection.execute(query))


def read_unsettled_anywhere(connection: sa.Connection) -> tuple[JobRecord, ...]:
    """Return the Jobs, of every hub, that go on or whose result is not settled; oldest first."""
    states = (ResultState.KEEPING, ResultState.RELEASING)
    goes_on = (jobs.c.state != JobState.FINISHED) | jobs.c.result_state.in_(states)
    query = sa.select(jobs).where(goes_on).order_by(jobs.c.created_ms, jobs.c.job_id)
    return tuple(_to_record(row) for row in connection.execute(query))


def read_told(connection: sa.Connection) -> tuple[JobRecord, ...]:
    """Return the live Jobs, of every hub, of which devices are to be told; oldest first."""
    query = (
        sa.select(jobs)
        .where(jobs.c.state.in_(LIVE), jobs.c.fleet_port.is_not(None))
        .order_by(jobs.c.created_ms, jobs.c.job_id)
    )
    return tuple(_to_record(row) for row in connection.execute(query))


def count_open(connection: sa.Connection) -> int:
    """Return how many Jobs are not finished."""
    query = sa.select(sa.func.count()).select_from(jobs)
    return connection.execute(query.where(jobs.c.state != JobState.FINISHED)).scalar_one()


def lock_model(connection: sa.Connection, model: ModelName, *, now_ms: int) -> None:
    """Let nobody else dispatch a Job of `model` until this transaction ends."""
    row = {"model": model, "dispatched_ms": now_ms}
    upsert(connection, job_models, row, key=["model"], update=["dispatched_ms"])


def has_room(connection: sa.Connection, model: ModelName, *, hub_id: str, jobs_max: int) -> bool:
    """Return whether a Job of `model` may be dispatched.

    There is room if the hub has fewer live Jobs than `jobs_max`, and no hub has one of this model.
    """
    live = connection.execute(
        sa.select(jobs.c.model, jobs.c.hub_id).where(jobs.c.state.in_(LIVE))
    ).all()
    own_count = sum(other.hub_id == hub_id for other in live)
    return own_count < jobs_max and all(other.model != model for other in live)


def read_plan_devices(
    connection: sa.Connection, job_ids: Collection[JobId]
) -> Mapping[JobId, tuple[DeviceId, ...]]:
    """Return the devices that each Job was planned with, in order of id."""
    found: dict[JobId, list[DeviceId]] = {job_id: [] for job_id in job_ids}
    query = (
        sa.select(job_devices.c.job_id, job_devices.c.device_id)
        .where(job_devices.c.job_id.in_(list(job_ids)))
        .order_by(job_devices.c.device_id)
    )
    for row in connection.execute(query):
        found[JobId(row.job_id)].append(DeviceId(row.device_id))
    return {job_id: tuple(devices) for job_id, devices in found.items()}


def _to_row(record: JobRecord) -> dict[str, object]:
    job = record.job
    values: dict[str, object] = {
        field.name: getattr(job, field.name) for field in fields(Job) if field.name != "order"
    }
    values["order_json"] = msgspec.json.encode(job.order, order="deterministic").decode()
    return values | {name: getattr(record, name) for name in _HUBS_OWN}


def _to_record(row: sa.Row[tuple[object, ...]]) -> JobRecord:
    result = row.result_checkpoint_id
    candidate = row.candidate_id
    job = Job(
        job_id=JobId(row.job_id),
        model=ModelName(row.model),
        order=_ORDERS.decode(row.order_json),
        state=JobState(row.state),
        outcome=Outcome(row.outcome) if row.outcome is not None else None,
        code=row.code,
        text=row.text,
        lineage_id=LineageId(row.lineage_id),
        checkpoint_id=CheckpointId(row.checkpoint_id),
        result_checkpoint_id=CheckpointId(result) if result is not None else None,
        candidate_id=CandidateId(candidate) if candidate is not None else None,
        release_version=row.release_version,
        rounds_done=row.rounds_done,
        attempt=row.attempt,
        created_ms=row.created_ms,
        changed_ms=row.changed_ms,
        created_by=row.created_by,
    )
    own = {name: getattr(row, name) for name in _HUBS_OWN if name != "result_state"}
    return JobRecord(job=job, result_state=ResultState(row.result_state), **own)
