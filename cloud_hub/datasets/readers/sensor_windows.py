"""WindowCutter: rows of sensors, one after another, into windows of one series. Pure.

1. A window holds `window` rows in a row; the next begins `stride` rows later.
2. No window crosses a gap in time, a row without a value, or a border of `block_rows`: there a new
   segment begins. Windows that share rows, and all windows of one block, are one group.
3. The moment of a window is that of its newest row.
"""

from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cloud_hub.datasets.readers.options import LabelRule, MissingRule, ReaderOptions


@dataclass(frozen=True, slots=True)
class Reading:
    """One row of a series."""

    line: int
    values: Sequence[float | None]  # One per channel; None: it is missing
    captured_ms: int | None
    label: str | None


@dataclass(frozen=True, slots=True)
class Window:
    """One window."""

    data: bytes  # float32 (T, C), C order, little-endian
    line: int  # Of its first row
    segment: int
    captured_ms: int | None
    label: str | None


class WindowCutter:
    """Cuts one series; see the rules above."""

    def __init__(self, options: ReaderOptions) -> None:
        self._options = options
        self._stride = options.stride or options.window
        self._rows: deque[Reading] = deque()
        self._skip = 0  # Rows between two windows, where the stride is the longer
        self._segment = 0
        self._rows_count = 0
        self._held_count = 0
        self._newest: Reading | None = None

    @property
    def has_groups(self) -> bool:
        """Return whether windows of one segment must stay together."""
        return self._stride < self._options.window or self._options.block_rows > 0

    def interrupt(self) -> None:
        """Let no window cross this moment: a row was lost."""
        self._rows_count += 1
        self._break()

    def push(self, reading: Reading) -> Window | None:
        """Take the next row; return the window that it completes."""
        block = self._options.block_rows
        is_border = block > 0 and self._rows_count % block == 0
        self._rows_count += 1
        if is_border or self._is_gap(reading):
            self._break()
        filled = self._filled(reading)
        self._newest = filled or reading
        if filled is None:
            self._break()
            return None
        if self._skip:
            self._skip -= 1
            return None
        self._rows.append(filled)
        return self._cut() if len(self._rows) == self._options.window else None

    def _is_gap(self, reading: Reading) -> bool:
        before = self._newest.captured_ms if self._newest is not None else None
        if before is None or reading.captured_ms is None:
            return False
        step_ms = reading.captured_ms - before
        allowed_s = self._options.gap_s_max
        return step_ms < 0 or (allowed_s > 0 and step_ms > allowed_s * 1e3)

    def _filled(self, reading: Reading) -> Reading | None:
        """Return the row with all values, or None if one is missing and none stands in."""
        if None not in reading.values:
            self._held_count = 0
            return reading
        before = self._rows[-1] if self._rows else None
        may_hold = self._options.missing is MissingRule.HOLD
        if not may_hold or before is None or self._held_count >= self._options.hold_rows_max:
            return None
        self._held_count += 1
        pairs = zip(reading.values, before.values, strict=True)
        values = [old if value is None else value for value, old in pairs]
        return Reading(reading.line, values, reading.captured_ms, reading.label)

    def _break(self) -> None:
        if self._rows or self._skip:
            self._segment += 1
        self._rows.clear()
        self._skip = 0
        self._held_count = 0

    def _cut(self) -> Window:
        rows = list(self._rows)
        for _ in range(min(self._stride, len(rows))):
            self._rows.popleft()
        self._skip = max(0, self._stride - len(rows))
        values = np.array([row.values for row in rows], "<f4")  # (T, C)
        label = label_of([row.label for row in rows], self._options)
        return Window(values.tobytes(), rows[0].line, self._segment, rows[-1].captured_ms, label)


def label_of(labels: Sequence[str | None], options: ReaderOptions) -> str | None:
    """Return a window's label by the rule; None where no row has one (LAST: the last)."""
    if options.label_rule is LabelRule.LAST:
        return labels[-1]
    counts = Counter(label for label in labels if label is not None)
    if options.label_rule is LabelRule.ANY:
        other = {label: n for label, n in counts.items() if label != options.normal_label}
        counts = Counter(other) if other else counts
    if not counts:
        return None
    return min(counts, key=lambda label: (-counts[label], label))
