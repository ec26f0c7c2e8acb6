"""Queries on usage: what runs took, by month, kept longer than Jobs are."""

from datetime import UTC, datetime

import sqlalchemy as sa

from cloud_hub.training.cloud.cloud_job import CloudJob, Run
from cloud_hub.training.cloud.sql_store import cloud_usage as usage
from cloud_hub.training.cloud.views import UsageRow

USAGE_ROWS_MAX = 10_000


def month_of(at_ms: int) -> str:
    """Return the month of an instant, UTC: "2026-11"."""
    return datetime.fromtimestamp(at_ms / 1000, tz=UTC).strftime("%Y-%m")


def add_usage(
    connection: sa.Connection, job: CloudJob, run: Run, *, device_seconds: float, now_ms: int
) -> None:
    """Count what a run took since it was counted last, in the month of now.

    The run's row is held by this transaction, so that nobody else counts the same.
    """
    key = {"job_id": job.job_id, "run_index": run.index, "month": month_of(now_ms)}
    same = sa.and_(*(usage.c[name] == value for name, value in key.items()))
    known = connection.execute(sa.select(usage).where(same)).one_or_none()
    numbers = {
        "device_seconds": device_seconds + (known.device_seconds if known else 0.0),
        "memory_bytes_max": max(run.progress.memory_bytes, known.memory_bytes_max if known else 0),
        "items_per_s": run.progress.items_per_s or (known.items_per_s if known else 0.0),
    }
    if known is not None:
        connection.execute(sa.update(usage).where(same).values(numbers))
        return
    who = {"model": job.model, "owner": job.owner}
    connection.execute(sa.insert(usage).values(key | who | numbers))


def read_usage(
    connection: sa.Connection,
    *,
    model: str | None = None,
    owner: str | None = None,
    month: str | None = None,
) -> tuple[UsageRow, ...]:
    """Return what was used, by month (newest first), model and owner."""
    query = sa.select(
        usage.c.month,
        usage.c.model,
        usage.c.owner,
        sa.func.sum(usage.c.device_seconds).label("device_seconds"),
        sa.func.max(usage.c.memory_bytes_max).label("memory_bytes_max"),
        sa.func.max(usage.c.items_per_s).label("items_per_s_max"),
        sa.func.count().label("runs_count"),
        sa.func.count(sa.distinct(usage.c.job_id)).label("jobs_count"),
    )
    for column, wanted in ((usage.c.model, model), (usage.c.owner, owner), (usage.c.month, month)):
        if wanted is not None:
            query = query.where(column == wanted)
    query = query.group_by(usage.c.month, usage.c.model, usage.c.owner)
    query = query.order_by(usage.c.month.desc(), usage.c.model, usage.c.owner)
    rows = connection.execute(query.limit(USAGE_ROWS_MAX))
    return tuple(UsageRow(**row) for row in rows.mappings())
