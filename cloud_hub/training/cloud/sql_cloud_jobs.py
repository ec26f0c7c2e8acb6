"""Queries on cloud Jobs. Who changes one holds its row; see read_job's `locked`."""

from collections.abc import Sequence

import sqlalchemy as sa

from cloud_hub.training.cloud.cloud_job import CloudJobId, CloudJobState
from cloud_hub.training.cloud.record import JobRecord
from cloud_hub.training.cloud.sql_rows import job_row, to_job
from cloud_hub.training.cloud.sql_store import cloud_jobs as jobs
from cloud_hub.training.lifecycle import ResultState
from shared.errors import RefusedError
from shared.ids import LineageId, ModelName

JOBS_SHOWN_MAX = 1000
LINEAGE_SHOWN_MAX = 100
_FINISHED = CloudJobState.FINISHED


def insert_job(connection: sa.Connection, record: JobRecord) -> None:
    """Store a new Job."""
    values = job_row(record) | {"holder": None, "lease_until_ms": 0}
    connection.execute(sa.insert(jobs).values(values))


def update_job(connection: sa.Connection, record: JobRecord) -> None:
    """Store a Job's changes."""
    same = jobs.c.job_id == record.job.job_id
    connection.execute(sa.update(jobs).where(same).values(job_row(record)))


def read_job(connection: sa.Connection, job_id: str, *, locked: bool = False) -> JobRecord:
    """Return one Job; `locked` makes everybody else wait who wants to change it.

    Raises RefusedError `job.unknown`.
    """
    query = sa.select(jobs).where(jobs.c.job_id == job_id)
    if locked:
        # Not against who stores a row that names this one, and holds what we wait for.
        query = query.with_for_update(key_share=True)
    row = connection.execute(query).one_or_none()
    if row is None:
        raise RefusedError(
            "job.unknown", f"There is no Job {job_id[:63]}.", remedy="List the Jobs for their ids."
        )
    return to_job(row)


def read_jobs(
    connection: sa.Connection,
    *,
    model: ModelName | None = None,
    owner: str | None = None,
    limit: int = JOBS_SHOWN_MAX,
) -> tuple[JobRecord, ...]:
    """Return the newest Jobs first."""
    query = sa.select(jobs).order_by(jobs.c.created_ms.desc(), jobs.c.job_id.desc())
    if model is not None:
        query = query.where(jobs.c.model == model)
    if owner is not None:
        query = query.where(jobs.c.owner == owner)
    return _all(connection, query.limit(min(limit, JOBS_SHOWN_MAX)))


def read_lineage(connection: sa.Connection, lineage_id: LineageId) -> tuple[JobRecord, ...]:
    """Return the Jobs of a lineage, oldest first."""
    query = sa.select(jobs).where(jobs.c.lineage_id == lineage_id)
    query = query.order_by(jobs.c.created_ms, jobs.c.job_id)
    return _all(connection, query.limit(LINEAGE_SHOWN_MAX))


def read_open(connection: sa.Connection, place_id: str) -> tuple[JobRecord, ...]:
    """Return a disk's Jobs that are not finished, oldest first."""
    query = sa.select(jobs).where(jobs.c.place_id == place_id, jobs.c.state != _FINISHED)
    return _all(connection, query.order_by(jobs.c.created_ms, jobs.c.job_id))


def read_unsettled_anywhere(connection: sa.Connection) -> tuple[JobRecord, ...]:
    """Return the Jobs of every hub of which something is still to come, oldest first."""
    query = sa.select(jobs).where(jobs.c.result_state != ResultState.SETTLED)
    return _all(connection, query.order_by(jobs.c.created_ms, jobs.c.job_id))


def count_open(connection: sa.Connection) -> int:
    """Return how many Jobs are not finished."""
    query = sa.select(sa.func.count()).select_from(jobs).where(jobs.c.state != _FINISHED)
    return connection.execute(query).scalar_one()


def has_unsettled(connection: sa.Connection, place_id: str, *, now_ms: int) -> bool:
    """Return whether there is a result that nobody settles."""
    query = sa.select(jobs.c.job_id).where(_is_unsettled(place_id, now_ms)).limit(1)
    return connection.execute(query).first() is not None


def claim_result(
    connection: sa.Connection, *, place_id: str, holder: str, now_ms: int, until_ms: int
) -> JobRecord | None:
    """Return a finished Job whose result nobody settles, now held by `holder`; None: none left."""
    query = (
        sa.select(jobs)
        .where(_is_unsettled(place_id, now_ms))
        .order_by(jobs.c.finished_ms, jobs.c.job_id)
        .limit(1)
        .with_for_update(skip_locked=True)
    )
    row = connection.execute(query).one_or_none()
    if row is None:
        return None
    held = {"holder": holder, "lease_until_ms": until_ms}
    connection.execute(sa.update(jobs).where(jobs.c.job_id == row.job_id).values(held))
    return to_job(row)


def renew_result(connection: sa.Connection, job_id: str, *, holder: str, until_ms: int) -> bool:
    """Hold a result for longer; return whether it was still held."""
    own = sa.and_(jobs.c.job_id == job_id, jobs.c.holder == holder)
    done = connection.execute(sa.update(jobs).where(own).values(lease_until_ms=until_ms))
    return done.rowcount == 1


def let_result_go(connection: sa.Connection, job_id: str, *, holder: str, until_ms: int) -> None:
    """Give a result back; nobody takes it before `until_ms`."""
    own = sa.and_(jobs.c.job_id == job_id, jobs.c.holder == holder)
    name = None if not until_ms else holder
    values = {"holder": name, "lease_until_ms": until_ms}
    connection.execute(sa.update(jobs).where(own).values(values))


def read_cleanable(connection: sa.Connection, place_id: str, *, kept: int) -> tuple[JobRecord, ...]:
    """Return a disk's settled Jobs whose folders are still there, but the newest `kept`."""
    query = (
        sa.select(jobs)
        .where(jobs.c.place_id == place_id, jobs.c.is_cleaned.is_(False))
        .where(jobs.c.result_state == ResultState.SETTLED)
        .order_by(jobs.c.finished_ms.desc(), jobs.c.job_id.desc())
        .offset(kept)
    )
    return _all(connection, query)


def known_jobs(connection: sa.Connection, job_ids: Sequence[str]) -> frozenset[CloudJobId]:
    """Return those of these ids that are Jobs."""
    query = sa.select(jobs.c.job_id).where(jobs.c.job_id.in_(list(job_ids)))
    return frozenset(CloudJobId(row.job_id) for row in connection.execute(query))


def _is_unsettled(place_id: str, now_ms: int) -> sa.ColumnElement[bool]:
    return sa.and_(
        jobs.c.place_id == place_id,
        jobs.c.result_state.in_((ResultState.KEEPING, ResultState.RELEASING)),
        sa.or_(jobs.c.holder.is_(None), jobs.c.lease_until_ms < now_ms),
    )


def _all(connection: sa.Connection, query: sa.Select[tuple[object, ...]]) -> tuple[JobRecord, ...]:
    return tuple(to_job(row) for row in connection.execute(query))
