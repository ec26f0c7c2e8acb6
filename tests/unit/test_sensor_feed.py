"""SensorRings and SensorFeed: many sensors give what each would give alone."""

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.sources.sensor_feed import SensorFeed, SensorWindows
from edge_agent.sources.sensor_rings import SensorRings
from edge_agent.sources.windowing import RollingWindow
from shared.pipeline.sources import (
    BatchSettings,
    MqttSettings,
    PayloadForm,
    ResampleSettings,
    WindowSettings,
)

NAN = math.nan
VALUES = st.floats(-10, 10, width=32) | st.just(NAN)
BLOCKS = st.lists(
    st.tuples(
        st.integers(0, 3),
        st.lists(st.tuples(VALUES, VALUES), min_size=1, max_size=12) | st.just([]),
    ),
    max_size=40,
)


@given(
    blocks=BLOCKS,
    samples=st.integers(1, 6),
    step=st.integers(1, 9),
    hold=st.integers(0, 3),
)
def test_rings_say_what_a_window_of_each_sensor_alone_says(
    blocks: list[tuple[int, list[tuple[float, float]]]], samples: int, step: int, hold: int
) -> None:
    settings = WindowSettings(samples=samples, step=step, hold_rows_max=hold)
    rings = SensorRings(settings, channels_count=2, sensors_max=4)
    alone = [RollingWindow(settings, channels_count=2) for _ in range(4)]
    places = [rings.add() for _ in range(4)]
    for sensor, rows in blocks:
        place = places[sensor]
        assert place is not None
        if not rows:  # A cut
            rings.cut(place)
            alone[sensor].cut()
            continue
        pushed = (alone[sensor].push(row) for row in rows)
        expected = [window for window in pushed if window is not None]
        found = [window.copy() for window in rings.push(place, np.array(rows, np.float32))]
        np.testing.assert_array_equal(found, expected)


def test_places_grow_end_and_are_used_again_empty() -> None:
    rings = SensorRings(WindowSettings(samples=2), channels_count=1, sensors_max=40)
    places = [rings.add() for _ in range(40)]
    assert places == list(range(40))
    assert rings.add() is None
    assert not list(rings.push(39, np.array([[1.0]], np.float32)))
    rings.free(39)
    assert rings.add() == 39
    assert not list(rings.push(39, np.array([[2.0]], np.float32)))
    (window,) = rings.push(39, np.array([[3.0]], np.float32))
    assert window[:, 0].tolist() == [2.0, 3.0]


def feed_of(**options: object) -> SensorFeed:
    return SensorFeed(
        MqttSettings(
            **{
                "topic": "p/{sensor}",
                "window": WindowSettings(samples=2, step=2),
                "batch": BatchSettings(windows_max=3, wait_s_max=0.5),
                **options,
            }  # type: ignore[arg-type]
        )
    )


def send(feed: SensorFeed, name: str, *values: float, at_s: float = 0.0) -> list[SensorWindows]:
    payload = np.array(values, "<f4").tobytes()
    return list(feed.feed(name, payload, at_s, wall_s=1e9 + at_s))


def test_windows_wait_for_each_other_up_to_a_full_batch() -> None:
    feed = feed_of()
    assert send(feed, "a", 1, 2, at_s=1.0) == []
    assert send(feed, "b", 3, 4, 5, at_s=1.1) == []
    (batch,) = send(feed, "a", 6, 7, 8, 9, at_s=1.2)
    assert batch.sensors == ("a", "b", "a")
    assert batch.samples[:, :, 0].tolist() == [[1, 2], [3, 4], [6, 7]]
    assert batch.at_s == 1.2
    rest = feed.take(1.7)
    assert rest is not None
    assert (rest.sensors, rest.samples[:, :, 0].tolist()) == (("a",), [[8, 9]])


def test_a_batch_goes_when_its_first_window_waited_long_enough() -> None:
    feed = feed_of()
    assert feed.due_s() is None
    assert feed.take(9.0) is None
    send(feed, "a", 1, 2, at_s=10.0)
    send(feed, "b", 1, 2, at_s=10.4)
    assert feed.due_s() == 10.5
    assert feed.take(10.49) is None
    batch = feed.take(10.5)
    assert batch is not None
    assert batch.sensors == ("a", "b")
    assert feed.take(99.0) is None


def test_a_batch_is_not_changed_by_what_comes_later() -> None:
    feed = feed_of(batch=BatchSettings(windows_max=1))
    (first,) = send(feed, "a", 1, 2)
    send(feed, "a", 3, 4)
    assert first.samples[0, :, 0].tolist() == [1.0, 2.0]


def test_what_cannot_be_read_cuts_its_own_sensor_only() -> None:
    feed = feed_of()
    send(feed, "a", 1)
    send(feed, "b", 1)
    assert list(feed.feed("a", b"{broken", 0.0, wall_s=0.0)) == []
    assert feed.bad_messages_count == 1
    send(feed, "a", 2)
    send(feed, "b", 2)
    batch = feed.take(1.0)
    assert batch is not None
    assert batch.sensors == ("b",)


def test_a_pause_of_one_sensor_cuts_that_one_only() -> None:
    feed = feed_of(window=WindowSettings(samples=2, gap_s_max=5.0))
    send(feed, "a", 1, at_s=0.0)
    send(feed, "b", 1, at_s=0.0)
    send(feed, "b", 2, at_s=4.0)
    send(feed, "a", 2, at_s=6.0)
    batch = feed.take(10.0)
    assert batch is not None
    assert batch.sensors == ("b",)


def test_too_many_sensors_are_counted_and_a_silent_one_gives_its_place() -> None:
    feed = feed_of(sensors_max=2, forget_s=60.0)
    for name in "abc":
        send(feed, name, 1, at_s=0.0)
    assert (feed.sensors_count, feed.lost_messages_count) == (2, 1)
    send(feed, "b", 2, at_s=50.0)
    assert send(feed, "c", 3, at_s=70.0) == []
    assert (feed.sensors_count, feed.lost_messages_count) == (2, 1)
    send(feed, "a", 4, at_s=70.1)
    assert feed.lost_messages_count == 2
    send(feed, "c", 5, at_s=70.2)
    batch = feed.take(80.0)
    assert batch is not None
    assert batch.sensors == ("b", "c")
    assert batch.samples[1, :, 0].tolist() == [3.0, 5.0]  # Nothing of the sensor before it


@pytest.mark.parametrize("name", ["", "x" * 121])
def test_a_sensor_without_a_usable_name_is_lost(name: str) -> None:
    feed = feed_of()
    assert send(feed, name, 1, 2) == []
    assert (feed.sensors_count, feed.lost_messages_count) == (0, 1)


def test_rows_with_times_are_resampled_each_sensor_by_itself() -> None:
    feed = feed_of(resample=ResampleSettings(rate_hz=1.0))
    text = json.dumps({"values": [0, 4, 8], "time": 8.0, "interval_s": 4.0}).encode()
    (full,) = feed.feed("a", text, 0.0, wall_s=5e8)
    assert full.sensors == ("a", "a", "a")
    assert full.samples[:, :, 0].tolist() == [[0, 1], [2, 3], [4, 5]]
    feed = feed_of(resample=ResampleSettings(rate_hz=1.0), payload=PayloadForm.TIMED_BINARY)
    table = np.array([(0.0, 0.0), (4.0, 4.0)], np.dtype([("t", "<f8"), ("v", "<f4")]))
    assert list(feed.feed("b", table.tobytes(), 0.0, wall_s=5e8)) == []
    batch = feed.take(1.0)
    assert batch is not None
    assert batch.samples[:, :, 0].tolist() == [[0, 1], [2, 3]]


def test_without_times_in_the_payload_rows_are_of_when_they_came() -> None:
    feed = feed_of(resample=ResampleSettings(rate_hz=1.0))
    for at_s, value in ((0.0, 0.0), (2.0, 2.0), (2.5, 2.5)):
        send(feed, "a", value, at_s=at_s)
    batch = feed.take(9.0)
    assert batch is not None
    assert batch.samples[:, :, 0].tolist() == [[0.0, 1.0]]


def test_more_sensors_than_there_is_room_for_are_logged_once_a_minute(
    caplog: pytest.LogCaptureFixture,
) -> None:
    feed = feed_of(sensors_max=1, forget_s=3600.0)
    for second in range(120):
        for name in "abc":
            list(feed.feed(name, b'{"value": 1}', float(second), wall_s=float(second)))
    assert feed.lost_messages_count == 240
    assert [record.getMessage() for record in caplog.records] == ["source.sensors_full"] * 2
