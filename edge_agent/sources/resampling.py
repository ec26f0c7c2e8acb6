"""Resampler: readings at any time to rows at a fixed rate. Pure.

1. Rows lie on a grid of whole multiples of 1 / `rate_hz` seconds since 1970, so that sensors and
   restarts agree about it.
2. linear: a row is on the line between the readings around it. hold: it is the reading at its time
   or the last before. mean: it is the mean of the readings after the row before, up to its time;
   without any it is missing (windowing.py says what becomes of it).
3. A missing value is left out channel by channel: for linear and hold the row has none either, as
   long as a reading that it rests on has none.
4. A reading more than `gap_s_max` after the one before it, or before it in time, cuts: rows start
   anew with it, and no row is made between. A second reading of the same time replaces the first
   (mean: joins it).
5. A row is made once the reading after it is there: never from the future, always the same whatever
   the messages were cut into.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shared.pipeline.sources import ResampleMethod, ResampleSettings

Row = NDArray[np.float32]

ON_GRID = 1e-3  # Of a period: a reading so near to a grid time is at it
TIME_S_MAX = 1e11  # Since 1970; what is beyond is no time


@dataclass(frozen=True, slots=True)
class Resampled:
    """What one reading added."""

    rows: NDArray[np.float32]  # (n, channels)
    is_cut: bool = False  # What came before does not belong with these


class Resampler:
    """See the rules above. Not shared between threads."""

    def __init__(self, settings: ResampleSettings, *, channels_count: int) -> None:
        """Start before the first reading."""
        self._settings = settings
        self._nothing = np.empty((0, channels_count), dtype=np.float32)
        self.cut()

    def cut(self) -> None:
        """Forget the last reading: a connection was lost, or a payload could not be read."""
        self._last_s = math.nan
        self._last: Row = self._nothing
        self._bin: list[Row] = []  # mean: readings since the last row

    def push(self, time_s: float, values: Sequence[float] | Row) -> Resampled:
        """Add a reading of (channels,) values; return the rows that it completed."""
        with np.errstate(over="ignore"):
            row = np.asarray(values, dtype=np.float32)
        row = np.where(np.isinf(row), np.float32(np.nan), row)  # Too large is missing
        time_s = time_s if abs(time_s) <= TIME_S_MAX else math.nan
        pause_s = time_s - self._last_s
        if math.isnan(self._last_s) or not 0.0 <= pause_s <= self._settings.gap_s_max:
            was_there = not math.isnan(self._last_s)
            return self._start(time_s, row, is_cut=was_there)
        if self._settings.method is ResampleMethod.MEAN:
            rows = self._mean_rows(time_s, row)
        else:
            rows = self._rows_between(time_s, row)
        self._last_s, self._last = time_s, row
        return Resampled(rows)

    def _start(self, time_s: float, row: Row, *, is_cut: bool) -> Resampled:
        self.cut()
        if math.isnan(time_s):
            return Resampled(self._nothing, is_cut=is_cut)
        self._last_s, self._last, self._bin = time_s, row, [row]
        return Resampled(self._nothing, is_cut=is_cut)

    def _grid(self, until_s: float) -> NDArray[np.float64]:
        """Return the grid times from the last reading on, without `until_s`."""
        rate_hz = self._settings.rate_hz
        first = math.ceil(self._last_s * rate_hz - ON_GRID)
        end = math.ceil(until_s * rate_hz - ON_GRID)
        return np.arange(first, end, dtype=np.float64) / rate_hz

    def _rows_between(self, time_s: float, row: Row) -> NDArray[np.float32]:
        grid = self._grid(time_s)  # (n,)
        if not grid.size:
            return self._nothing
        if self._settings.method is ResampleMethod.HOLD:
            return np.repeat(self._last[None], grid.size, axis=0)
        share = np.clip((grid - self._last_s) / (time_s - self._last_s), 0.0, 1.0)[:, None]
        before, after = self._last.astype(np.float64), row.astype(np.float64)
        between = before * (1.0 - share) + after * share  # (n, channels)
        # On the reading itself the next one has no part, missing or not.
        rows: NDArray[np.float32] = np.where(share == 0.0, before, between).astype(np.float32)
        return rows

    def _mean_rows(self, time_s: float, row: Row) -> NDArray[np.float32]:
        count = self._grid(time_s).size
        if not count:
            self._bin.append(row)
            return self._nothing
        rows = np.full((count, row.size), np.nan, dtype=np.float32)
        rows[0] = _mean(self._bin)
        self._bin = [row]
        return rows


def _mean(readings: Sequence[Row]) -> Row:
    """Return the mean of each channel's values that are there, NaN where none is."""
    stacked = np.array(readings, dtype=np.float64)  # (n, channels)
    is_there = np.isfinite(stacked)
    counts = is_there.sum(axis=0)
    sums = np.where(is_there, stacked, 0.0).sum(axis=0)
    means = np.divide(sums, counts, out=np.full(sums.shape, np.nan), where=counts > 0)
    return np.asarray(means, dtype=np.float32)
