"""SensorRings: the windows of many sensors, in one array. Pure.

1. Each sensor's rows become windows by the rules of windowing.py: the same holding, the same cuts,
   the same steps. Rows without a missing value are taken a block at a time.
2. All rows lie in one array (sensors, 2 x samples, channels), each row written twice, so that the
   newest `samples` rows of a sensor always lie together. It grows by doubling up to `sensors_max`.
3. A place that was freed is used again; it starts empty.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from shared.pipeline.sources import WindowSettings

Rows = NDArray[np.float32]

PLACES_AT_FIRST = 16


class SensorRings:
    """See the rules above. Not shared between threads."""

    def __init__(self, settings: WindowSettings, *, channels_count: int, sensors_max: int) -> None:
        """Start without a sensor."""
        self._settings = settings
        self._channels_count = channels_count
        self._sensors_max = sensors_max
        self._rows = self._new_rows(min(PLACES_AT_FIRST, sensors_max))
        # Plain lists: one number at a time is faster in them than in an array.
        self._counts: list[int] = []  # Rows since the last cut
        self._until_next: list[int] = []
        self._held_rows: list[int] = []
        self._free: list[int] = []

    def add(self) -> int | None:
        """Return the place of a new sensor, empty; None if there are `sensors_max`."""
        if self._free:
            place = self._free.pop()
            self.cut(place)
            return place
        place = len(self._counts)
        if place >= self._sensors_max:
            return None
        if place >= self._rows.shape[0]:
            grown = self._new_rows(min(2 * place, self._sensors_max))
            grown[:place] = self._rows
            self._rows = grown
        self._counts.append(0)
        self._until_next.append(self._settings.samples)
        self._held_rows.append(0)
        return place

    def free(self, place: int) -> None:
        """Give a sensor's place to others."""
        self._free.append(place)

    def cut(self, place: int) -> None:
        """Empty a sensor's window."""
        self._counts[place] = 0
        self._until_next[place] = self._settings.samples
        self._held_rows[place] = 0

    def push(self, place: int, rows: Rows) -> Iterator[Rows]:
        """Add (n, channels) rows of a sensor; give each window (T, C) that is complete with them.

        A window is a view, good until the next row is asked for.
        """
        if np.isfinite(rows).all():
            self._held_rows[place] = 0
            yield from self._append(place, rows)
            return
        for row in rows:
            held = self._held(place, row)
            if held is not None:
                yield from self._append(place, held[None])

    def _held(self, place: int, row: Rows) -> Rows | None:
        """Return `row` without missing values; None if it is left out. See windowing.py, 2."""
        is_there = np.isfinite(row)
        if is_there.all():
            self._held_rows[place] = 0
            return row
        self._held_rows[place] += 1
        if self._held_rows[place] > self._settings.hold_rows_max:
            self.cut(place)
            return None
        if not self._counts[place]:
            return None
        last = self._rows[place, (self._counts[place] - 1) % self._settings.samples]
        return np.where(is_there, row, last)

    def _append(self, place: int, rows: Rows) -> Iterator[Rows]:
        ring, samples = self._rows[place], self._settings.samples  # (2T, C)
        start, rows_count = 0, rows.shape[0]
        while start < rows_count:
            at = self._counts[place] % samples
            count = min(rows_count - start, self._until_next[place], samples - at)
            block = rows[start : start + count]
            ring[at : at + count] = block
            ring[at + samples : at + samples + count] = block
            start += count
            self._counts[place] += count
            self._until_next[place] -= count
            if not self._until_next[place]:
                self._until_next[place] = self._settings.step
                first = (at + count) % samples
                yield ring[first : first + samples]

    def _new_rows(self, places: int) -> Rows:
        shape = (places, 2 * self._settings.samples, self._channels_count)
        return np.zeros(shape, dtype=np.float32)
