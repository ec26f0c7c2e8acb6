"""Queries on the pipelines that the hub orders of devices; a change is a new Target."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from cloud_hub.rollouts.sql_store import device_pipelines
from cloud_hub.rollouts.sql_targets import raise_revisions
from cloud_hub.sql_database import upsert
from shared.ids import DeviceId


@dataclass(frozen=True, slots=True)
class OrderedPipeline:
    """One pipeline that the hub orders of one device."""

    device_id: DeviceId
    name: str
    settings: bytes  # PipelineSettings as JSON
    changed_ms: int
    changed_by: str


def write_pipelines(connection: sa.Connection, ordered: Sequence[OrderedPipeline]) -> None:
    """Add or replace pipelines, and raise their devices' revisions."""
    rows = [
        {
            "device_id": one.device_id,
            "name": one.name,
            "settings_json": one.settings.decode(),
            "changed_ms": one.changed_ms,
            "changed_by": one.changed_by,
        }
        for one in ordered
    ]
    raise_revisions(connection, sorted({one.device_id for one in ordered}))
    update = ["settings_json", "changed_ms", "changed_by"]
    upsert(connection, device_pipelines, rows, key=["device_id", "name"], update=update)


def delete_pipeline(connection: sa.Connection, device_id: DeviceId, name: str) -> bool:
    """Take one back; return whether there was one."""
    raise_revisions(connection, [device_id])
    of_it = (device_pipelines.c.device_id == device_id) & (device_pipelines.c.name == name)
    return connection.execute(sa.delete(device_pipelines).where(of_it)).rowcount > 0


def read_pipelines(
    connection: sa.Connection, devices: Collection[str]
) -> dict[DeviceId, tuple[OrderedPipeline, ...]]:
    """Return what is ordered of each of these devices, by name; devices without are left out."""
    query = (
        sa.select(device_pipelines)
        .where(device_pipelines.c.device_id.in_(devices))
        .order_by(device_pipelines.c.device_id, device_pipelines.c.name)
    )
    found: dict[DeviceId, list[OrderedPipeline]] = {}
    for row in connection.execute(query):
        one = OrderedPipeline(
            device_id=DeviceId(row.device_id),
            name=row.name,
            settings=row.settings_json.encode(),
            changed_ms=row.changed_ms,
            changed_by=row.changed_by,
        )
        found.setdefault(one.device_id, []).append(one)
    return {device_id: tuple(ordered) for device_id, ordered in found.items()}
