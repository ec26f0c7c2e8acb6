"""RollingWindow: rows of a sensor to windows. Pure.

1. The first window is complete with `samples` rows; each next one comes `step` rows later. A step
   above `samples` leaves rows out between windows.
2. A value that is missing or not finite repeats that channel's last one, for at most
   `hold_rows_max` rows in a row; one more empties the window. A channel without a last value
   yet cannot repeat it: the row is left out.
3. `cut` empties the window: no window ever spans a gap in time, a lost connection, or the seam of
   a looped file.
4. Everything is kept in one array of 2 x samples rows, each row written twice, so that the newest
   `samples` rows always lie together and a window is one copy.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from shared.pipeline.sources import WindowSettings


class RollingWindow:
    """See the rules above. Not shared between threads."""

    def __init__(self, settings: WindowSettings, *, channels_count: int) -> None:
        """Start empty."""
        self._settings = settings
        self._rows = np.zeros((2 * settings.samples, channels_count), dtype=np.float32)
        self._last = np.full(channels_count, np.nan, dtype=np.float32)
        self._rows_count = 0
        self._until_next = settings.samples
        self._held_rows = 0

    def push(self, values: Sequence[float] | NDArray[np.float32]) -> NDArray[np.float32] | None:
        """Add one row of (channels,) values; return a window (T, C) if one is complete now."""
        with np.errstate(over="ignore"):  # Infinite is missing, as rule 2 says
            row = np.asarray(values, dtype=np.float32)
        is_missing = ~np.isfinite(row)
        if is_missing.any():
            self._held_rows += 1
            if self._held_rows > self._settings.hold_rows_max:
                self.cut()
                return None
            row = np.where(is_missing, self._last, row)
            if not np.isfinite(row).all():
                return None
        else:
            self._held_rows = 0
        self._last = row
        return self._append(row)

    def cut(self) -> None:
        """Empty the window; see rule 3."""
        self._rows_count = 0
        self._until_next = self._settings.samples
        self._held_rows = 0
        self._last = np.full_like(self._last, np.nan)

    def _append(self, row: NDArray[np.float32]) -> NDArray[np.float32] | None:
        samples = self._settings.samples
        at = self._rows_count % samples
        self._rows[at] = self._rows[at + samples] = row
        self._rows_count += 1
        self._until_next -= 1
        if self._until_next:
            return None
        self._until_next = self._settings.step
        start = (at + 1) % samples
        return self._rows[start : start + samples].copy()
