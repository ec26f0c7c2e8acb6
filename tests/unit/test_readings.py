"""Readings: sensors' payloads, right and wrong."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.sources.readings import PAYLOAD_BYTES_MAX, parse_readings
from shared.errors import ContractError


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


@given(st.binary(max_size=200), st.integers(1, 4))
def test_no_payload_raises_anything_else(payload: bytes, channels: int) -> None:
    try:
        rows = parse_readings(payload, channels_count=channels)
    except ContractError:
        return
    assert rows.shape[1] == channels
    assert not np.isinf(rows).any()
