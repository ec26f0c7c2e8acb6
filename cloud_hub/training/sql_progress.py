"""Queries on a Job's devices, Rounds and events. Who writes holds the Job's row."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, fields
from typing import TypeVar

import msgspec
import sqlalchemy as sa

from cloud_hub.sql_database import upsert
from cloud_hub.training.event_tally import DeviceTally, EventTally, RoundTally
from cloud_hub.training.job import JobDevice, JobId, RoundSummary
from cloud_hub.training.job_folder import JobEvent
from cloud_hub.training.sql_store import job_devices, job_events, job_rounds
from shared.ids import DeviceId
from shared.learning.task import ROUNDS_MAX
from shared.wire.report import LearningReport, LearningState

T = TypeVar("T")
CHUNK_ROWS = 500  # Device ids in one IN (…)
_NUMBERS = msgspec.json.Decoder(dict[str, float])
_DEVICE_TALLY = tuple(field.name for field in fields(DeviceTally))
_ROUND_TALLY = tuple(field.name for field in fields(RoundTally))


def add_events(
    connection: sa.Connection,
    job_id: JobId,
    events: Sequence[JobEvent],
    *,
    last: int,
    kept_max: int,
) -> int:
    """Append events, numbered on from `last`; forget the oldest; return the last number."""
    rows = [
        {
            "job_id": job_id,
            "number": number,
            "at_ms": event.at_ms,
            "code": event.code,
            "round": event.round,
            "device_id": event.device,
            "text": event.text.replace("\0", ""),  # PostgreSQL stores none
            "numbers_json": msgspec.json.encode(event.numbers, order="deterministic").decode(),
        }
        for number, event in enumerate(events, start=last + 1)
    ]
    if not rows:
        return last
    connection.execute(sa.insert(job_events), rows)
    newest = last + len(rows)
    connection.execute(
        sa.delete(job_events).where(
            job_events.c.job_id == job_id, job_events.c.number <= newest - kept_max
        )
    )
    return newest


def read_events(
    connection: sa.Connection, job_id: JobId, *, after: int, limit: int
) -> tuple[JobEvent, ...]:
    """Return events numbered above `after`, oldest first."""
    query = (
        sa.select(job_events)
        .where(job_events.c.job_id == job_id, job_events.c.number > after)
        .order_by(job_events.c.number)
        .limit(limit)
    )
    return tuple(
        JobEvent(
            number=row.number,
            at_ms=row.at_ms,
            code=row.code,
            round=row.round,
            device=row.device_id,
            text=row.text,
            numbers=_NUMBERS.decode(row.numbers_json),
        )
        for row in connection.execute(query)
    )


def read_tally(connection: sa.Connection, job_id: JobId, events: Iterable[JobEvent]) -> EventTally:
    """Return what is known of the devices and Rounds that `events` can change."""
    named: set[str] = set()
    numbers: set[int] = set()
    for event in events:
        if event.device is not None:
            named.add(event.device)
        if event.round:
            numbers.update((event.round - 1, event.round))
    devices = {
        row.device_id: DeviceTally(**{name: getattr(row, name) for name in _DEVICE_TALLY})
        for chunk in _chunks(sorted(named))
        for row in connection.execute(
            sa.select(job_devices)
            .where(job_devices.c.job_id == job_id)
            .where(job_devices.c.device_id.in_(chunk))
        )
    }
    rounds = {
        row.round: RoundTally(**{name: getattr(row, name) for name in _ROUND_TALLY})
        for chunk in _chunks(sorted(numbers))
        for row in connection.execute(
            sa.select(job_rounds)
            .where(job_rounds.c.job_id == job_id)
            .where(job_rounds.c.round.in_(chunk))
        )
    }
    return EventTally(devices, rounds)


def put_tally(connection: sa.Connection, job_id: JobId, tally: EventTally) -> None:
    """Store what a tally has become."""
    for device_id, device in tally.devices.items():
        connection.execute(
            sa.update(job_devices)
            .where(job_devices.c.job_id == job_id, job_devices.c.device_id == device_id)
            .values(asdict(device))
        )
    rounds = [
        {"job_id": job_id, "round": number, **asdict(found)}
        for number, found in tally.rounds.items()
    ]
    upsert(connection, job_rounds, rounds, key=["job_id", "round"], update=_ROUND_TALLY)


def put_report(connection: sa.Connection, device_id: DeviceId, report: LearningReport) -> bool:
    """Store what a device says of one Job; return whether the Job asks this device."""
    changes: dict[str, object] = {
        "state": report.state,
        "code": report.code or "",
        "text": report.text,
    }
    if report.epsilon_spent is not None:
        changes["epsilon_spent"] = report.epsilon_spent
    if report.epsilon_max is not None:
        changes["epsilon_max"] = report.epsilon_max
    return bool(
        connection.execute(
            sa.update(job_devices)
            .where(job_devices.c.job_id == report.job, job_devices.c.device_id == device_id)
            .values(changes)
        ).rowcount
    )


def put_node_statuses(
    connection: sa.Connection, job_id: JobId, statuses: Mapping[DeviceId, str]
) -> None:
    """Store Flower's word on devices of a Job, where it has changed."""
    for device_id, before in read_node_statuses(connection, job_id).items():
        status = statuses.get(device_id, "")
        if status != before:
            connection.execute(
                sa.update(job_devices)
                .where(job_devices.c.job_id == job_id, job_devices.c.device_id == device_id)
                .values(node_status=status)
            )


def read_node_statuses(connection: sa.Connection, job_id: JobId) -> Mapping[DeviceId, str]:
    """Return Flower's word on each device of a Job, as stored."""
    query = sa.select(job_devices.c.device_id, job_devices.c.node_status)
    rows = connection.execute(query.where(job_devices.c.job_id == job_id))
    return {DeviceId(row.device_id): row.node_status for row in rows}


def read_devices(connection: sa.Connection, job_id: JobId) -> tuple[JobDevice, ...]:
    """Return a Job's devices, in order of id."""
    query = (
        sa.select(job_devices)
        .where(job_devices.c.job_id == job_id)
        .order_by(job_devices.c.device_id)
    )
    return tuple(
        JobDevice(
            device_id=DeviceId(row.device_id),
            state=LearningState(row.state) if row.state is not None else None,
            code=row.code,
            text=row.text,
            node_status=row.node_status,
            rounds_answered=row.rounds_answered,
            updates_refused=row.updates_refused,
            bytes_up=row.bytes_up,
            samples_count=row.samples_count,
            accuracy_before=row.accuracy_before,
            accuracy_after=row.accuracy_after,
            epsilon_spent=row.epsilon_spent,
            epsilon_max=row.epsilon_max,
        )
        for row in connection.execute(query)
    )


def read_rounds(connection: sa.Connection, job_id: JobId) -> tuple[RoundSummary, ...]:
    """Return a Job's Rounds, the first one first."""
    query = (
        sa.select(job_rounds)
        .where(job_rounds.c.job_id == job_id, job_rounds.c.round > 0)
        .order_by(job_rounds.c.round)
        .limit(ROUNDS_MAX)
    )
    return tuple(_to_summary(row) for row in connection.execute(query))


def _to_summary(row: sa.Row[tuple[object, ...]]) -> RoundSummary:
    evaluated = _mean(row.evaluated_sum, row.evaluated_count)
    return RoundSummary(
        round=row.round,
        started_ms=row.started_ms,
        closed_ms=row.closed_ms,
        devices_asked=row.devices_asked,
        devices_counted=row.devices_counted,
        devices_refused=row.devices_refused,
        devices_silent=row.devices_silent,
        bytes_up=row.bytes_up,
        bytes_down=row.bytes_down,
        loss=_mean(row.loss_sum, row.loss_count),
        accuracy=evaluated
        if evaluated is not None
        else _mean(row.next_before_sum, row.next_before_count),
        epsilon=row.epsilon,
    )


def _mean(total: float, count: int) -> float | None:
    return total / count if count else None


def _chunks(items: Sequence[T]) -> Iterable[Sequence[T]]:
    return [items[start : start + CHUNK_ROWS] for start in range(0, len(items), CHUNK_ROWS)]
