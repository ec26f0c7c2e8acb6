"""Times in CSV files as milliseconds since 1970 UTC. Pure."""

import math
from collections.abc import Sequence
from datetime import UTC, datetime
from types import MappingProxyType

from cloud_hub.datasets.readers.options import TimeUnit

USUAL_NAMES = ("timestamp", "time", "datetime", "date_time", "date", "ts", "captured_ms")
MS_PER_UNIT = MappingProxyType(
    {
        TimeUnit.SECONDS: 1e3,
        TimeUnit.MILLISECONDS: 1.0,
        TimeUnit.MICROSECONDS: 1e-3,
        TimeUnit.NANOSECONDS: 1e-6,
    }
)
MS_MAX = 2.0**53
CELL_CHARS_MAX = 64


def to_ms(cells: Sequence[str], unit: TimeUnit) -> int | None:
    """Return a moment, or None if the cells hold none that is after 1970.

    Args:
        cells: one with ISO 8601 or a number; three to six with year, month, day, hour, minute,
            second.
        unit: of a number.
    """
    if any(len(cell) > CELL_CHARS_MAX for cell in cells):
        return None
    try:
        if len(cells) > 1:
            numbers = [int(float(cell)) for cell in cells]
            return _ms(datetime(*numbers, tzinfo=UTC))  # type: ignore[arg-type,misc] # 3 to 6
        return _of_cell(cells[0].strip(), unit)
    except (ValueError, OverflowError, TypeError):
        return None


def _of_cell(text: str, unit: TimeUnit) -> int | None:
    try:
        number = float(text)
    except ValueError:
        moment = datetime.fromisoformat(text)
        return _ms(moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC))
    milliseconds = number * MS_PER_UNIT[unit]
    return round(milliseconds) if math.isfinite(number) and 0 <= milliseconds < MS_MAX else None


def _ms(moment: datetime) -> int | None:
    milliseconds = round(moment.timestamp() * 1e3)
    return milliseconds if milliseconds >= 0 else None
