"""Readings: sensors' payloads, right and wrong."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.sources.readings import PAYLOAD_BYTES_MAX, parse_readings, read_payload
from shared.errors import ContractError
from shared.pipeline.sources import PayloadForm


def test_one_value() -> None:
    assert parse_readings(b'{"value": 1.5, "unit": "mm/s"}', channels_count=1).tolist() == [[1.5]]


def test_values_are_rows_one_after_another() -> None:
    rows = parse_readings(b'{"values": [1, 2, 3, 4, 5, 6]}', channels_count=3)
    assert rows.tolist() == [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]


def test_null_is_a_missing_value() -> None:
    rows = parse_readings(b'{"values": [1, null]}', channels_count=2)
    assert rows[0, 0] == 1.0
    assert np.isnan(rows[0, 1])
    assert np.isnan(parse_readings(b'{"value": null}', channels_count=1)).all()


@given(st.lists(st.floats(width=32, allow_infinity=False), min_size=1, max_size=50))
def test_binary_and_json_say_the_same(values: list[float]) -> None:
    array = np.array(values, "<f4")
    text = json.dumps({"values": [None if np.isnan(v) else v for v in array.tolist()]}).encode()
    np.testing.assert_array_equal(parse_readings(text, channels_count=1)[:, 0], array)
    np.testing.assert_array_equal(parse_readings(array.tobytes(), channels_count=1)[:, 0], array)


def test_binary_that_begins_like_json_is_still_read() -> None:
    array = np.frombuffer(b"{\x00\x80?" + b"\xff\xff\x80@", "<f4")
    np.testing.assert_array_equal(parse_readings(array.tobytes(), channels_count=2)[0], array)


@pytest.mark.parametrize(
    ("payload", "why"),
    [
        (b"", "0 numbers"),
        (b"{}", "neither"),
        (b'{"value": "high"}', "not the JSON"),
        (b'{"values": [1, 2, 3]}', "rows of 2"),
        (b'{"values": []}', "0 numbers"),
        (b'{"values": [1e300, 1]}', "infinite"),
        (b"{" * 40_000, "not the JSON"),
        (b"abc", "3 bytes"),
        (b'{"value": NaN}', "not the JSON"),
        (np.array([1.0, np.inf], "<f4").tobytes(), "infinite"),
        (b"\x00" * (PAYLOAD_BYTES_MAX + 4), "over"),
    ],
)
def test_what_cannot_be_read_is_refused_saying_why(payload: bytes, why: str) -> None:
    with pytest.raises(ContractError, match=why) as caught:
        parse_readings(payload, channels_count=2)
    assert caught.value.code == "source.payload"


@pytest.mark.parametrize(
    ("text", "times"),
    [
        ('{"value": 1}', None),
        ('{"value": 1, "time": 50.5}', [50.5]),
        ('{"values": [1, 2, 3], "time": 50, "interval_s": 0.5}', [49.0, 49.5, 50.0]),
        ('{"values": [1, 2], "times": [7, 9.5]}', [7.0, 9.5]),
    ],
)
def test_json_may_say_when(text: str, times: list[float] | None) -> None:
    readings = read_payload(text.encode(), PayloadForm.AUTO, channels_count=1)
    found = None if readings.times_s is None else readings.times_s.tolist()
    assert found == times


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('{"values": [1, 2], "time": 50}', "interval_s"),
        ('{"values": [1, 2], "times": [7]}', "1 times for 2 rows"),
        ('{"values": [1, 2], "time": 1e308, "interval_s": 1e308}', None),
        ('{"value": 1, "times": [1e999]}', "not the JSON"),
        ('{"values": [1, 2, 3], "time": -1e308, "interval_s": 1e308}', "not finite"),
    ],
)
def test_times_that_do_not_fit_are_refused(text: str, why: str | None) -> None:
    if why is None:
        times = read_payload(text.encode(), PayloadForm.AUTO, channels_count=1).times_s
        assert times is not None
        assert np.isfinite(times).all()
        return
    with pytest.raises(ContractError, match=why):
        read_payload(text.encode(), PayloadForm.AUTO, channels_count=1)


def test_binary_rows_with_their_times() -> None:
    table = np.zeros(2, np.dtype([("time", "<f8"), ("values", "<f4", (2,))]))
    table["time"] = (1.7e9, 1.7e9 + 0.001)
    table["values"] = ((1, 2), (3, np.nan))
    readings = read_payload(table.tobytes(), PayloadForm.TIMED_BINARY, channels_count=2)
    assert readings.times_s is not None
    assert readings.times_s.tolist() == table["time"].tolist()
    np.testing.assert_array_equal(readings.rows, table["values"])
    for bad in (b"", table.tobytes()[:-4], np.array([np.nan, 0.0], "<f8").tobytes()):
        with pytest.raises(ContractError):
            read_payload(bad, PayloadForm.TIMED_BINARY, channels_count=2)


def test_a_form_that_is_said_to_be_binary_is_never_read_as_json() -> None:
    payload = b'{"value":1}\n'
    readings = read_payload(payload, PayloadForm.BINARY, channels_count=3)
    assert readings.rows.tobytes() == payload


@pytest.mark.parametrize("form", PayloadForm)
@given(st.binary(max_size=100))
def test_no_form_raises_anything_else(form: PayloadForm, payload: bytes) -> None:
    try:
        readings = read_payload(payload, form, channels_count=2)
    except ContractError:
        return
    assert readings.times_s is None or readings.times_s.shape == readings.rows.shape[:1]


@given(st.binary(max_size=200), st.integers(1, 4))
def test_no_payload_raises_anything_else(payload: bytes, channels: int) -> None:
    try:
        rows = parse_readings(payload, channels_count=channels)
    except ContractError:
        return
    assert rows.shape[1] == channels
    assert not np.isinf(rows).any()
