"""Queries on the timelines of rollouts."""

from collections.abc import Iterable

import sqlalchemy as sa

from cloud_hub.rollouts.sql_store import rollout_events
from cloud_hub.rollouts.timeline import ENTRIES_MAX, TEXT_CHARS_MAX, Entry
from shared.ids import NAME_CHARS_MAX, DeviceId, RolloutId

LISTED_MAX = 1000
TIMELINE_FULL = "timeline.full"


def add_entries(connection: sa.Connection, rollout_id: RolloutId, entries: Iterable[Entry]) -> None:
    """Add to a rollout's timeline; past ENTRIES_MAX devices' entries are left out, and one says so.

    `entries` are all of `rollout_id`.
    """
    rows = [_entry_row(entry) for entry in entries]
    if not rows:
        return
    is_full = _is_timeline_full(connection, rollout_id)
    if is_full or count_entries(connection, rollout_id) + len(rows) > ENTRIES_MAX:
        at_ms = rows[-1]["at_ms"]
        rows = [row for row in rows if row["device_id"] is None]
        if not is_full:
            text = f"{ENTRIES_MAX} entries: what devices do is not written down any more."
            full = Entry(rollout_id=rollout_id, at_ms=0, code=TIMELINE_FULL, text=text)
            rows.append({**_entry_row(full), "at_ms": at_ms})
    if rows:
        connection.execute(sa.insert(rollout_events), rows)


def _is_timeline_full(connection: sa.Connection, rollout_id: RolloutId) -> bool:
    query = sa.select(rollout_events.c.id).where(
        rollout_events.c.rollout_id == rollout_id, rollout_events.c.code == TIMELINE_FULL
    )
    return connection.execute(query.limit(1)).first() is not None


def count_entries(connection: sa.Connection, rollout_id: RolloutId) -> int:
    """Return how long a rollout's timeline is."""
    query = sa.select(sa.func.count()).where(rollout_events.c.rollout_id == rollout_id)
    return connection.execute(query).scalar_one()


def read_entries(
    connection: sa.Connection,
    rollout_id: RolloutId,
    *,
    device_id: DeviceId | None = None,
    limit: int = LISTED_MAX,
) -> tuple[Entry, ...]:
    """Return the newest `limit` entries, oldest first; with `device_id` leave out other devices."""
    query = sa.select(rollout_events).where(rollout_events.c.rollout_id == rollout_id)
    if device_id is not None:
        owner = rollout_events.c.device_id
        query = query.where(owner.is_(None) | (owner == device_id))
    newest = connection.execute(query.order_by(rollout_events.c.id.desc()).limit(limit)).all()
    return tuple(_to_entry(row) for row in reversed(newest))


def _entry_row(entry: Entry) -> dict[str, object]:
    return {
        "rollout_id": entry.rollout_id,
        "at_ms": entry.at_ms,
        "code": entry.code,
        "text": entry.text[:TEXT_CHARS_MAX],
        "by_whom": entry.by[:NAME_CHARS_MAX],
        "device_id": entry.device_id,
        "measured": entry.measured,
        "limit_value": entry.limit,
    }


def _to_entry(row: sa.Row[tuple[object, ...]]) -> Entry:
    return Entry(
        rollout_id=RolloutId(row.rollout_id),
        at_ms=row.at_ms,
        code=row.code,
        text=row.text,
        by=row.by_whom,
        device_id=None if row.device_id is None else DeviceId(row.device_id),
        measured=row.measured,
        limit=row.limit_value,
    )
