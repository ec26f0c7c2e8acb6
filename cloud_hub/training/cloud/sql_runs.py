"""Queries on runs: the queue, by leases; and the values that trials are judged by.

1. A run is taken by writing its holder and until when it is held into its row, in one transaction:
   PostgreSQL locks the row and lets others skip it, SQLite lets one writer in at a time.
2. Who holds a run changes it only while it is still the holder (`update_held`).
"""

from collections.abc import Sequence

import sqlalchemy as sa

from cloud_hub.sql_database import upsert
from cloud_hub.training.cloud.cloud_job import CloudJobId, CloudJobState
from cloud_hub.training.cloud.order import ExecutorName
from cloud_hub.training.cloud.record import RunRecord
from cloud_hub.training.cloud.sql_rows import run_row, to_run
from cloud_hub.training.cloud.sql_store import cloud_run_values as values
from cloud_hub.training.cloud.sql_store import cloud_runs as runs
from cloud_hub.training.cloud.views import RunValue
from shared.errors import RefusedError

RUNS_READ_MAX = 2000  # Of one Job: TRIALS_MAX and one more, in any case
VALUES_READ_MAX = 200_000
_IN_ORDER = (runs.c.created_ms, runs.c.job_id, runs.c.run_index)


def insert_runs(connection: sa.Connection, records: Sequence[RunRecord]) -> None:
    """Store new runs."""
    connection.execute(sa.insert(runs), [run_row(record) for record in records])


def read_run(
    connection: sa.Connection, job_id: str, index: int, *, locked: bool = False
) -> RunRecord:
    """Return one run. Raises RefusedError `run.unknown`."""
    query = sa.select(runs).where(runs.c.job_id == job_id, runs.c.run_index == index)
    row = connection.execute(query.with_for_update() if locked else query).one_or_none()
    if row is None:
        raise RefusedError(
            "run.unknown",
            f"Job {job_id[:63]} has no run {index}.",
            remedy="Look at the Job's runs.",
        )
    return to_run(row)


def read_runs(
    connection: sa.Connection, job_id: str, *, locked: bool = False
) -> tuple[RunRecord, ...]:
    """Return a Job's runs, in order of index."""
    query = sa.select(runs).where(runs.c.job_id == job_id).order_by(runs.c.run_index)
    query = query.limit(RUNS_READ_MAX)
    rows = connection.execute(query.with_for_update() if locked else query)
    return tuple(to_run(row) for row in rows)


def read_held(connection: sa.Connection, holder: str) -> tuple[RunRecord, ...]:
    """Return the runs that a hub holds, oldest first."""
    query = sa.select(runs).where(runs.c.holder == holder).order_by(*_IN_ORDER)
    return tuple(to_run(row) for row in connection.execute(query))


def has_claimable(connection: sa.Connection, *, place_id: str, now_ms: int) -> bool:
    """Return whether any run waits, or was left by its holder."""
    waits = sa.and_(runs.c.state == CloudJobState.QUEUED, runs.c.retry_ms <= now_ms)
    is_left = sa.and_(runs.c.state == CloudJobState.RUNNING, runs.c.lease_until_ms < now_ms)
    query = sa.select(runs.c.job_id).where(runs.c.place_id == place_id, sa.or_(waits, is_left))
    return connection.execute(query.limit(1)).first() is not None


def claim_queued(
    connection: sa.Connection,
    *,
    place_id: str,
    executor: ExecutorName,
    now_ms: int,
) -> RunRecord | None:
    """Return the run that is next, its row locked; None: there is none."""
    query = (
        sa.select(runs)
        .where(runs.c.state == CloudJobState.QUEUED, runs.c.retry_ms <= now_ms)
        .where(runs.c.place_id == place_id, runs.c.executor == executor)
        .order_by(*_IN_ORDER)
        .limit(1)
        .with_for_update(skip_locked=True)
    )
    row = connection.execute(query).one_or_none()
    return to_run(row) if row is not None else None


def claim_lapsed(
    connection: sa.Connection, *, place_id: str, now_ms: int, except_holder: str
) -> RunRecord | None:
    """Return a run that is RUNNING and whose holder has not been heard of, its row locked."""
    query = (
        sa.select(runs)
        .where(runs.c.state == CloudJobState.RUNNING, runs.c.lease_until_ms < now_ms)
        .where(runs.c.place_id == place_id)
        .where(sa.or_(runs.c.holder.is_(None), runs.c.holder != except_holder))
        .order_by(*_IN_ORDER)
        .limit(1)
        .with_for_update(skip_locked=True)
    )
    row = connection.execute(query).one_or_none()
    return to_run(row) if row is not None else None


def update_run(connection: sa.Connection, record: RunRecord) -> None:
    """Store a run whose row is locked by this transaction."""
    connection.execute(sa.update(runs).where(_same(record)).values(run_row(record)))


def update_held(connection: sa.Connection, record: RunRecord, *, holder: str) -> bool:
    """Store a run if `holder` still holds it; return whether it does."""
    own = sa.and_(_same(record), runs.c.holder == holder)
    return connection.execute(sa.update(runs).where(own).values(run_row(record))).rowcount == 1


def renew(connection: sa.Connection, *, holder: str, until_ms: int) -> None:
    """Hold for longer what a hub holds."""
    own = sa.and_(runs.c.holder == holder, runs.c.state == CloudJobState.RUNNING)
    connection.execute(sa.update(runs).where(own).values(lease_until_ms=until_ms))


def let_go(connection: sa.Connection, *, holder: str) -> None:
    """Give back what a hub holds: another may take it at once."""
    own = runs.c.holder == holder
    connection.execute(sa.update(runs).where(own).values(holder=None, lease_until_ms=0))


def put_values(
    connection: sa.Connection, job_id: CloudJobId, index: int, found: Sequence[RunValue]
) -> None:
    """Keep what evaluations said; a step that is known is said again by a resumed run."""
    rows = {
        value.step: {
            "job_id": job_id,
            "run_index": index,
            "step": value.step,
            "epoch": value.epoch,
            "value": value.value,
        }
        for value in found
    }
    key = ("job_id", "run_index", "step")
    upsert(connection, values, list(rows.values()), key=key, update=("epoch", "value"))


def read_values(connection: sa.Connection, job_id: str) -> dict[int, tuple[RunValue, ...]]:
    """Return what evaluations of a Job's runs said, by run, in order of step."""
    query = sa.select(values).where(values.c.job_id == job_id)
    query = query.order_by(values.c.run_index, values.c.step).limit(VALUES_READ_MAX)
    found: dict[int, list[RunValue]] = {}
    for row in connection.execute(query):
        value = RunValue(step=row.step, epoch=row.epoch, value=row.value)
        found.setdefault(row.run_index, []).append(value)
    return {index: tuple(of_run) for index, of_run in found.items()}


def _same(record: RunRecord) -> sa.ColumnElement[bool]:
    return sa.and_(runs.c.job_id == record.run.job_id, runs.c.run_index == record.run.index)


def count_by_state(connection: sa.Connection) -> dict[CloudJobState, int]:
    """Return how many runs are in each state."""
    query = sa.select(runs.c.state, sa.func.count().label("count")).group_by(runs.c.state)
    return {CloudJobState(row[0]): row[1] for row in connection.execute(query)}
