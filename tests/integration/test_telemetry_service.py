"""TelemetryService on SQLite and PostgreSQL."""

import threading

import pytest
import sqlalchemy as sa

from cloud_hub.sql_database import Database
from cloud_hub.telemetry import service as telemetry_service
from cloud_hub.telemetry import sql_pruning
from cloud_hub.telemetry.service import TelemetryService, TelemetrySettings
from shared.errors import ContractError, TransientError
from shared.ids import DeviceId
from shared.wire.records import (
    Body,
    Box,
    DecisionRecord,
    Detected,
    Record,
    RecordBatch,
    Scored,
    Watermark,
)
from tests.support.manual_clock import ManualClock
from tests.support.record_bodies import (
    decision_record,
    event_record,
    host_record,
    telemetry_record,
)

DEVICE, OTHER = DeviceId("dev-1"), DeviceId("dev-2")
STREAM = "0123456789abcdef"
NOW_MS = 1_700_000_000_000


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def telemetry(database: Database, clock: ManualClock) -> TelemetryService:
    return TelemetryService(database, clock)


def batch_of(bodies: dict[int, Body], *, since: int = 0, stream: str = STREAM) -> RecordBatch:
    records = tuple(Record(sequence=n, at_ms=n, body=body) for n, body in bodies.items())
    return RecordBatch(stream=stream, since=since, records=records)


def decisions_batch(first: int, last: int, *, since: int | None = None) -> RecordBatch:
    bodies: dict[int, Body] = {n: decision_record(n) for n in range(first, last + 1)}
    return batch_of(bodies, since=first - 1 if since is None else since)


def stored_items(telemetry: TelemetryService, device: DeviceId = DEVICE) -> list[int]:
    return sorted(told.body.item for told in telemetry.decisions(device, limit=10_000))


def test_a_batch_is_stored_and_answered_with_its_last_sequence(telemetry: TelemetryService) -> None:
    answer = telemetry.ingest(DEVICE, decisions_batch(1, 5))
    assert answer == Watermark(stream=STREAM, sequence=5)
    assert stored_items(telemetry) == [1, 2, 3, 4, 5]


def test_a_repeated_batch_changes_nothing(telemetry: TelemetryService) -> None:
    batch = decisions_batch(1, 5)
    telemetry.ingest(DEVICE, batch)
    assert telemetry.ingest(DEVICE, batch) == Watermark(stream=STREAM, sequence=5)
    assert stored_items(telemetry) == [1, 2, 3, 4, 5]
    assert telemetry.counts.duplicates == 5


def test_of_an_overlapping_batch_only_the_new_part_is_stored(telemetry: TelemetryService) -> None:
    telemetry.ingest(DEVICE, decisions_batch(1, 5))
    assert telemetry.ingest(DEVICE, decisions_batch(4, 8, since=3)).sequence == 8
    assert stored_items(telemetry) == list(range(1, 9))


def test_an_old_batch_never_moves_the_watermark_back(telemetry: TelemetryService) -> None:
    telemetry.ingest(DEVICE, decisions_batch(1, 8))
    assert telemetry.ingest(DEVICE, decisions_batch(1, 3)).sequence == 8


def test_a_batch_behind_a_lost_one_is_not_taken(telemetry: TelemetryService) -> None:
    telemetry.ingest(DEVICE, decisions_batch(1, 5))
    answer = telemetry.ingest(DEVICE, decisions_batch(11, 15))
    assert answer == Watermark(stream=STREAM, sequence=5, resend=True)
    assert stored_items(telemetry) == [1, 2, 3, 4, 5]
    assert telemetry.counts.resends == 1


def test_a_first_batch_that_stands_behind_others_is_asked_for_from_the_start(
    telemetry: TelemetryService,
) -> None:
    answer = telemetry.ingest(DEVICE, decisions_batch(11, 15))
    assert answer == Watermark(stream=STREAM, sequence=0, resend=True)


def test_what_the_device_dropped_is_taken_for_gone_and_counted(telemetry: TelemetryService) -> None:
    telemetry.ingest(DEVICE, decisions_batch(1, 5))
    bodies: dict[int, Body] = {9: decision_record(9), 12: decision_record(12)}
    assert telemetry.ingest(DEVICE, batch_of(bodies, since=5)).sequence == 12
    (stream,) = telemetry.streams(DEVICE)
    assert (stream.watermark, stream.missing_count) == (12, 5)
    assert telemetry.counts.missing == 5


def test_streams_and_devices_are_apart(telemetry: TelemetryService) -> None:
    other_stream = "f" * 16
    telemetry.ingest(DEVICE, decisions_batch(1, 5))
    telemetry.ingest(DEVICE, batch_of({1: decision_record(101)}, stream=other_stream))
    telemetry.ingest(OTHER, decisions_batch(1, 2))
    assert stored_items(telemetry) == [1, 2, 3, 4, 5, 101]
    assert stored_items(telemetry, OTHER) == [1, 2]
    assert {s.stream: s.watermark for s in telemetry.streams(DEVICE)} == {
        STREAM: 5,
        other_stream: 1,
    }


@pytest.mark.parametrize(
    ("since", "sequences"), [(3, (3, 4)), (0, (2, 2)), (0, (5, 4)), (9, (3, 10))]
)
def test_disorder_is_refused(
    telemetry: TelemetryService, since: int, sequences: tuple[int, ...]
) -> None:
    records = tuple(Record(sequence=n, at_ms=0, body=decision_record(n)) for n in sequences)
    with pytest.raises(ContractError) as caught:
        telemetry.ingest(DEVICE, RecordBatch(stream=STREAM, since=since, records=records))
    assert caught.value.code == "records.order"
    assert telemetry.streams(DEVICE) == ()


def test_a_batch_is_stored_whole_or_not_at_all(
    database: Database, telemetry: TelemetryService
) -> None:
    with database.begin() as connection:
        connection.execute(sa.text("DROP TABLE telemetry_events"))
    bodies: dict[int, Body] = {1: decision_record(1), 2: event_record()}
    with pytest.raises((sa.exc.ProgrammingError, TransientError)):  # PostgreSQL, SQLite
        telemetry.ingest(DEVICE, batch_of(bodies))
    assert stored_items(telemetry) == []
    assert telemetry.streams(DEVICE) == ()


def test_every_kind_of_record_comes_back_as_it_was(telemetry: TelemetryService) -> None:
    boxes = Detected(boxes=(Box("cär", 0.9, 0.1, 0.2, 0.3, 0.4), Box("bus\0", 0.5, 0, 0, 1, 1)))
    scored = Scored(score=-1.5e17, threshold=3.25, is_anomalous=True)
    base = decision_record(2**53, pipeline="a" * 63)
    bodies: dict[int, Body] = {
        1: base,
        2: _with_outcome(base, boxes),
        3: _with_outcome(base, scored),
        4: telemetry_record(labels={"a\0b": 2**53, "": 0}),
        5: host_record(),
        6: host_record(temperature_c=None),
        7: event_record("é" * 2000),
    }
    telemetry.ingest(DEVICE, batch_of(bodies))
    told = [
        *telemetry.decisions(DEVICE),
        *telemetry.windows(DEVICE),
        *telemetry.hosts(DEVICE),
        *telemetry.events(DEVICE),
    ]
    assert {t.at_ms: t.body for t in told} == bodies
    assert {t.received_ms for t in told} == {NOW_MS}
    assert {t.device_id for t in told} == {DEVICE}


def test_a_nul_in_an_event_is_stored_as_a_mark(telemetry: TelemetryService) -> None:
    telemetry.ingest(DEVICE, batch_of({1: event_record("a\0b")}))
    assert [told.body.text for told in telemetry.events()] == ["a\ufffdb"]


@pytest.mark.slow
@pytest.mark.parametrize("database_kind", ["postgresql"])  # SQLite holds any text in any column
def test_what_a_database_cannot_hold_is_the_devices_fault(
    database: Database, telemetry: TelemetryService
) -> None:
    with database.begin() as connection:
        connection.execute(sa.text("ALTER TABLE telemetry_events ALTER text TYPE varchar(3)"))
    with pytest.raises(ContractError) as caught:
        telemetry.ingest(DEVICE, batch_of({1: event_record("four")}))
    assert caught.value.code == "records.unstorable"
    assert "four" not in str(caught.value), "what devices say does not get into the logs"


def test_questions_return_the_newest_first_up_to_the_limit(telemetry: TelemetryService) -> None:
    bodies: dict[int, Body] = {
        n: decision_record(n, pipeline="door" if n % 2 else "gate") for n in range(1, 21)
    }
    telemetry.ingest(DEVICE, batch_of(bodies))
    assert [t.body.item for t in telemetry.decisions(DEVICE, limit=3)] == [20, 19, 18]
    assert [t.body.item for t in telemetry.decisions(DEVICE, limit=2, pipeline="door")] == [19, 17]
    assert telemetry.decisions(DEVICE, limit=0) == ()
    assert telemetry.decisions(OTHER) == ()


def test_since_is_by_the_hubs_clock(telemetry: TelemetryService, clock: ManualClock) -> None:
    telemetry.ingest(DEVICE, batch_of({1: telemetry_record(), 2: host_record(), 3: event_record()}))
    clock.advance(60.0)
    second: dict[int, Body] = {4: telemetry_record(), 5: host_record(), 6: event_record()}
    telemetry.ingest(DEVICE, batch_of(second, since=3))
    since_ms = NOW_MS + 60_000
    assert [t.at_ms for t in telemetry.windows(DEVICE, since_ms=since_ms)] == [4]
    assert [t.at_ms for t in telemetry.hosts(DEVICE, since_ms=since_ms)] == [5]
    assert [t.at_ms for t in telemetry.events(DEVICE, since_ms=since_ms)] == [6]
    assert len(telemetry.windows(DEVICE)) == 2


def test_events_of_all_devices_can_be_asked_for_together(telemetry: TelemetryService) -> None:
    telemetry.ingest(DEVICE, batch_of({1: event_record("one")}))
    telemetry.ingest(OTHER, batch_of({1: event_record("two")}))
    assert [t.body.text for t in telemetry.events()] == ["two", "one"]
    assert [t.body.text for t in telemetry.events(DEVICE)] == ["one"]


def test_the_latest_window_of_each_pipeline(
    telemetry: TelemetryService, clock: ManualClock
) -> None:
    telemetry.ingest(OTHER, batch_of({1: telemetry_record()}))
    clock.advance(3600.0)
    bodies: dict[int, Body] = {
        1: telemetry_record(items_in=1),
        2: telemetry_record(pipeline="gate", items_in=2),
        3: telemetry_record(items_in=3),
    }
    telemetry.ingest(DEVICE, batch_of(bodies))
    latest = telemetry.latest_windows()
    assert [(t.device_id, t.body.pipeline, t.body.items_in) for t in latest] == [
        (DEVICE, "door", 3),
        (DEVICE, "gate", 2),
    ]
    assert telemetry.latest_windows([OTHER]) == ()
    assert len(telemetry.latest_windows([OTHER], age_s_max=7200.0)) == 1


def test_window_totals_are_of_that_release_on_those_devices_since_then(
    telemetry: TelemetryService, clock: ManualClock
) -> None:
    telemetry.ingest(DEVICE, batch_of({1: telemetry_record(version=2)}))
    clock.advance(10.0)
    since_ms = NOW_MS + 10_000
    bodies: dict[int, Body] = {
        2: telemetry_record(version=2, items_in=7, latency_ms_p50=3.0),
        3: telemetry_record(version=2, items_in=8, latency_ms_p50=4.0),
        4: telemetry_record(version=1),
        5: telemetry_record(version=2, model="bearing"),
    }
    telemetry.ingest(DEVICE, batch_of(bodies, since=1))
    telemetry.ingest(OTHER, batch_of({1: telemetry_record(version=2)}))
    totals = telemetry.window_totals([DEVICE, DeviceId("dev-9")], "digits", 2, since_ms)
    assert list(totals) == [DEVICE]
    assert (totals[DEVICE].items_in, totals[DEVICE].windows_count) == (15, 2)
    assert totals[DEVICE].latency_ms_p50 == 3.0
    assert telemetry.window_totals([], "digits", 2, since_ms) == {}


def test_a_chart_is_bounded(telemetry: TelemetryService, clock: ManualClock) -> None:
    for n in range(1, 41):
        telemetry.ingest(DEVICE, batch_of({n: telemetry_record(items_in=1)}, since=n - 1))
        clock.advance(10.0)
    points = telemetry.chart(DEVICE, "door", since_ms=0, points_max=8)
    assert len(points) == 8
    assert sum(point.totals.items_in for point in points) == 40


def test_pruning_by_age_keeps_what_is_young(
    database: Database, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sql_pruning, "PRUNE_ROWS_PER_STEP", 4)  # Several steps
    telemetry = TelemetryService(database, clock, TelemetrySettings(days_max=1.0))
    telemetry.ingest(DEVICE, decisions_batch(1, 10))
    clock.advance(2 * 86_400.0)
    telemetry.ingest(DEVICE, decisions_batch(11, 13))
    assert telemetry.prune()["telemetry_decisions"] == 10
    assert stored_items(telemetry) == [11, 12, 13]
    assert telemetry.ingest(DEVICE, decisions_batch(1, 10)).sequence == 13, "still duplicates"
    assert stored_items(telemetry) == [11, 12, 13]


def test_pruning_by_count_keeps_the_newest(database: Database, clock: ManualClock) -> None:
    telemetry = TelemetryService(
        database, clock, TelemetrySettings(decisions_rows_max=4, events_rows_max=1)
    )
    telemetry.ingest(DEVICE, decisions_batch(1, 10))
    telemetry.ingest(DEVICE, batch_of({11: event_record("a"), 12: event_record("b")}, since=10))
    deleted = telemetry.prune()
    assert (deleted["telemetry_decisions"], deleted["telemetry_events"]) == (6, 1)
    assert stored_items(telemetry) == [7, 8, 9, 10]
    assert telemetry.prune() == dict.fromkeys(deleted, 0)


def test_a_device_cannot_have_ever_more_streams(
    telemetry: TelemetryService, clock: ManualClock
) -> None:
    over = telemetry_service.STREAMS_PER_DEVICE_MAX + 3
    for n in range(over):
        telemetry.ingest(DEVICE, batch_of({1: decision_record(n)}, stream=f"{n:016x}"))
        clock.advance(1.0)
    telemetry.ingest(OTHER, decisions_batch(1, 1))
    assert telemetry.prune()["telemetry_streams"] == 3
    assert telemetry.streams(DEVICE)[0].stream == f"{over - 1:016x}"
    assert len(telemetry.streams(OTHER)) == 1


@pytest.mark.slow
def test_two_hub_processes_never_both_take_the_same_records(database_url: str) -> None:
    hubs = [Database(database_url) for _ in range(2)]
    services = [TelemetryService(hub, ManualClock()) for hub in hubs]
    start = threading.Barrier(4)

    def ingest(service: TelemetryService) -> None:
        start.wait()
        for first in range(1, 201, 5):  # Both are handed everything, as redelivery does
            answer = service.ingest(DEVICE, decisions_batch(first, first + 4))
            while answer.resend:
                answer = service.ingest(DEVICE, decisions_batch(1, first + 4, since=0))

    threads = [threading.Thread(target=ingest, args=(s,)) for s in services * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60.0)
    assert stored_items(services[0]) == list(range(1, 201))
    taken = sum(service.counts.records for service in services)
    assert taken == 200
    for hub in hubs:
        hub.close()


def _with_outcome(record: DecisionRecord, outcome: Detected | Scored) -> DecisionRecord:
    return DecisionRecord(
        pipeline=record.pipeline,
        model=record.model,
        version=record.version,
        item=record.item,
        captured_ms=record.captured_ms,
        latency_ms=record.latency_ms,
        outcome=outcome,
    )
