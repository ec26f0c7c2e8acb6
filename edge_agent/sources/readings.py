"""Readings: a sensor's MQTT payload as rows of numbers. Pure.

1. JSON {"value": x} is one row of one channel.
2. JSON {"values": [...]} is rows one after another, each of as many numbers as there are channels.
   null stands for a missing value.
3. Anything that does not start with "{" is binary: little-endian float32, row after row, NaN for a
   missing value. (A binary payload that happens to start with 0x7B would be a first value whose
   lowest byte is "{": it is read as binary when it is not JSON.)
4. A payload has at most PAYLOAD_BYTES_MAX bytes and ROWS_MAX rows; numbers are finite or missing.
"""

import msgspec
import numpy as np
from numpy.typing import NDArray

from shared.errors import ContractError

PAYLOAD_BYTES_MAX = 256 * 1024
ROWS_MAX = 65_536


class _Reading(msgspec.Struct, frozen=True):
    """Other fields (a unit, a timestamp) are the sensor's own business."""

    value: float | msgspec.UnsetType | None = msgspec.UNSET
    values: list[float | None] | msgspec.UnsetType = msgspec.UNSET


def parse_readings(payload: bytes, *, channels_count: int) -> NDArray[np.float32]:
    """Return rows (n, channels), NaN for missing values.

    Raises ContractError `source.payload`.
    """
    if len(payload) > PAYLOAD_BYTES_MAX:
        raise _bad(f"it has {len(payload)} bytes, over {PAYLOAD_BYTES_MAX}")
    flat = _from_json(payload) if payload[:1] == b"{" else _from_binary(payload)
    rows_count, rest = divmod(flat.size, channels_count)
    if rest or not rows_count:
        raise _bad(f"it has {flat.size} numbers, which is not rows of {channels_count}")
    if rows_count > ROWS_MAX:
        raise _bad(f"it has {rows_count} rows, over {ROWS_MAX}")
    if np.isinf(flat).any():
        raise _bad("a number is infinite")
    return flat.reshape(rows_count, channels_count)


def _from_json(payload: bytes) -> NDArray[np.float32]:
    try:
        reading = msgspec.json.decode(payload, type=_Reading)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        if len(payload) % 4 == 0 and not payload.isascii():
            return _from_binary(payload)
        raise _bad(f"not the JSON that is expected: {error}") from error
    if isinstance(reading.values, list):
        values = reading.values
    elif not isinstance(reading.value, msgspec.UnsetType):
        values = [reading.value]
    else:
        raise _bad('it has neither "value" nor "values"')
    numbers = np.array([np.nan if v is None else v for v in values], dtype=np.float64)
    # What is too large for float32 becomes infinite and is refused by the caller.
    with np.errstate(over="ignore"):
        return numbers.astype(np.float32)


def _from_binary(payload: bytes) -> NDArray[np.float32]:
    if len(payload) % 4:
        raise _bad(f"neither JSON nor float32: {len(payload)} bytes")
    return np.frombuffer(payload, dtype="<f4").astype(np.float32)


def _bad(problem: str) -> ContractError:
    return ContractError(
        "source.payload",
        f"Cannot read the sensor's message: {problem}.",
        remedy='Publish {"value": 1.5}, {"values": [...]} or little-endian float32.',
    )
