"""Drawings of a Job made on the hub, as SVG coordinates: lines over Rounds, accuracies of devices.

Pure. A drawing's size is fixed, so that its text stays as large as the page's; pages show drawings
side by side where there is room.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from cloud_hub.training.spread import AccuracySpread, Distribution

WIDTH, HEIGHT = 400.0, 190.0
LEFT, RIGHT, TOP, BOTTOM = 46.0, 14.0, 12.0, 28.0
TICKS_MAX = 5
ROUND_TICKS_MAX = 8
STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)  # Of ticks, times a power of ten
ROW_TOP, ROW_HEIGHT = 30.0, 62.0  # Of the two rows of a distribution
DOT_ROWS = 5  # Dots of one row are shifted, so that equal ones do not hide each other
DOT_STEP = 5.0
DOTS_MAX = 400


@dataclass(frozen=True, slots=True)
class Tick:
    """A mark on an axis."""

    at: float
    text: str


@dataclass(frozen=True, slots=True)
class Dot:
    """One value."""

    x: float
    y: float
    title: str


@dataclass(frozen=True, slots=True)
class LineChart:
    """A number over Rounds."""

    points: str  # Of an SVG polyline
    dots: tuple[Dot, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    newest: str


@dataclass(frozen=True, slots=True)
class DotRow:
    """Every device's accuracy at one time, with the quartiles."""

    name: str
    y: float
    dots: tuple[Dot, ...]
    box_x: float
    box_width: float
    median_x: float
    median_text: str


@dataclass(frozen=True, slots=True)
class SpreadChart:
    """Accuracy per device before and after, over the same axis."""

    rows: tuple[DotRow, ...]
    x_ticks: tuple[Tick, ...]
    hidden_count: int


def line_chart(
    values: Sequence[tuple[int, float | None]], *, rounds: int, is_share: bool = False
) -> LineChart | None:
    """Return a number over Rounds, the axis as long as the order; None while there is no value."""
    known = [(number, value) for number, value in values if value is not None]
    if not known:
        return None
    low = min(0.0, *(value for _, value in known)) if not is_share else 0.0
    high = 1.0 if is_share else max(*(value for _, value in known), low + 1e-9, 1e-9)
    marks = _ticks(low, high)
    top = 1.0 if is_share else max(marks[-1], high)
    last = max(rounds, *(number for number, _ in known))
    dots = tuple(
        Dot(
            x=round(_along(number, 1, last, LEFT, WIDTH - RIGHT), 1),
            y=round(_along(value, low, top, HEIGHT - BOTTOM, TOP), 1),
            title=f"Round {number}: {_written(value, is_share)}",
        )
        for number, value in known
    )
    return LineChart(
        points=" ".join(f"{dot.x},{dot.y}" for dot in dots),
        dots=dots,
        x_ticks=tuple(
            Tick(round(_along(n, 1, last, LEFT, WIDTH - RIGHT), 1), str(n)) for n in _rounds(last)
        ),
        y_ticks=tuple(
            Tick(
                round(_along(mark, low, top, HEIGHT - BOTTOM, TOP), 1),
                f"{mark * 100:.0f} %" if is_share else f"{mark:g}",
            )
            for mark in marks
        ),
        newest=_written(known[-1][1], is_share),
    )


def spread_chart(spread: AccuracySpread) -> SpreadChart | None:
    """Return every device's accuracy before and after; None while no device has told."""
    rows = []
    shown = spread.devices[:DOTS_MAX]
    times = (
        ("before", spread.before, [(d.device_id, d.before) for d in shown]),
        ("after", spread.after, [(d.device_id, d.after) for d in shown]),
    )
    for index, (name, over, values) in enumerate(times):
        if over is not None:
            told = [(device, value) for device, value in values if value is not None]
            rows.append(_dot_row(name, over, told, y=ROW_TOP + index * ROW_HEIGHT))
    if not rows:
        return None
    ticks = tuple(Tick(round(_share_x(n / 4), 1), f"{n * 25} %") for n in range(5))
    return SpreadChart(tuple(rows), ticks, max(0, len(spread.devices) - DOTS_MAX))


def _dot_row(
    name: str, over: Distribution, told: Sequence[tuple[str, float]], *, y: float
) -> DotRow:
    dots = tuple(
        Dot(
            x=round(_share_x(value), 1),
            y=round(y + (index % DOT_ROWS - DOT_ROWS // 2) * DOT_STEP, 1),
            title=f"{device}: {value * 100:.1f} % {name}",
        )
        for index, (device, value) in enumerate(sorted(told, key=lambda pair: pair[1]))
    )
    left, right = _share_x(over.quartile_1), _share_x(over.quartile_3)
    return DotRow(
        name=name,
        y=y,
        dots=dots,
        box_x=round(left, 1),
        box_width=round(max(right - left, 1.0), 1),
        median_x=round(_share_x(over.median), 1),
        median_text=f"{over.median * 100:.0f} %",
    )


def _share_x(value: float) -> float:
    return _along(value, 0.0, 1.0, LEFT + 8, WIDTH - RIGHT - 8)


def _along(value: float, low: float, high: float, start: float, end: float) -> float:
    return start + (end - start) * ((value - low) / (high - low) if high > low else 0.5)


def _ticks(low: float, high: float) -> list[float]:
    """Return round numbers from `low` to at least `high`."""
    raw = (high - low) / (TICKS_MAX - 1)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(s * power for s in STEPS if s * power >= raw * (1 - 1e-9))
    first = math.floor(low / step)
    count = math.ceil((high / step) * (1 - 1e-9)) - first
    return [(first + index) * step for index in range(count + 1)]


def _rounds(last: int) -> list[int]:
    step = max(1, math.ceil(last / ROUND_TICKS_MAX))
    return list(range(1, last + 1, step))


def _written(value: float, is_share: bool) -> str:
    return f"{value * 100:.1f} %" if is_share else f"{value:.3g}"
