"""Tables of telemetry and the statements on them.

1. One table per kind of record. `id` rises with arrival and `received_ms` (the hub's clock) with
   it: sql_pruning.py cuts a table at an id. `at_ms` is the device's clock, which may be wrong.
2. telemetry_streams holds each stream's watermark; whoever ingests locks the stream's row first
   (SELECT FOR UPDATE; on SQLite the transaction already holds the write lock), so two hub processes
   never both take the same records. That, and no unique index over millions of rows, is what drops
   duplicates.
3. Outcomes and labels are JSON text, so that a person can query them.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import msgspec
import sqlalchemy as sa
from msgspec import UNSET

from cloud_hub.sql_database import METADATA, upsert
from shared.ids import DeviceId
from shared.wire.records import (
    Body,
    DecisionRecord,
    EventRecord,
    HostRecord,
    Outcome,
    Record,
    StageTimes,
    TelemetryRecord,
)

DEVICE_CHARS_MAX = 63
TEXT_CHARS_MAX = 2000
IN_LIST_MAX = 10_000  # SQLite takes 32,766 variables in one statement

BodyT = TypeVar("BodyT", DecisionRecord, TelemetryRecord, HostRecord, EventRecord)
_OUTCOMES = msgspec.json.Decoder(Outcome)
_STAGES = msgspec.json.Decoder(dict[str, StageTimes])
_OPTIONAL = {  # NULL where not told
    "sensor", "items_gated", "stages", "workers_rss_bytes", "sinks_lost", "worker_rss_bytes",
    "workers_cpu_share",
}  # fmt: skip
_LABELS = msgspec.json.Decoder(dict[str, int])


def _record_table(name: str, *columns: sa.schema.SchemaItem) -> sa.Table:
    """Return a table of records: who told it and when, then what."""
    return sa.Table(
        name,
        METADATA,
        sa.Column(
            "id",
            sa.BigInteger().with_variant(sa.Integer, "sqlite"),
            primary_key=True,
            autoincrement=True,
        ),
        sa.Column("device_id", sa.String(DEVICE_CHARS_MAX), nullable=False),
        sa.Column("stream", sa.String(16), nullable=False),
        sa.Column("sequence", sa.BigInteger, nullable=False),
        sa.Column("at_ms", sa.BigInteger, nullable=False),
        sa.Column("received_ms", sa.BigInteger, nullable=False),
        *columns,
        sa.Index(f"ix_{name}_device_id_id", "device_id", "id"),
    )


def _number(name: str) -> sa.Column[object]:
    return sa.Column(name, sa.Double, nullable=False)


def _count(name: str) -> sa.Column[object]:
    return sa.Column(name, sa.BigInteger, nullable=False)


def _what() -> tuple[sa.Column[object], ...]:
    return (
        sa.Column("pipeline", sa.String(63), nullable=False),
        sa.Column("model", sa.String(63), nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
    )


decisions = _record_table(
    "telemetry_decisions",
    *_what(),
    _count("item"),
    _count("captured_ms"),
    _number("latency_ms"),
    sa.Column("outcome", sa.Text, nullable=False),
    sa.Column("sensor", sa.String(120), nullable=True),
)
windows = _record_table(
    "telemetry_windows",
    *_what(),
    _number("window_s"),
    _count("items_in"),
    _count("items_decided"),
    _count("items_dropped"),
    _count("items_failed"),
    _number("latency_ms_p50"),
    _number("latency_ms_p95"),
    _number("latency_ms_max"),
    _number("inference_ms_p50"),
    _number("inference_ms_p95"),
    _number("confidence_mean"),
    _number("swap_pause_ms_max"),
    sa.Column("labels", sa.Text, nullable=False),
    sa.Column("items_gated", sa.BigInteger, nullable=True),
    sa.Column("stages", sa.Text, nullable=True),
    sa.Column("sinks_lost", sa.BigInteger, nullable=True),
    sa.Column("worker_rss_bytes", sa.BigInteger, nullable=True),
    sa.Index("ix_telemetry_windows_received_ms", "received_ms"),
    sa.Index("ix_telemetry_windows_model", "model", "version", "received_ms"),
)
hosts = _record_table(
    "telemetry_hosts",
    _number("window_s"),
    _number("cpu_share"),
    _count("rss_bytes"),
    _count("disk_free_bytes"),
    sa.Column("temperature_c", sa.Double, nullable=True),
    sa.Column("workers_rss_bytes", sa.BigInteger, nullable=True),
    sa.Column("workers_cpu_share", sa.Double, nullable=True),
)
events = _record_table(
    "telemetry_events",
    sa.Column("code", sa.String(80), nullable=False),
    sa.Column("text", sa.String(TEXT_CHARS_MAX), nullable=False),
)
streams = sa.Table(
    "telemetry_streams",
    METADATA,
    sa.Column("device_id", sa.String(DEVICE_CHARS_MAX), primary_key=True),
    sa.Column("stream", sa.String(16), primary_key=True),
    sa.Column("watermark", sa.BigInteger, nullable=False),
    sa.Column("missing", sa.BigInteger, nullable=False),
    sa.Column("first_ms", sa.BigInteger, nullable=False),
    sa.Column("last_ms", sa.BigInteger, nullable=False),
)
TABLES: dict[type[Body], sa.Table] = {
    DecisionRecord: decisions,
    TelemetryRecord: windows,
    HostRecord: hosts,
    EventRecord: events,
}


@dataclass(frozen=True, slots=True)
class Told(Generic[BodyT]):
    """One record as the hub keeps it."""

    id: int  # Rises with arrival
    device_id: DeviceId
    at_ms: int  # The device's clock
    received_ms: int  # The hub's
    body: BodyT


@dataclass(frozen=True, slots=True)
class StreamState:
    """What the hub has of one stream."""

    device_id: DeviceId
    stream: str
    watermark: int
    missing_count: int  # Records the device dropped before the hub had them
    first_ms: int
    last_ms: int


# Ingest ---------------------------------------------------------------------------------------


def lock_stream(
    connection: sa.Connection, device: DeviceId, stream: str, *, received_ms: int
) -> StreamState:
    """Return a stream's state, made if it is new, and locked until the transaction ends."""
    row = _stream_row(connection, device, stream)
    if row is None:
        fresh = {
            "device_id": device,
            "stream": stream,
            "watermark": 0,
            "missing": 0,
            "first_ms": received_ms,
            "last_ms": received_ms,
        }
        upsert(connection, streams, fresh, key=["device_id", "stream"], update=[])
        row = _stream_row(connection, device, stream)
        assert row is not None
    return _stream_state(row)


def _stream_row(connection: sa.Connection, device: DeviceId, stream: str) -> sa.RowMapping | None:
    query = (
        sa.select(streams)
        .where(streams.c.device_id == device, streams.c.stream == stream)
        .with_for_update()
    )
    return connection.execute(query).mappings().one_or_none()


def set_watermark(
    connection: sa.Connection, before: StreamState, *, watermark: int, missing: int, last_ms: int
) -> None:
    """Write how far a locked stream has come; `missing` more records will never come."""
    connection.execute(
        sa.update(streams)
        .where(streams.c.device_id == before.device_id, streams.c.stream == before.stream)
        .values(watermark=watermark, missing=before.missing_count + missing, last_ms=last_ms)
    )


def insert_records(
    connection: sa.Connection,
    device: DeviceId,
    stream: str,
    records: Sequence[Record],
    *,
    received_ms: int,
) -> None:
    """Insert records, each into its kind's table, in their order."""
    rows: dict[type[Body], list[dict[str, object]]] = {}
    for record in records:
        row = _row_of(record.body)
        row["device_id"] = device
        row["stream"] = stream
        row["sequence"] = record.sequence
        row["at_ms"] = record.at_ms
        row["received_ms"] = received_ms
        rows.setdefault(type(record.body), []).append(row)
    for kind, of_kind in rows.items():
        connection.execute(sa.insert(TABLES[kind]), of_kind)


def _row_of(body: Body) -> dict[str, object]:
    row = {
        name: None if value is UNSET else value
        for name, value in msgspec.structs.asdict(body).items()
    }
    match body:
        case DecisionRecord():
            row["outcome"] = msgspec.json.encode(body.outcome).decode()
        case TelemetryRecord():
            row["labels"] = msgspec.json.encode(body.labels).decode()
            if body.stages is not UNSET:
                row["stages"] = msgspec.json.encode(body.stages).decode()
        case EventRecord():
            row["text"] = body.text.replace("\0", "\ufffd")  # PostgreSQL's texts hold no NUL
        case HostRecord():
            pass
    return row


# Queries --------------------------------------------------------------------------------------


def select_newest(
    connection: sa.Connection,
    kind: type[BodyT],
    device: DeviceId | None,
    *,
    limit: int,
    since_ms: int = 0,
    pipeline: str | None = None,
    scan_rows_max: int,
) -> tuple[Told[BodyT], ...]:
    """Return the newest records of a kind, newest first, among the newest `scan_rows_max`."""
    table = TABLES[kind]
    scan = sa.select(table).order_by(table.c.id.desc()).limit(scan_rows_max)
    if device is not None:
        scan = scan.where(table.c.device_id == device)
    newest = scan.subquery()
    query = sa.select(newest).order_by(newest.c.id.desc()).limit(limit)
    if since_ms:
        query = query.where(newest.c.received_ms >= since_ms)
    if pipeline is not None:
        query = query.where(newest.c.pipeline == pipeline)
    return tuple(_told(kind, row) for row in connection.execute(query).mappings())


def select_latest_windows(
    connection: sa.Connection, devices: Sequence[DeviceId] | None, *, since_ms: int
) -> tuple[Told[TelemetryRecord], ...]:
    """Return the newest window of each (device, pipeline) that told one since `since_ms`."""
    newest = (
        sa.select(sa.func.max(windows.c.id))
        .where(windows.c.received_ms >= since_ms)
        .group_by(windows.c.device_id, windows.c.pipeline)
    )
    if devices is not None:
        newest = newest.where(windows.c.device_id.in_(devices[:IN_LIST_MAX]))
    query = (
        sa.select(windows)
        .where(windows.c.id.in_(newest))
        .order_by(windows.c.device_id, windows.c.pipeline)
    )
    return tuple(_told(TelemetryRecord, row) for row in connection.execute(query).mappings())


def select_windows_of_release(
    connection: sa.Connection,
    devices: Sequence[DeviceId],
    model: str,
    version: int,
    *,
    since_ms: int,
    rows_max: int,
) -> Iterator[Told[TelemetryRecord]]:
    """Yield the newest windows in which these devices ran this release."""
    query = (
        sa.select(windows)
        .where(
            windows.c.model == model,
            windows.c.version == version,
            windows.c.received_ms >= since_ms,
            windows.c.device_id.in_(devices[:IN_LIST_MAX]),
        )
        .order_by(windows.c.id.desc())
        .limit(rows_max)
    )
    for row in connection.execute(query).mappings():
        yield _told(TelemetryRecord, row)


def select_streams(connection: sa.Connection, device: DeviceId) -> tuple[StreamState, ...]:
    """Return a device's streams, the one told last first."""
    query = (
        sa.select(streams).where(streams.c.device_id == device).order_by(streams.c.last_ms.desc())
    )
    return tuple(_stream_state(row) for row in connection.execute(query).mappings())


def select_last_told(connection: sa.Connection) -> dict[DeviceId, int]:
    """Return when each device last told something, by the hub's clock."""
    query = sa.select(streams.c.device_id, sa.func.max(streams.c.last_ms)).group_by(
        streams.c.device_id
    )
    return {DeviceId(device): last_ms for device, last_ms in connection.execute(query)}


def _stream_state(row: sa.RowMapping) -> StreamState:
    return StreamState(
        device_id=DeviceId(row["device_id"]),
        stream=row["stream"],
        watermark=row["watermark"],
        missing_count=row["missing"],
        first_ms=row["first_ms"],
        last_ms=row["last_ms"],
    )


def _told(kind: type[BodyT], row: sa.RowMapping) -> Told[BodyT]:
    values = {name: row[name] for name in kind.__struct_fields__}
    for name in _OPTIONAL & values.keys():
        if values[name] is None:
            values[name] = UNSET
    if isinstance(values.get("stages"), str):
        values["stages"] = _STAGES.decode(values["stages"])
    if "outcome" in values:
        values["outcome"] = _OUTCOMES.decode(values["outcome"])
    if "labels" in values:
        values["labels"] = _LABELS.decode(values["labels"])
    return Told(
        id=row["id"],
        device_id=DeviceId(row["device_id"]),
        at_ms=row["at_ms"],
        received_ms=row["received_ms"],
        body=kind(**values),
    )
