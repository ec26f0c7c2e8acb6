"""Queries that span Reports, Targets and rollouts: the Snapshot that a plan is made from."""

from collections.abc import Collection

import sqlalchemy as sa

from cloud_hub.rollouts.device_model import DeviceModel
from cloud_hub.rollouts.draft import Assigned, Plan, Snapshot
from cloud_hub.rollouts.judge import ItemTotals
from cloud_hub.rollouts.rollout import ReleaseRef
from cloud_hub.rollouts.sql_reports import to_device_model
from cloud_hub.rollouts.sql_rollouts import (
    put_devices,
    read_devices,
    read_rollout,
    update_rollout,
)
from cloud_hub.rollouts.sql_store import (
    device_models,
    device_reports,
    device_targets,
    rollout_devices,
    rollouts,
    target_revisions,
)
from cloud_hub.rollouts.sql_targets import assign
from cloud_hub.rollouts.sql_timeline import add_entries
from shared.ids import DeviceId, ModelName, RolloutId


def read_snapshot(
    connection: sa.Connection,
    rollout_id: RolloutId,
    *,
    active: Collection[DeviceId],
    items: ItemTotals | None = None,
    locked: bool = False,
) -> Snapshot:
    """Return one rollout and all that bears on it.

    With `locked` no other hub process can do the same until this transaction ends.
    Raises RefusedError `rollout.unknown`.
    """
    rollout = read_rollout(connection, rollout_id, locked=locked)
    return Snapshot(
        rollout=rollout,
        devices=read_devices(connection, rollout_id),
        seen=_read_seen(connection, rollout_id, rollout.model),
        assigned=_read_assigned(connection, rollout_id, rollout.model),
        taken_up=_read_taken_up(connection, rollout_id),
        active=frozenset(active),
        items=items,
    )


def apply_plan(connection: sa.Connection, plan: Plan, *, now_ms: int) -> None:
    """Write everything that a plan changes."""
    rollout_id = plan.rollout.rollout_id
    if plan.is_rollout_changed:
        update_rollout(connection, plan.rollout)
    put_devices(connection, rollout_id, plan.changed)
    assign(connection, plan.rollout, plan.assignments, now_ms=now_ms)
    add_entries(connection, rollout_id, plan.entries)


def read_unserved(
    connection: sa.Connection, rollout_id: RolloutId, candidates: Collection[DeviceId]
) -> tuple[DeviceId, ...]:
    """Return those `candidates` that a finished rollout should absorb, in order of id.

    A device is left alone if it had a place in the rollout, or if its Target for the model was made
    by a rollout for other devices than this one's group.
    """
    rollout = read_rollout(connection, rollout_id)
    had = sa.select(rollout_devices.c.device_id).where(rollout_devices.c.rollout_id == rollout_id)
    taken = set(connection.execute(had).scalars())
    foreign = (
        sa.select(device_targets.c.device_id)
        .join(rollouts, rollouts.c.rollout_id == device_targets.c.rollout_id)
        .where(device_targets.c.model == rollout.model)
        .where(
            rollouts.c.group_name.is_distinct_from(rollout.order.group)
            | (rollouts.c.created_ms > rollout.created_ms)
        )
    )
    taken |= set(connection.execute(foreign).scalars())
    return tuple(sorted(set(candidates) - taken))


def _of_rollout(rollout_id: RolloutId) -> sa.Select[tuple[str]]:
    return sa.select(rollout_devices.c.device_id).where(rollout_devices.c.rollout_id == rollout_id)


def _read_seen(
    connection: sa.Connection, rollout_id: RolloutId, model: ModelName
) -> dict[DeviceId, DeviceModel]:
    query = sa.select(device_models).where(
        device_models.c.model == model, device_models.c.device_id.in_(_of_rollout(rollout_id))
    )
    return {DeviceId(row.device_id): to_device_model(row) for row in connection.execute(query)}


def _read_assigned(
    connection: sa.Connection, rollout_id: RolloutId, model: ModelName
) -> dict[DeviceId, Assigned]:
    query = sa.select(device_targets).where(
        device_targets.c.model == model, device_targets.c.device_id.in_(_of_rollout(rollout_id))
    )
    return {
        DeviceId(row.device_id): Assigned(
            None if row.version is None else ReleaseRef(row.version, row.manifest_digest),
            RolloutId(row.rollout_id),
        )
        for row in connection.execute(query)
    }


def _read_taken_up(connection: sa.Connection, rollout_id: RolloutId) -> frozenset[DeviceId]:
    query = (
        sa.select(device_reports.c.device_id)
        .join(target_revisions, target_revisions.c.device_id == device_reports.c.device_id)
        .where(device_reports.c.target_revision >= target_revisions.c.revision)
        .where(device_reports.c.device_id.in_(_of_rollout(rollout_id)))
    )
    return frozenset(DeviceId(device_id) for device_id in connection.execute(query).scalars())
