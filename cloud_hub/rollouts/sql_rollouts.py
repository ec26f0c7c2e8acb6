"""Queries on rollouts and the devices in them."""

import json
from collections.abc import Collection, Iterable

import sqlalchemy as sa

from cloud_hub.rollouts.order import decode_order, encode_order
from cloud_hub.rollouts.rollout import (
    OPEN,
    UNFINISHED,
    DeviceFailure,
    DeviceState,
    ReleaseRef,
    Rollout,
    RolloutDevice,
    RolloutState,
)
from cloud_hub.rollouts.sql_store import device_targets, rollout_devices, rollout_models, rollouts
from cloud_hub.sql_database import upsert
from shared.errors import RefusedError
from shared.ids import DeviceId, ModelName, RolloutId

LISTED_MAX = 1000
EXPLICIT = "(devices)"  # Stands in group_name where devices were named; no group has such a name


def lock_model(connection: sa.Connection, model: ModelName, *, now_ms: int) -> None:
    """Let nobody else start a rollout of `model` until this transaction ends."""
    row = {"model": model, "started_ms": now_ms}
    upsert(connection, rollout_models, row, key=["model"], update=["started_ms"])


def find_overlap(
    connection: sa.Connection,
    model: ModelName,
    devices: Collection[DeviceId],
    *,
    other_than: RolloutId | None = None,
) -> tuple[RolloutId, int] | None:
    """Return an unfinished rollout of `model` that shares devices, and how many it shares."""
    query = (
        sa.select(rollouts.c.rollout_id, rollout_devices.c.device_id)
        .join(rollout_devices, rollout_devices.c.rollout_id == rollouts.c.rollout_id)
        .where(rollouts.c.model == model, rollouts.c.state.in_(UNFINISHED))
        .where(rollout_devices.c.state != DeviceState.REMOVED)
    )
    wanted = set(devices)
    shared: dict[RolloutId, int] = {}
    for row in connection.execute(query):
        if row.device_id in wanted and row.rollout_id != other_than:
            shared[row.rollout_id] = shared.get(row.rollout_id, 0) + 1
    return next(iter(shared.items()), None)


def insert_rollout(
    connection: sa.Connection, rollout: Rollout, devices: Iterable[RolloutDevice]
) -> None:
    """Store a new rollout with its devices."""
    connection.execute(sa.insert(rollouts).values(_rollout_row(rollout)))
    put_devices(connection, rollout.rollout_id, devices)


def update_rollout(connection: sa.Connection, rollout: Rollout) -> None:
    """Store a rollout's changes."""
    connection.execute(
        sa.update(rollouts)
        .where(rollouts.c.rollout_id == rollout.rollout_id)
        .values(_rollout_row(rollout))
    )


def put_devices(
    connection: sa.Connection, rollout_id: RolloutId, devices: Iterable[RolloutDevice]
) -> None:
    """Store devices' places in a rollout, new or changed."""
    rows = [_device_row(rollout_id, device) for device in devices]
    columns = [c.name for c in rollout_devices.columns if not c.primary_key]
    upsert(connection, rollout_devices, rows, key=["rollout_id", "device_id"], update=columns)


def read_rollout(
    connection: sa.Connection, rollout_id: RolloutId, *, locked: bool = False
) -> Rollout:
    """Return one rollout; `locked` makes other hub processes wait until this transaction ends.

    Raises RefusedError `rollout.unknown`.
    """
    query = sa.select(rollouts).where(rollouts.c.rollout_id == rollout_id)
    if locked:
        query = query.with_for_update()
    row = connection.execute(query).one_or_none()
    if row is None:
        raise RefusedError(
            "rollout.unknown",
            f"There is no rollout {rollout_id}.",
            remedy="List the rollouts to see their ids.",
        )
    return _to_rollout(row)


def read_rollouts(
    connection: sa.Connection, *, model: ModelName | None = None, limit: int = LISTED_MAX
) -> tuple[Rollout, ...]:
    """Return the newest rollouts first."""
    query = sa.select(rollouts).order_by(rollouts.c.created_ms.desc(), rollouts.c.rollout_id.desc())
    if model is not None:
        query = query.where(rollouts.c.model == model)
    rows = connection.execute(query.limit(min(limit, LISTED_MAX)))
    return tuple(_to_rollout(row) for row in rows)


def read_watched(connection: sa.Connection) -> tuple[RolloutId, ...]:
    """Return the rollouts that a tick must look at, oldest first.

    The unfinished ones, and the finished ones that still wait for a device which no later rollout
    has taken over.
    """
    waits = (
        sa.select(rollout_devices.c.rollout_id)
        .join(
            device_targets,
            (device_targets.c.device_id == rollout_devices.c.device_id)
            & (device_targets.c.rollout_id == rollout_devices.c.rollout_id),
        )
        .where(rollout_devices.c.state.in_(OPEN))
    )
    query = (
        sa.select(rollouts.c.rollout_id)
        .where(rollouts.c.state.in_(UNFINISHED) | rollouts.c.rollout_id.in_(waits))
        .order_by(rollouts.c.created_ms, rollouts.c.rollout_id)
    )
    return tuple(RolloutId(rollout_id) for rollout_id in connection.execute(query).scalars())


def read_absorbing(connection: sa.Connection) -> tuple[Rollout, ...]:
    """Return for each model and group the newest rollout that is done, if it keeps absorbing."""
    newest = (
        sa.select(
            rollouts.c.rollout_id,
            sa.func.row_number()
            .over(
                partition_by=(rollouts.c.model, rollouts.c.group_name),
                order_by=(rollouts.c.created_ms.desc(), rollouts.c.rollout_id.desc()),
            )
            .label("rank"),
        )
        .where(rollouts.c.state == RolloutState.DONE)
        .subquery()
    )
    query = sa.select(rollouts).where(
        rollouts.c.rollout_id.in_(sa.select(newest.c.rollout_id).where(newest.c.rank == 1))
    )
    found = (_to_rollout(row) for row in connection.execute(query))
    return tuple(rollout for rollout in found if rollout.order.keeps_absorbing)


def read_devices(connection: sa.Connection, rollout_id: RolloutId) -> tuple[RolloutDevice, ...]:
    """Return a rollout's devices in its order."""
    query = (
        sa.select(rollout_devices)
        .where(rollout_devices.c.rollout_id == rollout_id)
        .order_by(rollout_devices.c.position)
    )
    return tuple(_to_device(row) for row in connection.execute(query))


def read_parts(
    connection: sa.Connection, device_id: DeviceId, model: ModelName, *, limit: int
) -> tuple[tuple[Rollout, RolloutDevice], ...]:
    """Return a device's parts in the newest rollouts of `model`, newest first."""
    places = sa.select(rollout_devices.c.rollout_id).where(rollout_devices.c.device_id == device_id)
    query = (
        sa.select(rollouts)
        .where(rollouts.c.model == model, rollouts.c.rollout_id.in_(places))
        .order_by(rollouts.c.created_ms.desc(), rollouts.c.rollout_id.desc())
        .limit(limit)
    )
    parts = []
    for rollout in [_to_rollout(row) for row in connection.execute(query)]:
        row = connection.execute(
            sa.select(rollout_devices).where(
                rollout_devices.c.rollout_id == rollout.rollout_id,
                rollout_devices.c.device_id == device_id,
            )
        ).one()
        parts.append((rollout, _to_device(row)))
    return tuple(parts)


def read_models_of(connection: sa.Connection, device_id: DeviceId) -> tuple[ModelName, ...]:
    """Return the models of which rollouts had a place for a device."""
    query = (
        sa.select(rollouts.c.model)
        .join(rollout_devices, rollout_devices.c.rollout_id == rollouts.c.rollout_id)
        .where(rollout_devices.c.device_id == device_id)
        .distinct()
        .order_by(rollouts.c.model)
    )
    return tuple(ModelName(model) for model in connection.execute(query).scalars())


def find_claims(
    connection: sa.Connection, device_id: DeviceId, model: ModelName, manifest_digest: str
) -> tuple[RolloutId, ...]:
    """Return unfinished rollouts of a release that `device_id` has a place in."""
    query = (
        sa.select(rollouts.c.rollout_id)
        .join(rollout_devices, rollout_devices.c.rollout_id == rollouts.c.rollout_id)
        .where(rollouts.c.model == model, rollouts.c.manifest_digest == manifest_digest)
        .where(rollouts.c.state.in_(UNFINISHED), rollout_devices.c.device_id == device_id)
    )
    return tuple(RolloutId(rollout_id) for rollout_id in connection.execute(query).scalars())


def _rollout_row(rollout: Rollout) -> dict[str, object]:
    return {
        "rollout_id": rollout.rollout_id,
        "model": rollout.model,
        "group_name": EXPLICIT if rollout.order.devices else rollout.order.group,
        "version": rollout.release.version,
        "manifest_digest": rollout.release.manifest_digest,
        "order_json": encode_order(rollout.order),
        "state": rollout.state.value,
        "wave": rollout.wave,
        "wave_limits": json.dumps(rollout.wave_limits),
        "wave_good_ms": rollout.wave_good_ms,
        "hold_code": rollout.hold_code,
        "answers_count": rollout.answers_count,
        "created_ms": rollout.created_ms,
        "created_by": rollout.created_by,
        "updated_ms": rollout.updated_ms,
    }


def _to_rollout(row: sa.Row[tuple[object, ...]]) -> Rollout:
    return Rollout(
        rollout_id=RolloutId(row.rollout_id),
        order=decode_order(row.order_json),
        release=ReleaseRef(row.version, row.manifest_digest),
        state=RolloutState(row.state),
        wave=row.wave,
        wave_limits=tuple(json.loads(row.wave_limits)),
        wave_good_ms=row.wave_good_ms,
        hold_code=row.hold_code,
        answers_count=row.answers_count,
        created_ms=row.created_ms,
        created_by=row.created_by,
        updated_ms=row.updated_ms,
    )


def _device_row(rollout_id: RolloutId, device: RolloutDevice) -> dict[str, object]:
    before, failure = device.previous, device.failure
    return {
        "rollout_id": rollout_id,
        "device_id": device.device_id,
        "position": device.position,
        "wave": device.wave,
        "state": device.state.value,
        "since_ms": device.since_ms,
        "targeted_ms": device.targeted_ms,
        "previous_version": before.version if before else None,
        "previous_digest": before.manifest_digest if before else None,
        "failure_code": failure.code if failure else None,
        "failure_text": failure.text if failure else None,
        "failure_undo_ms": failure.undo_ms if failure else None,
        "failures_count": device.failures_count,
        "is_excused": device.is_excused,
        "is_silence_noted": device.is_silence_noted,
    }


def _to_device(row: sa.Row[tuple[object, ...]]) -> RolloutDevice:
    previous = None
    if row.previous_version is not None:
        previous = ReleaseRef(row.previous_version, row.previous_digest)
    failure = None
    if row.failure_code is not None:
        failure = DeviceFailure(
            code=row.failure_code, text=row.failure_text, undo_ms=row.failure_undo_ms
        )
    return RolloutDevice(
        device_id=DeviceId(row.device_id),
        position=row.position,
        wave=row.wave,
        state=DeviceState(row.state),
        since_ms=row.since_ms,
        targeted_ms=row.targeted_ms,
        previous=previous,
        failure=failure,
        failures_count=row.failures_count,
        is_excused=row.is_excused,
        is_silence_noted=row.is_silence_noted,
    )
