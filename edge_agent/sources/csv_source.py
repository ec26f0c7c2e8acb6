"""CsvSource: a recording of sensors, replayed row by row as windows.

1. The first line names the columns. A cell that is empty or not a finite number is a missing value;
   what becomes of it is in windowing.py.
2. Times are seconds or ISO 8601 (without an offset: UTC). A row whose time cannot be read, or goes
   back, cuts the window; so does a pause above `gap_s_max`.
3. With `resample`, rows are made at a fixed rate by the times of the file (resampling.py); a window
   is given when the row that completed it was due. Its own `gap_s_max` cuts as well.
4. With `loop` the file starts again at its end; the window is cut at the seam.
"""

import csv
import math
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from edge_agent.sources.item import Window
from edge_agent.sources.pacer import Pacer
from edge_agent.sources.resampling import Resampler
from edge_agent.sources.windowing import RollingWindow
from shared.clock import Clock, now_ms
from shared.errors import ContractError
from shared.pipeline.sources import CsvSettings, Delivery

PAUSE_S_MAX = 3600.0  # A longer pause between two timestamps is not waited out
COLUMNS_SHOWN_MAX = 20
COLUMNS_TOLD_MAX = 4


@dataclass(frozen=True, slots=True)
class _Columns:
    """Where the wanted columns stand."""

    values: tuple[int, ...]
    time: int | None


class CsvSource:
    """Implements Source; see the rules above."""

    def __init__(self, settings: CsvSettings, clock: Clock) -> None:
        """Open nothing yet."""
        self._settings = settings
        self._clock = clock
        self._pacer = Pacer(clock)
        self._window = RollingWindow(settings.window, channels_count=len(settings.columns))
        self._file: IO[str] | None = None
        self._rows: Iterator[list[str]] = iter(())
        self._columns = _Columns((), None)
        self._last_time_s = math.nan
        self._recorded_s: float | None = None  # None: the file says no times
        self._sequence = 0
        self._windows_in_pass = 0
        self._resampler = None
        if settings.resample is not None:
            channels_count = len(settings.columns)
            self._resampler = Resampler(settings.resample, channels_count=channels_count)
        self._made: deque[NDArray[np.float32]] = deque()  # Windows of the last row

    @property
    def is_every_item(self) -> bool:
        """Whether every item counts."""
        return self._settings.delivery is Delivery.EVERY

    @property
    def description(self) -> str:
        """Return what it is, with its first columns."""
        columns = self._settings.columns
        more = ", ..." if len(columns) > COLUMNS_TOLD_MAX else ""
        return f"the file {self._settings.path} ({', '.join(columns[:COLUMNS_TOLD_MAX])}{more})"

    def open(self) -> None:
        """Open the file and find the columns.

        Raises ContractError `source.missing`, `source.column` or `source.undecodable`.
        """
        self.close()
        path = Path(self._settings.path)
        try:
            self._file = path.open(encoding="utf-8-sig", newline="")
        except OSError as error:
            raise ContractError(
                "source.missing", f"Cannot read {path}: {error.strerror}.", remedy="Check the path."
            ) from error
        self._rows = csv.reader(self._file)
        header = self._next_row() or []
        time_column = self._settings.time_column
        self._columns = _Columns(
            values=tuple(self._find(name, header) for name in self._settings.columns),
            time=self._find(time_column, header) if time_column else None,
        )
        self._cut()
        self._made.clear()
        self._last_time_s = math.nan
        self._windows_in_pass = 0

    def read(self, stop: threading.Event) -> Window | None:
        """Return the next window when its last row is due."""
        while not stop.is_set():
            if self._made:
                self._windows_in_pass += 1
                self._sequence += 1
                at_s = self._clock.monotonic_s()
                samples, at_ms = self._made.popleft(), now_ms(self._clock)
                return Window(samples, self._sequence - 1, at_ms, at_s, self._recorded_s)
            row = self._next_row()
            if row is None:
                if not self._starts_again():
                    return None
                continue
            if not self._wait(row, stop):
                return None
            self._push(self._values(row))
        return None

    def close(self) -> None:
        """Let the file go."""
        if self._file is not None:
            self._file.close()
            self._file = None
        self._rows = iter(())

    def _push(self, values: list[float]) -> None:
        """Make the windows that a row completes."""
        if self._resampler is None:
            made = [self._window.push(values)]
        else:
            resampled = self._resampler.push(self._last_time_s, values)
            if resampled.is_cut:
                self._window.cut()
            made = [self._window.push(row) for row in resampled.rows]
        self._made.extend(window for window in made if window is not None)

    def _cut(self) -> None:
        self._window.cut()
        if self._resampler is not None:
            self._resampler.cut()

    def _starts_again(self) -> bool:
        """Whether there is another pass; a pass without a window would go on for ever."""
        if not self._windows_in_pass:
            raise ContractError(
                "source.empty",
                f"{self._settings.path} has no {self._settings.window.samples} good rows together.",
                remedy="Use a shorter window, or check the values: numbers are written like 1.5.",
            )
        if self._settings.loop:
            self.open()
        return self._settings.loop

    def _next_row(self) -> list[str] | None:
        """Return the next row that is not empty; None at the end."""
        try:
            return next((row for row in self._rows if row), None)
        except (csv.Error, UnicodeDecodeError) as error:
            raise ContractError(
                "source.undecodable", f"{self._settings.path} is not CSV in UTF-8: {error}."
            ) from error

    def _find(self, name: str, header: Sequence[str]) -> int:
        names = [column.strip() for column in header]
        if name in names:
            return names.index(name)
        shown = ", ".join(names[:COLUMNS_SHOWN_MAX]) or "none"
        more = ", ..." if len(names) > COLUMNS_SHOWN_MAX else ""
        raise ContractError(
            "source.column",
            f"{self._settings.path} has no column {name!r}.",
            remedy=f"Its columns are: {shown}{more}. A comma divides them, nothing else.",
        )

    def _values(self, row: Sequence[str]) -> list[float]:
        return [_number(row[at]) if at < len(row) else math.nan for at in self._columns.values]

    def _wait(self, row: Sequence[str], stop: threading.Event) -> bool:
        """Wait until `row` is due; cut the window where time is broken. False if `stop` was set."""
        at = self._columns.time
        if at is None:
            rate_hz = self._settings.rate_hz
            if rate_hz:
                self._pass_s(1.0 / rate_hz)
            return self._pacer.wait(1.0 / rate_hz if rate_hz else 0.0, stop)
        time_s = _time_s(row[at]) if at < len(row) else math.nan
        pause_s = time_s - self._last_time_s
        self._last_time_s = time_s
        gap_s_max = self._settings.window.gap_s_max
        if not pause_s >= 0 or (gap_s_max and pause_s > gap_s_max):
            self._cut()
        self._pass_s(max(pause_s, 0.0) if math.isfinite(pause_s) else 0.0)
        wait_s = min(pause_s, PAUSE_S_MAX) / self._settings.speed if pause_s > 0 else 0.0
        return self._pacer.wait(wait_s, stop)

    def _pass_s(self, seconds: float) -> None:
        self._recorded_s = (self._recorded_s or 0.0) + seconds


def _number(text: str) -> float:
    """Return a cell as a number, NaN if it is none."""
    try:
        return float(text)
    except ValueError:
        return math.nan


def _time_s(text: str) -> float:
    """Return a cell as seconds since 1970, NaN if it is no time."""
    seconds = _number(text)
    if math.isfinite(seconds):
        return seconds
    try:
        at = datetime.fromisoformat(text.strip())
    except ValueError:
        return math.nan
    return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()
