"""TelemetryService: takes what devices tell exactly once, and answers questions about it.

1. A batch is one transaction: duplicates are dropped by the stream's watermark, the rest is stored,
   the watermark is moved. Only then is there a Watermark to answer with.
2. A batch that says `since` above our watermark stands behind one that was lost: nothing of it is
   taken, and the answer asks for everything above our watermark again.
3. Times that queries take are the hub's clock (when a record arrived): a device's may be wrong.
4. Everything kept is bounded by TelemetrySettings; `prune` is called from time to time.
"""

import logging
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import sqlalchemy as sa
from msgspec import Meta

from cloud_hub.sql_database import Database
from cloud_hub.telemetry import sql_pruning, sql_store
from cloud_hub.telemetry.rollup import Point, Totals, combine, combine_over_time
from cloud_hub.telemetry.sql_store import BodyT, StreamState, Told
from shared.clock import Clock, now_ms
from shared.errors import ContractError
from shared.ids import DeviceId
from shared.settings import Settings
from shared.wire.records import (
    Body,
    DecisionRecord,
    EventRecord,
    HostRecord,
    RecordBatch,
    TelemetryRecord,
    Watermark,
)

log = logging.getLogger(__name__)

LIMIT_MAX = 10_000  # Records of one answer
SCAN_ROWS_MAX = 20_000  # Newest records of a device that a filtered question looks through
TOTALS_ROWS_MAX = 100_000
LATEST_AGE_S = 600.0
STREAMS_PER_DEVICE_MAX = 16
PRUNE_STEPS_MAX = 200  # Of sql_pruning.PRUNE_ROWS_PER_STEP rows, per table and call
DAY_MS = 86_400_000

Rows = Annotated[int, Meta(ge=1000, le=10**10)]
Days = Annotated[float, Meta(gt=0, le=36_500)]


class TelemetrySettings(Settings, frozen=True):
    """How much of what devices told the hub keeps."""

    decisions_rows_max: Rows = 2_000_000
    windows_rows_max: Rows = 2_000_000
    hosts_rows_max: Rows = 1_000_000
    events_rows_max: Rows = 500_000
    days_max: Days = 30.0
    stream_days_max: Days = 400.0  # Longer than any device is away


@dataclass(frozen=True, slots=True)
class TelemetryCounts:
    """What this process took since it started."""

    records: int = 0
    duplicates: int = 0
    resends: int = 0
    missing: int = 0


class TelemetryService:
    """See the rules above. Thread-safe; several processes may share a database."""

    def __init__(
        self, database: Database, clock: Clock, settings: TelemetrySettings | None = None
    ) -> None:
        """Serve from `database`, which is migrated."""
        self._database, self._clock = database, clock
        self._settings = settings or TelemetrySettings()
        self._counts = TelemetryCounts()
        self._counts_lock = threading.Lock()

    @property
    def counts(self) -> TelemetryCounts:
        """Return what this process took since it started."""
        return self._counts

    # What devices tell --------------------------------------------------------------------------

    def ingest(self, device: DeviceId, batch: RecordBatch) -> Watermark:
        """Store what is new in `batch` and return what the device may forget.

        Raises ContractError `records.order` or `records.unstorable`; TransientError
        `database.unavailable`: nothing was stored.
        """
        _refuse_disorder(batch)
        received_ms = now_ms(self._clock)
        try:
            with self._database.begin() as connection:
                stream = sql_store.lock_stream(
                    connection, device, batch.stream, received_ms=received_ms
                )
                if batch.since > stream.watermark:
                    self._count(resends=1)
                    return Watermark(stream=batch.stream, sequence=stream.watermark, resend=True)
                fresh = [r for r in batch.records if r.sequence > stream.watermark]
                missing = 0
                if fresh:
                    last = fresh[-1].sequence
                    missing = last - stream.watermark - len(fresh)
                    sql_store.insert_records(
                        connection, device, batch.stream, fresh, received_ms=received_ms
                    )
                    sql_store.set_watermark(
                        connection, stream, watermark=last, missing=missing, last_ms=received_ms
                    )
        except sa.exc.DataError as error:
            problem = str(error.orig).partition("\n")[0]
            raise ContractError("records.unstorable", f"A record: {problem}.") from error
        self._count(records=len(fresh), duplicates=len(batch.records) - len(fresh), missing=missing)
        watermark = fresh[-1].sequence if fresh else stream.watermark
        return Watermark(stream=batch.stream, sequence=watermark)

    def _count(
        self, *, records: int = 0, duplicates: int = 0, resends: int = 0, missing: int = 0
    ) -> None:
        with self._counts_lock:
            before = self._counts
            self._counts = TelemetryCounts(
                records=before.records + records,
                duplicates=before.duplicates + duplicates,
                resends=before.resends + resends,
                missing=before.missing + missing,
            )

    # What people and the rollout judge ask ------------------------------------------------------

    def decisions(
        self, device: DeviceId, *, limit: int = 100, pipeline: str | None = None
    ) -> tuple[Told[DecisionRecord], ...]:
        """Return a device's newest decisions, newest first."""
        return self._newest(DecisionRecord, device, limit=limit, pipeline=pipeline)

    def windows(
        self,
        device: DeviceId,
        *,
        since_ms: int = 0,
        limit: int = 1000,
        pipeline: str | None = None,
    ) -> tuple[Told[TelemetryRecord], ...]:
        """Return a device's newest windows that arrived since `since_ms`, newest first."""
        return self._newest(
            TelemetryRecord, device, limit=limit, since_ms=since_ms, pipeline=pipeline
        )

    def chart(
        self, device: DeviceId, pipeline: str, *, since_ms: int, points_max: int = 300
    ) -> tuple[Point, ...]:
        """Return one pipeline's windows combined into at most `points_max` points, in order."""
        told = self.windows(device, since_ms=since_ms, pipeline=pipeline, limit=LIMIT_MAX)
        pairs = [(window.received_ms, window.body) for window in told]
        return combine_over_time(pairs, points_max=points_max)

    def latest_windows(
        self, devices: Sequence[DeviceId] | None = None, *, age_s_max: float = LATEST_AGE_S
    ) -> tuple[Told[TelemetryRecord], ...]:
        """Return the newest window of each (device, pipeline) that told one lately."""
        since_ms = now_ms(self._clock) - int(age_s_max * 1000)
        with self._database.read() as connection:
            return sql_store.select_latest_windows(connection, devices, since_ms=since_ms)

    def hosts(
        self, device: DeviceId, *, since_ms: int = 0, limit: int = 1000
    ) -> tuple[Told[HostRecord], ...]:
        """Return the newest numbers of the device itself, newest first."""
        return self._newest(HostRecord, device, limit=limit, since_ms=since_ms)

    def events(
        self, device: DeviceId | None = None, *, since_ms: int = 0, limit: int = 100
    ) -> tuple[Told[EventRecord], ...]:
        """Return the newest events of one device, or of all, newest first."""
        return self._newest(EventRecord, device, limit=limit, since_ms=since_ms)

    def streams(self, device: DeviceId) -> tuple[StreamState, ...]:
        """Return what the hub has of each of a device's streams, the one told last first."""
        with self._database.read() as connection:
            return sql_store.select_streams(connection, device)

    def last_told_ms(self) -> dict[DeviceId, int]:
        """Return when each device last told something, by the hub's clock."""
        with self._database.read() as connection:
            return sql_store.select_last_told(connection)

    def window_totals(
        self, devices: Sequence[DeviceId], model: str, version: int, since_ms: int
    ) -> dict[DeviceId, Totals]:
        """Return what each device told of this release in windows that arrived since `since_ms`.

        A device that told nothing is not in the answer: silence is unknown, not zero.
        """
        if not devices:
            return {}
        by_device: dict[DeviceId, list[TelemetryRecord]] = {}
        with self._database.read() as connection:
            for told in sql_store.select_windows_of_release(
                connection, devices, model, version, since_ms=since_ms, rows_max=TOTALS_ROWS_MAX
            ):
                by_device.setdefault(told.device_id, []).append(told.body)
        return {device: combine(windows) for device, windows in by_device.items()}

    def _newest(
        self,
        kind: type[BodyT],
        device: DeviceId | None,
        *,
        limit: int,
        since_ms: int = 0,
        pipeline: str | None = None,
    ) -> tuple[Told[BodyT], ...]:
        with self._database.read() as connection:
            return sql_store.select_newest(
                connection,
                kind,
                device,
                limit=max(0, min(limit, LIMIT_MAX)),
                since_ms=since_ms,
                pipeline=pipeline,
                scan_rows_max=SCAN_ROWS_MAX,
            )

    # Bounds -------------------------------------------------------------------------------------

    def prune(self) -> dict[str, int]:
        """Delete what is too old or too much; return rows deleted by table.

        In many short transactions, so that ingest never waits long.
        """
        settings, at_ms = self._settings, now_ms(self._clock)
        before_ms = at_ms - int(settings.days_max * DAY_MS)
        limits: tuple[tuple[type[Body], int], ...] = (
            (DecisionRecord, settings.decisions_rows_max),
            (TelemetryRecord, settings.windows_rows_max),
            (HostRecord, settings.hosts_rows_max),
            (EventRecord, settings.events_rows_max),
        )
        deleted = {
            sql_store.TABLES[kind].name: self._prune(kind, before_ms, rows_max)
            for kind, rows_max in limits
        }
        with self._database.begin() as connection:
            deleted[sql_store.streams.name] = sql_pruning.delete_old_streams(
                connection,
                received_before_ms=at_ms - int(settings.stream_days_max * DAY_MS),
                per_device_max=STREAMS_PER_DEVICE_MAX,
            )
        if any(deleted.values()):
            log.info("telemetry.pruned", extra=deleted)
        return deleted

    def _prune(self, kind: type[Body], before_ms: int, rows_max: int) -> int:
        total = 0
        for _ in range(PRUNE_STEPS_MAX):
            with self._database.begin() as connection:
                count = sql_pruning.delete_oldest(
                    connection, kind, received_before_ms=before_ms, rows_max=rows_max
                )
            total += count
            if count < sql_pruning.PRUNE_ROWS_PER_STEP:
                break
        return total


def _refuse_disorder(batch: RecordBatch) -> None:
    """Raise ContractError `records.order` unless sequences rise, from above `since` on."""
    previous = batch.since
    for record in batch.records:
        if record.sequence <= previous:
            raise ContractError("records.order", "Sequences of a batch do not rise from `since`.")
        previous = record.sequence
