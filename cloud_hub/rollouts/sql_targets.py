"""Queries on Targets: what each device is to run, which revision that is, and which was published.

1. A change raises the device's revision in the same transaction. A device ignores a Target whose
   revision is not above the one it has taken up, so a new revision is also above any that the
   device has reported (the hub's database may have been restored from an older copy).
2. A revision is pending until it was handed to the link; `forget_published` makes it so again.
3. Who composes and publishes a Target holds the device's row of target_revisions meanwhile, so that
   two hub processes publish in the order of revisions.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

import msgspec
import sqlalchemy as sa
from msgspec import UNSET

from cloud_hub.rollouts.draft import Assignment
from cloud_hub.rollouts.rollout import Rollout
from cloud_hub.rollouts.sql_fits import Hints
from cloud_hub.rollouts.sql_store import (
    device_learning,
    device_pipelines,
    device_reports,
    device_targets,
    target_revisions,
)
from cloud_hub.sql_database import upsert
from shared.ids import DeviceId
from shared.wire.fit import FitHint
from shared.wire.target import LearningOrder, PipelineOrder, Target, TargetRelease, TrialPolicy

CHUNK_ROWS = 500  # Device ids in one IN (…)
REVISION_MAX = 2**53 - 1  # What the wire can carry; a device that reports more is lying.
_LEARNING = msgspec.json.Decoder(tuple[LearningOrder, ...])
_TRIALS = msgspec.json.Decoder(TrialPolicy)


def assign(
    connection: sa.Connection,
    rollout: Rollout,
    assignments: Sequence[Assignment],
    *,
    now_ms: int,
) -> None:
    """Write what devices are to run of a rollout's model, and raise their revisions."""
    trial = msgspec.json.encode(rollout.order.trial).decode()
    rows = [
        {
            "device_id": assignment.device_id,
            "model": rollout.model,
            "version": assignment.release.version if assignment.release else None,
            "manifest_digest": assignment.release.manifest_digest if assignment.release else None,
            "rollout_id": rollout.rollout_id,
            "trial_json": trial,
            "changed_ms": now_ms,
        }
        for assignment in assignments
    ]
    # Revisions first: their rows are what two hub processes wait for (rule 3).
    raise_revisions(connection, [assignment.device_id for assignment in assignments])
    columns = [c.name for c in device_targets.columns if not c.primary_key]
    upsert(connection, device_targets, rows, key=["device_id", "model"], update=columns)


def lock_learning(connection: sa.Connection) -> None:
    """Let nobody else change what devices are to learn until this transaction ends."""
    if connection.dialect.name == "postgresql":  # On SQLite the transaction itself is the lock.
        connection.execute(sa.text("SELECT pg_advisory_xact_lock(4733873)"))


def find_learning_changes(
    connection: sa.Connection, orders: Mapping[DeviceId, tuple[LearningOrder, ...]]
) -> dict[DeviceId, tuple[LearningOrder, ...]]:
    """Return the devices whose Target asks for other learning than `orders`, with what it should.

    Args: orders: of every device that is to learn anything.
    """
    known = {
        DeviceId(row.device_id): _LEARNING.decode(row.orders_json)
        for row in connection.execute(sa.select(device_learning))
    }
    return {
        device_id: orders.get(device_id, ())
        for device_id in sorted({*known, *orders})
        if known.get(device_id, ()) != orders.get(device_id, ())
    }


def assign_learning(
    connection: sa.Connection,
    changes: Mapping[DeviceId, tuple[LearningOrder, ...]],
    *,
    now_ms: int,
) -> None:
    """Write what devices are to learn, and raise their revisions; nothing is a row that is gone."""
    raise_revisions(connection, list(changes))
    for chunk in _chunks([device_id for device_id, orders in changes.items() if not orders]):
        connection.execute(sa.delete(device_learning).where(device_learning.c.device_id.in_(chunk)))
    rows = [
        {
            "device_id": device_id,
            "orders_json": msgspec.json.encode(orders).decode(),
            "changed_ms": now_ms,
        }
        for device_id, orders in changes.items()
        if orders
    ]
    update = ["orders_json", "changed_ms"]
    upsert(connection, device_learning, rows, key=["device_id"], update=update)


def _read_learning(
    connection: sa.Connection, devices: Sequence[str]
) -> dict[str, tuple[LearningOrder, ...]]:
    query = sa.select(device_learning).where(device_learning.c.device_id.in_(devices))
    return {row.device_id: _LEARNING.decode(row.orders_json) for row in connection.execute(query)}


def _read_orders(
    connection: sa.Connection, devices: Sequence[str]
) -> dict[str, tuple[PipelineOrder, ...]]:
    query = (
        sa.select(device_pipelines)
        .where(device_pipelines.c.device_id.in_(devices))
        .order_by(device_pipelines.c.device_id, device_pipelines.c.name)
    )
    found: dict[str, tuple[PipelineOrder, ...]] = {}
    for row in connection.execute(query):
        order = PipelineOrder(name=row.name, settings=row.settings_json.encode())
        found[row.device_id] = (*found.get(row.device_id, ()), order)
    return found


def raise_revisions(connection: sa.Connection, devices: Sequence[DeviceId]) -> None:
    """Make the Targets of `devices` new ones; see rule 1."""
    for chunk in _chunks(devices):
        rows = [
            {"device_id": device_id, "revision": 0, "published_revision": 0, "published_ms": 0}
            for device_id in chunk
        ]
        upsert(connection, target_revisions, rows, key=["device_id"], update=[])
        reported = (
            sa.select(device_reports.c.target_revision)
            .where(device_reports.c.device_id == target_revisions.c.device_id)
            .where(device_reports.c.target_revision < REVISION_MAX)
            .scalar_subquery()
        )
        known = sa.func.coalesce(reported, 0)
        current = target_revisions.c.revision
        connection.execute(
            sa.update(target_revisions)
            .where(target_revisions.c.device_id.in_(chunk))
            .values(revision=sa.case((known > current, known), else_=current) + 1)
        )


def answer_report(
    connection: sa.Connection, device_id: DeviceId, taken_up: int, *, published_before_ms: int
) -> None:
    """Make a device's Target pending again if its Report shows that it has not got it.

    Args: taken_up is the revision in the Report; a Target published since `published_before_ms`
    may still be on its way.
    """
    of_device = target_revisions.c.device_id == device_id
    current = target_revisions.c.revision
    if taken_up < REVISION_MAX:
        connection.execute(
            sa.update(target_revisions)
            .where(of_device, current < taken_up)
            .values(revision=taken_up + 1, published_revision=0)
        )
    connection.execute(
        sa.update(target_revisions)
        .where(of_device, current > taken_up)
        .where(target_revisions.c.published_ms < published_before_ms)
        .where(target_revisions.c.published_revision == current)
        .values(published_revision=0)
    )


def forget_published(connection: sa.Connection) -> int:
    """Make every device's Target pending; return how many devices have one."""
    return connection.execute(sa.update(target_revisions).values(published_revision=0)).rowcount


def read_pending(connection: sa.Connection, *, limit: int) -> tuple[DeviceId, ...]:
    """Return devices whose newest Target was not published."""
    query = (
        sa.select(target_revisions.c.device_id)
        .where(target_revisions.c.published_revision < target_revisions.c.revision)
        .order_by(target_revisions.c.device_id)
        .limit(limit)
    )
    return tuple(DeviceId(device_id) for device_id in connection.execute(query).scalars())


def count_pending(connection: sa.Connection) -> int:
    """Return how many devices' newest Target was not published."""
    query = (
        sa.select(sa.func.count())
        .select_from(target_revisions)
        .where(target_revisions.c.published_revision < target_revisions.c.revision)
    )
    return connection.execute(query).scalar_one()


def lock_pending(
    connection: sa.Connection, devices: Collection[DeviceId], *, now_ms: int
) -> tuple[tuple[DeviceId, Target], ...]:
    """Return the Targets of those `devices` that still have one pending, and hold their rows."""
    revisions = target_revisions
    query = (
        sa.select(revisions.c.device_id, revisions.c.revision)
        .where(revisions.c.device_id.in_(devices))
        .where(revisions.c.published_revision < revisions.c.revision)
        .order_by(revisions.c.device_id)
        .with_for_update()
    )
    revision_of = {row.device_id: row.revision for row in connection.execute(query)}
    releases: dict[str, list[TargetRelease]] = {device_id: [] for device_id in revision_of}
    wanted = (
        sa.select(device_targets)
        .where(device_targets.c.device_id.in_(list(revision_of)))
        .where(device_targets.c.version.is_not(None))
        .order_by(device_targets.c.device_id, device_targets.c.model)
    )
    hints = Hints(connection, [DeviceId(device_id) for device_id in revision_of])
    for row in connection.execute(wanted):
        hint = hints.find(DeviceId(row.device_id), row.manifest_digest)
        releases[row.device_id].append(_to_release(row, hint))
    learning = _read_learning(connection, list(revision_of))
    orders = _read_orders(connection, list(revision_of))
    return tuple(
        (
            DeviceId(device_id),
            Target(
                revision=revision,
                issued_ms=now_ms,
                releases=tuple(releases[device_id]),
                orders=orders.get(device_id, UNSET),
                learning=learning.get(device_id, UNSET),
            ),
        )
        for device_id, revision in revision_of.items()
    )


def mark_published(
    connection: sa.Connection, published: Iterable[tuple[DeviceId, int]], *, now_ms: int
) -> None:
    """Write down which revision of each device was handed to the link."""
    for device_id, revision in published:
        connection.execute(
            sa.update(target_revisions)
            .where(target_revisions.c.device_id == device_id)
            .values(published_revision=revision, published_ms=now_ms)
        )


def _to_release(row: sa.Row[tuple[object, ...]], hint: FitHint | None) -> TargetRelease:
    return TargetRelease(
        model=row.model,
        version=row.version,
        manifest_digest=row.manifest_digest,
        rollout=row.rollout_id,
        trial=_TRIALS.decode(row.trial_json),
        fit_hint=hint or UNSET,
    )


def _chunks(devices: Sequence[DeviceId]) -> Iterator[Sequence[DeviceId]]:
    for start in range(0, len(devices), CHUNK_ROWS):
        yield devices[start : start + CHUNK_ROWS]
