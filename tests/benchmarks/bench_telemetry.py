"""How fast telemetry goes: the device's outbox, and the hub's ingest on each database.

Run: python -m tests.benchmarks.bench_telemetry [--records N] [--database URL]
Prints one JSON line. Without --database the hub's is a SQLite file; its tables must be empty.
"""

import argparse
import json
import resource
import tempfile
import threading
import time
from pathlib import Path

from cloud_hub.sql_database import Database
from cloud_hub.telemetry.service import TelemetryService
from edge_agent.telemetry.sql_outbox import OutboxSettings, SqlOutbox
from shared.clock import SystemClock
from shared.ids import DeviceId
from shared.wire.records import BATCH_RECORDS_MAX, Record, RecordBatch
from tests.support.record_bodies import decision_record, telemetry_record

WINDOW_EVERY = 50  # One telemetry window for so many decisions
HUB_THREADS = 4


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--records", type=int, default=50_000)
    parser.add_argument("--database")
    arguments = parser.parse_args()
    count: int = arguments.records
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        database = Database(arguments.database or f"sqlite:///{folder}/hub.db")
        database.migrate()
        figures: dict[str, object] = {
            "bench": "telemetry",
            "records": count,
            "database": database.engine.dialect.name,
            **_bench_outbox(folder, count),
            **_bench_ingest(database, count, threads_count=1),
            **_bench_ingest(database, count, threads_count=HUB_THREADS),
        }
        database.close()
    print(json.dumps(figures))


def _bench_outbox(folder: Path, count: int) -> dict[str, object]:
    outbox = SqlOutbox(
        folder / "outbox.db", OutboxSettings(rows_max=10**7, bytes_max=1 << 32), SystemClock()
    )
    body = decision_record(1)
    append_s = 0.0
    started_s, cpu_before_s = time.perf_counter(), time.process_time()
    for first in range(0, count, BATCH_RECORDS_MAX):
        before_s = time.perf_counter()
        for _ in range(min(BATCH_RECORDS_MAX, count - first)):
            outbox.append(body)
        append_s += time.perf_counter() - before_s
        outbox.flush()
    written_s = time.perf_counter() - started_s
    cpu_s = time.process_time() - cpu_before_s
    started_s, cursor = time.perf_counter(), 0
    while records := outbox.read(cursor, records_max=BATCH_RECORDS_MAX, bytes_max=1 << 18):
        cursor = records[-1].sequence
        outbox.delete_up_to(cursor)
    drained_s = time.perf_counter() - started_s
    outbox.close()
    return {
        "outbox_append_us": round(append_s / count * 1e6, 2),
        "outbox_write_rows_per_s": round(count / written_s),
        "outbox_write_cpu_us_per_row": round(cpu_s / count * 1e6, 1),
        "outbox_drain_rows_per_s": round(count / drained_s),
    }


def _bench_ingest(database: Database, count: int, *, threads_count: int) -> dict[str, object]:
    service = TelemetryService(database, SystemClock())
    batches = _batches(count // threads_count)
    threads = [
        threading.Thread(target=_ingest, args=(service, f"dev-{threads_count}-{n}", batches))
        for n in range(threads_count)
    ]
    cpu_before_s, started_s = time.process_time(), time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds, cpu_s = time.perf_counter() - started_s, time.process_time() - cpu_before_s
    taken = service.counts.records
    return {
        f"ingest_rows_per_s_{threads_count}_devices": round(taken / seconds),
        f"ingest_cpu_us_per_row_{threads_count}_devices": round(cpu_s / taken * 1e6, 1),
        "rss_mib_max": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }


def _ingest(service: TelemetryService, device: str, batches: list[RecordBatch]) -> None:
    for batch in batches:
        service.ingest(DeviceId(device), batch)


def _batches(count: int) -> list[RecordBatch]:
    batches = []
    for first in range(1, count + 1, BATCH_RECORDS_MAX):
        records = tuple(
            Record(
                sequence=n,
                at_ms=n,
                body=decision_record(n) if n % WINDOW_EVERY else telemetry_record(),
            )
            for n in range(first, min(first + BATCH_RECORDS_MAX, count + 1))
        )
        batches.append(RecordBatch(stream="0" * 16, since=first - 1, records=records))
    return batches


if __name__ == "__main__":
    main()
