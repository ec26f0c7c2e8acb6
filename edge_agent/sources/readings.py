"""Readings: a sensor's MQTT payload as rows of numbers, with times where it has them. Pure.

1. JSON {"value": x} is one row of one channel.
2. JSON {"values": [...]} is rows one after another, each of as many numbers as there are channels.
   null stands for a missing value.
3. JSON may say when: "time" is the last row's time in seconds since 1970, and "interval_s" what
   lies between two rows, needed where there are several; or "times" has one for each row.
4. "auto": anything that does not start with "{" is binary: little-endian float32, row after row,
   NaN for a missing value. (A binary payload that happens to start with 0x7B would be a first value
   whose lowest byte is "{": it is read as binary when it is not JSON.)
5. "binary" is never looked at as JSON. "timed-binary": each row is one little-endian float64, its
   time in seconds since 1970, and then its float32 values.
6. A payload has at most PAYLOAD_BYTES_MAX bytes and ROWS_MAX rows; numbers are finite or missing,
   times are finite.
"""

from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.typing import NDArray

from shared.errors import ContractError
from shared.pipeline.sources import PayloadForm

PAYLOAD_BYTES_MAX = 256 * 1024
ROWS_MAX = 65_536

Rows = NDArray[np.float32]
Times = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Readings:
    """Rows of one payload."""

    rows: Rows  # (n, channels), NaN for missing values
    times_s: Times | None = None  # (n,) seconds since 1970


class _Reading(msgspec.Struct, frozen=True):
    """Other fields (a unit, a name) are the sensor's own business."""

    value: float | msgspec.UnsetType | None = msgspec.UNSET
    values: list[float | None] | msgspec.UnsetType = msgspec.UNSET
    time: float | None = None
    interval_s: float | None = None
    times: list[float] | None = None


_DECODER = msgspec.json.Decoder(_Reading)


def parse_readings(payload: bytes, *, channels_count: int) -> Rows:
    """Return rows (n, channels) of a payload of the form "auto", NaN for missing values.

    Raises ContractError `source.payload`.
    """
    return read_payload(payload, PayloadForm.AUTO, channels_count=channels_count).rows


def read_payload(payload: bytes, form: PayloadForm, *, channels_count: int) -> Readings:
    """Return what a payload holds. Raises ContractError `source.payload`."""
    if len(payload) > PAYLOAD_BYTES_MAX:
        raise _bad(f"it has {len(payload)} bytes, over {PAYLOAD_BYTES_MAX}")
    if form is PayloadForm.TIMED_BINARY:
        return _from_timed_binary(payload, channels_count)
    if form is PayloadForm.BINARY or payload[:1] != b"{":
        return Readings(_checked(_from_binary(payload), channels_count))
    return _from_json(payload, channels_count)


def _checked(flat: Rows, channels_count: int) -> Rows:
    """Return flat numbers as rows."""
    rows_count, rest = divmod(flat.size, channels_count)
    if rest or not rows_count:
        raise _bad(f"it has {flat.size} numbers, which is not rows of {channels_count}")
    if rows_count > ROWS_MAX:
        raise _bad(f"it has {rows_count} rows, over {ROWS_MAX}")
    if np.isinf(flat).any():
        raise _bad("a number is infinite")
    return flat.reshape(rows_count, channels_count)


def _from_json(payload: bytes, channels_count: int) -> Readings:
    try:
        reading = _DECODER.decode(payload)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        if len(payload) % 4 == 0 and not payload.isascii():
            return Readings(_checked(_from_binary(payload), channels_count))
        raise _bad(f"not the JSON that is expected: {error}") from error
    if isinstance(reading.values, list):
        values = reading.values
    elif not isinstance(reading.value, msgspec.UnsetType):
        values = [reading.value]
    else:
        raise _bad('it has neither "value" nor "values"')
    # None becomes NaN. What is too large for float32 becomes infinite and is refused.
    with np.errstate(over="ignore"):
        flat = np.array(values, dtype=np.float64).astype(np.float32)
    rows = _checked(flat, channels_count)
    return Readings(rows, _json_times(reading, rows.shape[0]))


def _json_times(reading: _Reading, rows_count: int) -> Times | None:
    """Return when each row was; see rule 3."""
    if reading.times is not None:
        times: Times = np.array(reading.times, dtype=np.float64)
    elif reading.time is None:
        return None
    elif rows_count > 1 and reading.interval_s is None:
        raise _bad('it has several rows and a "time", and no "interval_s"')
    else:
        before = np.arange(1 - rows_count, 1)  # (n,) -n + 1 .. 0
        with np.errstate(over="ignore", invalid="ignore"):  # Looked at below
            steps_s = before * (reading.interval_s or 0.0)
            times = np.add(steps_s, reading.time, dtype=np.float64)
    if times.shape != (rows_count,):
        raise _bad(f"it has {times.size} times for {rows_count} rows")
    if not np.isfinite(times).all():
        raise _bad("a time is not finite")
    return times


def _from_binary(payload: bytes) -> Rows:
    if len(payload) % 4:
        raise _bad(f"neither JSON nor float32: {len(payload)} bytes")
    return np.frombuffer(payload, dtype="<f4").astype(np.float32, copy=False)


def _from_timed_binary(payload: bytes, channels_count: int) -> Readings:
    row_type = np.dtype([("time_s", "<f8"), ("values", "<f4", (channels_count,))])
    if len(payload) % row_type.itemsize:
        raise _bad(f"{len(payload)} bytes are not rows of {row_type.itemsize}")
    table = np.frombuffer(payload, dtype=row_type)
    values = np.ascontiguousarray(table["values"], dtype=np.float32)
    times = np.ascontiguousarray(table["time_s"], dtype=np.float64)
    if not np.isfinite(times).all():
        raise _bad("a time is not finite")
    return Readings(_checked(values.reshape(-1), channels_count), times)


def _bad(problem: str) -> ContractError:
    return ContractError(
        "source.payload",
        f"Cannot read the sensor's message: {problem}.",
        remedy='Publish {"value": 1.5}, {"values": [...]} or little-endian float32.',
    )
