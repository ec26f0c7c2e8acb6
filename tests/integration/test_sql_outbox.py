"""SqlOutbox on real files: bounds, counts, restarts, corrupt files, full disks."""

import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from edge_agent.telemetry import sql_outbox
from edge_agent.telemetry.sql_outbox import OutboxSettings, SqlOutbox
from shared.wire.records import Classified, DecisionRecord, EventRecord, Record
from tests.support.manual_clock import ManualClock
from tests.support.record_bodies import decision_record
from tests.support.waiting import wait_until

ALL = 1_000_000


def open_outbox(path: Path, *, rows_max: int = ALL, bytes_max: int = 1 << 30) -> SqlOutbox:
    return SqlOutbox(path, OutboxSettings(rows_max=rows_max, bytes_max=bytes_max), ManualClock())


def read_all(outbox: SqlOutbox) -> tuple[Record, ...]:
    return outbox.read(0, records_max=ALL, bytes_max=1 << 40)


def fill(outbox: SqlOutbox, count: int, *, first: int = 0) -> None:
    for item in range(first, first + count):
        outbox.append(decision_record(item))
    assert outbox.flush()


def items(outbox: SqlOutbox) -> list[int]:
    return [r.body.item for r in read_all(outbox) if isinstance(r.body, DecisionRecord)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "outbox.db"


@pytest.fixture
def outbox(path: Path) -> Iterator[SqlOutbox]:
    opened = open_outbox(path)
    yield opened
    opened.close()


def test_records_come_back_as_they_were_in_order(outbox: SqlOutbox) -> None:
    fill(outbox, 3)
    assert [(r.sequence, r.at_ms) for r in read_all(outbox)] == [
        (n, 1_700_000_000_000) for n in (1, 2, 3)
    ]
    assert [r.body for r in read_all(outbox)] == [decision_record(n) for n in range(3)]


def test_reading_starts_after_a_sequence_and_stops_at_either_limit(outbox: SqlOutbox) -> None:
    fill(outbox, 10)
    assert [r.sequence for r in outbox.read(4, records_max=3, bytes_max=1 << 20)] == [5, 6, 7]
    size = len(msgspec.msgpack.encode(decision_record(0))) + sql_outbox.RECORD_OVERHEAD_BYTES
    assert len(outbox.read(0, records_max=10, bytes_max=2 * size)) == 2
    assert len(outbox.read(0, records_max=10, bytes_max=1)) == 1, "at least one, or nothing moves"


def test_sequences_and_counts_go_on_after_a_restart(path: Path) -> None:
    first = open_outbox(path, rows_max=5)
    fill(first, 8)
    stream, counts = first.stream, (first.rows_count, first.bytes_count, first.dropped_count)
    first.delete_up_to(4)
    first.close()
    second = open_outbox(path, rows_max=5)
    assert second.stream == stream
    assert counts == (5, second.bytes_count * 5 // 4, 3)
    assert (second.rows_count, second.dropped_count, second.watermark) == (4, 3, 4)
    fill(second, 1)
    assert second.last_sequence == 9
    second.close()


def test_sequences_are_not_reused_after_everything_was_deleted(path: Path) -> None:
    first = open_outbox(path)
    fill(first, 5)
    first.delete_up_to(5)
    assert first.rows_count == first.bytes_count == 0
    first.close()
    second = open_outbox(path)
    fill(second, 1)
    assert [r.sequence for r in read_all(second)] == [6]
    second.close()


def test_two_outboxes_have_different_streams(tmp_path: Path) -> None:
    one, other = open_outbox(tmp_path / "a.db"), open_outbox(tmp_path / "b.db")
    assert one.stream != other.stream
    one.close()
    other.close()


def test_the_oldest_rows_over_the_limit_go_and_are_counted(path: Path) -> None:
    outbox = open_outbox(path, rows_max=4)
    fill(outbox, 10)
    assert items(outbox) == [6, 7, 8, 9]
    assert outbox.dropped_count == 6
    outbox.close()


def test_the_oldest_bytes_over_the_limit_go_and_are_counted(path: Path) -> None:
    size = len(msgspec.msgpack.encode(decision_record(0)))
    outbox = open_outbox(path, bytes_max=3 * size)
    fill(outbox, 10)
    assert items(outbox) == [7, 8, 9]
    assert outbox.bytes_count == 3 * size
    assert outbox.dropped_count == 7
    outbox.close()


def test_appending_never_waits_for_the_disk(outbox: SqlOutbox) -> None:
    with outbox._file_lock:  # As while a commit is under way
        done = threading.Thread(target=outbox.append, args=(decision_record(0),))
        done.start()
        done.join(5.0)
        assert not done.is_alive()


def test_a_full_buffer_drops_the_oldest_and_counts_them(
    outbox: SqlOutbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sql_outbox, "BUFFER_RECORDS_MAX", 5)
    for item in range(8):
        outbox.append(decision_record(item))
    assert outbox.dropped_count == 3
    assert outbox.flush()
    assert items(outbox) == [3, 4, 5, 6, 7]
    assert outbox.dropped_count == 3


def test_the_writer_commits_by_itself_and_once_more_at_the_end(path: Path) -> None:
    outbox = open_outbox(path)
    stop = threading.Event()
    writer = threading.Thread(target=outbox.run, args=(stop,))
    writer.start()
    outbox.append(decision_record(0))
    wait_until(lambda: outbox.last_sequence == 1)
    stop.set()
    writer.join(5.0)
    outbox.append(decision_record(1))
    outbox.close()
    reopened = open_outbox(path)
    assert items(reopened) == [0, 1]
    reopened.close()


@pytest.mark.parametrize(
    "body",
    [
        msgspec.structs.replace(decision_record(0), latency_ms=float("nan")),
        msgspec.structs.replace(decision_record(0), latency_ms=float("inf")),
        msgspec.structs.replace(decision_record(0), version=0),
        msgspec.structs.replace(
            decision_record(0), outcome=Classified(label="x" * 200, confidence=0.5)
        ),
        msgspec.structs.replace(decision_record(0), item=object()),
    ],
    ids=["nan", "infinity", "range", "length", "type"],
)
def test_what_the_hub_would_refuse_is_refused_here(outbox: SqlOutbox, body: DecisionRecord) -> None:
    outbox.append(body)
    fill(outbox, 1)
    assert items(outbox) == [0]
    assert outbox.refused_count == 1


def test_a_row_that_nobody_can_read_is_dropped_and_counted(path: Path) -> None:
    outbox = open_outbox(path)
    fill(outbox, 3)
    with sqlite3.connect(path) as other:
        other.execute("UPDATE records SET body = x'00' WHERE sequence = 2")
    other.close()
    assert items(outbox) == [0, 2]
    assert (outbox.rows_count, outbox.dropped_count) == (2, 1)
    assert items(outbox) == [0, 2]
    outbox.close()


def _garbage(path: Path) -> None:
    path.write_bytes(b"this is not a database, but it is long enough to be one" * 100)


def _torn_page(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[4096:8192] = b"\xff" * 4096
    path.write_bytes(data)


def _other_program(path: Path) -> None:
    path.unlink()
    with sqlite3.connect(path) as other:
        other.execute("CREATE TABLE state (label TEXT)")
        other.execute("INSERT INTO state VALUES ('x')")
    other.close()


def _newer_program(path: Path) -> None:
    with sqlite3.connect(path) as other:
        other.execute("PRAGMA user_version = 9")
    other.close()


@pytest.mark.parametrize("damage", [_garbage, _torn_page, _other_program, _newer_program])
def test_a_corrupt_file_is_set_aside_and_said_so(path: Path, damage: object) -> None:
    first = open_outbox(path)
    fill(first, 3)
    stream = first.stream
    first.close()
    assert callable(damage)
    damage(path)
    second = open_outbox(path)
    fill(second, 1, first=7)
    assert second.stream not in (None, stream)
    assert items(second) == [7]
    event = read_all(second)[0].body
    assert isinstance(event, EventRecord)
    assert event.code == "outbox.corrupt"
    assert [p.name for p in path.parent.glob("*.corrupt-*")] == ["outbox.db.corrupt-1700000000000"]
    second.close()


def test_a_file_that_breaks_while_open_is_set_aside_too(path: Path) -> None:
    outbox = open_outbox(path)
    fill(outbox, 500)
    stream = outbox.stream
    assert outbox._file is not None
    outbox._file._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    outbox._file._connection.execute("PRAGMA cache_size=1")
    data = bytearray(path.read_bytes())
    data[4096:] = b"\xff" * (len(data) - 4096)
    path.write_bytes(data)
    outbox._file._connection.execute("PRAGMA shrink_memory")
    outbox.append(decision_record(900))
    wait_until(outbox.flush)
    assert outbox.stream != stream
    assert items(outbox) == [900]
    outbox.close()


def test_only_so_many_corrupt_files_are_kept(path: Path) -> None:
    clock = ManualClock()
    for _ in range(sql_outbox.CORRUPT_FILES_MAX + 3):
        _garbage(path)
        clock.advance(1.0)
        SqlOutbox(path, OutboxSettings(), clock).close()
    names = sorted(p.name for p in path.parent.glob("*.corrupt-*"))
    assert len(names) == sql_outbox.CORRUPT_FILES_MAX
    assert names[-1].endswith("1700000006000")


def test_a_missing_folder_is_waited_for(tmp_path: Path) -> None:
    outbox = open_outbox(tmp_path / "later" / "outbox.db")
    outbox.append(decision_record(0))
    assert not outbox.flush()
    assert outbox.stream is None
    (tmp_path / "later").mkdir()
    assert outbox.flush()
    assert items(outbox) == [0]
    outbox.close()


def _start_process(folder: Path, *words: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.support.outbox_process", f"--folder={folder}", *words]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_a_full_disk_is_counted_and_survived(tmp_path: Path) -> None:
    process = _start_process(tmp_path, "--items=30000", "--file-bytes-max=400000")
    try:
        assert process.stdout is not None
        lines = (line.split() for line in process.stdout)
        dropped = next(int(words[2]) for words in lines if words[0] == "disk" and words[2] != "0")
        assert process.poll() is None, "the appending thread goes on"
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert dropped > 0
    outbox = open_outbox(tmp_path / "outbox.db")
    held = items(outbox)
    assert held == list(range(len(held))), "what was committed is whole"
    assert len(held) > 500
    fill(outbox, 1)  # The disk is back
    outbox.close()


@pytest.mark.slow
def test_a_kill_leaves_all_that_was_committed(tmp_path: Path) -> None:
    process = _start_process(tmp_path, "--items=2000")
    assert process.stdout is not None
    committed = next(int(words[1]) for words in map(str.split, process.stdout) if words[0] == "all")
    process.send_signal(signal.SIGKILL)
    process.communicate()
    outbox = open_outbox(tmp_path / "outbox.db")
    assert committed == outbox.last_sequence == 2000
    assert items(outbox) == list(range(2000))
    outbox.close()


def test_appending_costs_the_caller_little(outbox: SqlOutbox) -> None:
    body = decision_record(0)
    started_s = time.perf_counter()
    for _ in range(1000):
        outbox.append(body)
    per_record_us = (time.perf_counter() - started_s) * 1000
    assert per_record_us < 100, "microseconds; measured 1 to 2 on a quiet machine"
