"""Deleting what is too old or too much, in steps that hold the write lock for a moment only.

What must not live here: how old is too old; that is the service's.
"""

import sqlalchemy as sa

from cloud_hub.telemetry.sql_store import TABLES, streams
from shared.wire.records import Body

PRUNE_ROWS_PER_STEP = 10_000


def delete_oldest(
    connection: sa.Connection, kind: type[Body], *, received_before_ms: int, rows_max: int
) -> int:
    """Delete at most PRUNE_ROWS_PER_STEP rows that are too old or too many; return how many.

    By id alone (rule 1): ids are nearly without gaps, so newest - oldest tells how many there are.
    """
    table = TABLES[kind]
    oldest, newest = connection.execute(
        sa.select(sa.func.min(table.c.id), sa.func.max(table.c.id))
    ).one()
    if oldest is None:
        return 0
    step = (
        sa.select(table.c.id, table.c.received_ms)
        .order_by(table.c.id)
        .limit(PRUNE_ROWS_PER_STEP)
        .subquery()
    )
    cut = connection.execute(
        sa.select(sa.func.max(step.c.id)).where(
            sa.or_(step.c.received_ms < received_before_ms, step.c.id <= newest - rows_max)
        )
    ).scalar_one()
    if cut is None:
        return 0
    return connection.execute(sa.delete(table).where(table.c.id <= cut)).rowcount


def delete_old_streams(
    connection: sa.Connection, *, received_before_ms: int, per_device_max: int
) -> int:
    """Delete streams not heard of since, and a device's oldest over `per_device_max`."""
    rank = (
        sa.func.row_number()
        .over(partition_by=streams.c.device_id, order_by=streams.c.last_ms.desc())
        .label("rank")
    )
    ranked = sa.select(streams.c.device_id, streams.c.stream, streams.c.last_ms, rank).subquery()
    gone = connection.execute(
        sa.select(ranked.c.device_id, ranked.c.stream).where(
            sa.or_(ranked.c.rank > per_device_max, ranked.c.last_ms < received_before_ms)
        )
    ).all()
    for device, stream in gone:
        connection.execute(
            sa.delete(streams).where(streams.c.device_id == device, streams.c.stream == stream)
        )
    return len(gone)
