"""The records protocol, both real ends over a bad channel: nothing lost, nothing twice."""

import logging
import shutil
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge_agent.telemetry.publisher import BATCHES_IN_FLIGHT_MAX
from shared.clock import SystemClock
from shared.wire.records import Watermark
from tests.support.record_channel import DEVICE, Pair
from tests.support.waiting import wait_until

MEMORY = Path("/dev/shm")  # Where there is one, so that thousands of commits take seconds


@pytest.fixture
def folder() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(dir=MEMORY if MEMORY.is_dir() else None))
    yield path
    shutil.rmtree(path)


@pytest.fixture
def pair(folder: Path, migrated_sqlite_file: Path) -> Iterator[Pair]:
    made = Pair(folder, migrated_sqlite_file)
    yield made
    made.close()


def test_records_arrive_once_each_and_leave_the_device(pair: Pair) -> None:
    pair.append(20)
    pair.flush()
    pair.settle()
    assert pair.items_at_hub() == Counter(range(20))
    assert pair.outbox.rows_count == 0
    assert pair.outbox.watermark == 20


def test_nothing_is_deleted_before_the_watermark(pair: Pair) -> None:
    pair.append(5)
    pair.flush()
    pair.publisher.step()
    pair.deliver_up()
    assert len(pair.held()) == 5  # Sent, stored by the hub, and still here
    pair.deliver_down()
    pair.publisher.step()
    assert sorted(pair.held()) == [4, 5]


def test_no_more_batches_are_out_than_the_limit(pair: Pair) -> None:
    pair.append(60)
    pair.flush()
    for _ in range(10):
        pair.publisher.step()
    assert len(pair.wire.up) == BATCHES_IN_FLIGHT_MAX
    assert [batch.since for batch in pair.wire.sent()] == [0, 3, 6, 9]


def test_a_batch_that_is_not_full_gathers_for_a_while(pair: Pair) -> None:
    sizes = []
    for _ in range(12):  # Half a second apart
        pair.append(1)
        pair.flush()
        pair.publisher.step()
        sizes += [len(batch.records) for batch in pair.wire.sent()]
        pair.deliver_up()
        pair.deliver_down()
        pair.clock.advance(0.5)
    assert sizes == [1, 2, 2, 2, 2, 2]
    pair.append(3)
    pair.flush()
    pair.publisher.step()
    assert len(pair.wire.up) == 1, "a full one goes at once"


def test_a_lost_batch_is_asked_for_and_sent_once_more(pair: Pair) -> None:
    pair.append(12)
    pair.flush()
    pair.publisher.step()
    pair.wire.up.popleft()
    for _ in range(3):  # The three behind it each make the hub ask
        pair.deliver_up()
    assert [(w.sequence, w.resend) for w in pair.wire.answers()] == [(0, True)] * 3
    pair.deliver_down()
    pair.publisher.step()
    assert [batch.since for batch in pair.wire.sent()] == [0, 3, 6, 9]
    pair.deliver_down()
    pair.deliver_down()
    pair.publisher.step()
    assert len(pair.wire.up) == 4, "the same request again is heard once"
    pair.settle()
    assert pair.items_at_hub() == Counter(range(12))


def test_a_lost_watermark_is_made_up_for_by_the_timer(pair: Pair) -> None:
    pair.append(3)
    pair.flush()
    pair.publisher.step()
    pair.deliver_up()
    pair.wire.down.clear()
    pair.publisher.step()
    assert not pair.wire.up
    pair.clock.advance(10.0)
    pair.settle()
    assert pair.items_at_hub() == Counter(range(3))
    assert pair.telemetry.counts.duplicates == 3


def test_a_new_connection_resends_at_once_what_may_be_lost(pair: Pair) -> None:
    pair.append(6)
    pair.flush()
    pair.publisher.step()
    pair.kill_broker()
    pair.publisher.step()  # No time has passed
    assert [batch.since for batch in pair.wire.sent()] == [0, 3]


def test_a_hub_that_is_away_is_sent_ever_less(pair: Pair) -> None:
    pair.append(30)
    pair.flush()
    pair.publisher.step()
    sent = []
    for _ in range(600):
        pair.wire.up.clear()
        pair.clock.advance(1.0)
        pair.publisher.step()
        sent.append(len(pair.wire.up))
    assert max(sent) == 1, "one batch at a time once the timer ran out"
    assert 8 <= sum(sent) <= 15, "the timer doubles: 10, 20, 40, 60, 60, ..."
    pair.settle()
    assert pair.items_at_hub() == Counter(range(30))


def test_a_slow_link_is_not_filled_with_copies(pair: Pair) -> None:
    pair.append(120)
    pair.flush()
    for second in range(3000):  # It carries one batch in 25 s
        pair.publisher.step()
        pair.clock.advance(1.0)
        if second % 25 == 24:
            pair.deliver_up()
            pair.deliver_down()
    assert pair.items_at_hub() == Counter(range(120))
    copies = pair.telemetry.counts.duplicates
    assert copies <= 24, f"{copies} copies of 120 records crossed the link"


def test_an_answer_to_a_batch_that_was_sent_twice_measures_nothing(pair: Pair) -> None:
    pair.append(3)
    pair.flush()
    pair.publisher.step()
    pair.clock.advance(10.0)
    pair.publisher.step()  # The copy, 5 s before the answer to the first
    pair.clock.advance(5.0)
    pair.deliver_up()
    pair.deliver_down()
    pair.publisher.step()
    pair.wire.up.clear()
    pair.append(3)
    pair.flush()
    pair.publisher.step()
    pair.clock.advance(19.0)  # Three times 5 s would be over, twice 10 s is not
    pair.publisher.step()
    assert len(pair.wire.up) == 1


def test_a_link_without_room_is_waited_for(pair: Pair) -> None:
    pair.append(3)
    pair.flush()
    pair.wire.has_room = False
    assert pair.publisher.step() is False
    assert not pair.wire.up
    pair.wire.has_room = True
    pair.settle()
    assert pair.items_at_hub() == Counter(range(3))


def test_a_record_that_cannot_be_sent_is_dropped_and_holds_up_none(
    folder: Path, migrated_sqlite_file: Path
) -> None:
    pair = Pair(folder, migrated_sqlite_file, batch_records_max=8)
    pair.wire.refused_items = {0, 5, 11}
    pair.append(12)
    pair.flush()
    pair.settle()
    assert pair.items_at_hub() == Counter(set(range(12)) - {0, 5, 11})
    assert pair.outbox.dropped_count == 3
    pair.close()


def test_run_publishes_until_stopped(pair: Pair) -> None:
    pair.publisher._clock = SystemClock()
    stop = threading.Event()
    thread = threading.Thread(target=pair.publisher.run, args=(stop,))
    pair.append(3)
    pair.flush()
    thread.start()
    wait_until(lambda: pair.wire.up)
    pair.deliver_up()
    pair.deliver_down()
    wait_until(lambda: pair.outbox.rows_count == 0)
    stop.set()
    pair.publisher.on_connected()  # Wakes it
    thread.join(5.0)
    assert not thread.is_alive()


def test_nothing_is_read_or_sent_while_the_link_is_down(pair: Pair) -> None:
    pair.append(3)
    pair.flush()
    pair.wire.is_connected = False
    pair.publisher.step()
    assert not pair.wire.up


def test_a_hub_restored_from_a_backup_goes_on_from_what_it_has(
    pair: Pair, caplog: pytest.LogCaptureFixture
) -> None:
    pair.append(6)
    pair.flush()
    pair.settle()
    backup = pair.back_up_hub()
    pair.append(6)
    pair.flush()
    pair.settle()
    pair.restore_hub(backup)  # Has 0..5; the device has deleted 0..11
    pair.append(6)
    pair.flush()
    with caplog.at_level(logging.WARNING):
        pair.settle()
    assert pair.items_at_hub() == Counter([*range(6), *range(12, 18)])
    assert "publisher.hub_went_back" in caplog.text
    (stream,) = pair.telemetry.streams(DEVICE)
    assert stream.missing_count == 6, "what the backup did not have is known to be missing"


def test_a_restored_hub_gets_what_the_device_still_holds(pair: Pair) -> None:
    backup = pair.back_up_hub()
    pair.append(6)
    pair.flush()
    pair.publisher.step()
    pair.deliver_up()
    pair.deliver_up()
    pair.wire.down.clear()  # Stored, but the device never heard
    pair.restore_hub(backup)
    pair.kill_broker()
    pair.settle()
    assert pair.items_at_hub() == Counter(range(6))


def test_a_wiped_device_starts_a_stream_that_does_not_collide(pair: Pair) -> None:
    pair.append(6)
    pair.flush()
    pair.settle()
    first = pair.outbox.stream
    pair.wipe_device()
    assert pair.outbox.stream != first
    pair.append(6)
    pair.flush()
    pair.settle()
    assert pair.items_at_hub() == Counter(range(12))
    assert len(pair.telemetry.streams(DEVICE)) == 2


def test_a_watermark_of_the_stream_before_the_wipe_deletes_nothing(pair: Pair) -> None:
    pair.append(6)
    pair.flush()
    first = pair.outbox.stream
    assert first is not None
    pair.wipe_device()
    pair.append(3)
    pair.flush()
    second = pair.outbox.stream
    for sequence in (2, 6):
        pair.publisher.on_watermark(Watermark(stream=first, sequence=sequence))
        pair.publisher.step()
    assert len(pair.held()) == 3
    assert pair.outbox.stream == second


def test_a_device_put_back_from_an_older_image_begins_a_new_stream(pair: Pair) -> None:
    pair.append(4)
    pair.flush()
    image = pair.folder / "image.db"
    pair.kill_device()  # So that the file alone is the whole of it
    shutil.copyfile(pair.outbox_path, image)
    pair.append(4)
    pair.flush()
    pair.settle()
    file = pair.outbox._file
    assert file is not None
    file.close()
    for path in pair.folder.glob("outbox.db*"):
        path.unlink()
    shutil.copyfile(image, pair.outbox_path)
    pair._start_device()
    first = pair.outbox.stream
    pair.append(2)  # Would be sequences 5 and 6, which the hub has seen already
    pair.flush()
    pair.settle()
    assert pair.outbox.stream != first
    assert set(pair.items_at_hub()) == set(range(10)), "the new ones are not taken for duplicates"


def test_what_was_dropped_while_in_flight_leaves_no_hole_to_wait_for(
    folder: Path, migrated_sqlite_file: Path
) -> None:
    pair = Pair(folder, migrated_sqlite_file, rows_max=6)
    pair.append(6)
    pair.flush()
    pair.publisher.step()
    pair.wire.up.clear()  # Lost on the way ...
    pair.append(5)
    pair.flush()  # ... and meanwhile dropped, all but the newest
    assert pair.outbox.dropped_count == 5
    pair.publisher.step()  # Goes on behind the lost ones
    pair.settle()
    assert pair.items_at_hub() == Counter(range(5, 11))
    (stream,) = pair.telemetry.streams(DEVICE)
    assert stream.missing_count == 5
    pair.close()


def test_a_crash_of_the_device_resends_from_the_watermark(pair: Pair) -> None:
    pair.append(9)
    pair.flush()
    pair.publisher.step()
    pair.deliver_up()
    pair.deliver_down()
    pair.publisher.step()
    pair.wire.up.clear()
    pair.kill_device()
    pair.publisher.step()
    assert pair.wire.sent()[0].since == 3
    pair.settle()
    assert pair.items_at_hub() == Counter(range(9))


ACTIONS = st.one_of(
    st.tuples(st.just("append"), st.integers(1, 7)),
    st.tuples(st.just("work"), st.integers(4, 12)),
    st.sampled_from(
        [
            ("flush", 0),
            ("step", 0),
            ("step", 0),
            ("up", 1),
            ("up", 1),
            ("up", 2),
            ("lose_up", 0),
            ("down", 1),
            ("down", 1),
            ("down", 2),
            ("lose_up", 0),
            ("lose_down", 0),
            ("kill_device", 0),
            ("kill_broker", 0),
            ("time", 11),
        ]
    ),
)


@pytest.mark.slow
@settings(
    max_examples=300,
    derandomize=True,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(actions=st.lists(ACTIONS, min_size=10, max_size=60), rows_max=st.sampled_from([8, 10_000]))
def test_whatever_happens_the_hub_ends_with_what_was_not_dropped(
    folder: Path, migrated_sqlite_file: Path, actions: list[tuple[str, int]], rows_max: int
) -> None:
    for path in folder.iterdir():
        path.unlink()
    pair = Pair(folder, migrated_sqlite_file, rows_max=rows_max)
    try:
        for action, number in actions:
            _act(pair, action, number)
        pair.flush()
        pair.settle()
        at_hub = pair.items_at_hub()
        assert set(at_hub.values()) <= {1}, "an item is there twice"
        committed = pair.outbox.last_sequence
        lost = committed - len(at_hub)
        assert lost <= pair.outbox.dropped_count, "more are missing than were dropped"
        if rows_max > 1000:
            assert set(at_hub) == set(pair.committed)
        streams = pair.telemetry.streams(DEVICE)
        if committed:
            assert streams[0].watermark == committed
            assert streams[0].missing_count == lost
    finally:
        pair.close()


def _act(pair: Pair, action: str, number: int) -> None:
    match action:
        case "append":
            pair.append(number)
        case "work":
            pair.append(number)
            pair.flush()
            pair.publisher.step()
        case "flush":
            pair.flush()
        case "step":
            pair.publisher.step()
        case "up":
            pair.deliver_up(times=number)
        case "lose_up" if pair.wire.up:
            pair.wire.up.popleft()
        case "down":
            pair.deliver_down(times=number)
        case "lose_down" if pair.wire.down:
            pair.wire.down.popleft()
        case "kill_device":
            pair.kill_device()
        case "kill_broker":
            pair.kill_broker()
        case "time":
            pair.clock.advance(float(number))
