"""Charts of a Job in the cloud: columns for uPlot, and a search's dots as SVG coordinates. Pure.

1. Several runs are drawn in one chart: the one that matters is strong, the others faint.
2. Numbers that are not finite are left out: JSON knows none.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from cloud_hub.dashboard.formats import setting
from cloud_hub.dashboard.job_charts import Dot, Tick
from cloud_hub.training.cloud.order import Choice, CloudOrder, Range
from cloud_hub.training.cloud.views import Curve, Trial

RUNS_DRAWN = 12  # Of many runs: each needs its events read
POINTS_MAX = 400  # Of one line
SCATTERS_MAX = 4
WIDTH, HEIGHT = 400.0, 190.0
LEFT, RIGHT, TOP, BOTTOM = 46.0, 14.0, 12.0, 28.0
TICKS = 4


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a chart. `tone` is "strong", "faint" or "second"."""

    label: str
    tone: str
    x: tuple[float, ...]
    y: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class RunCurve:
    """One run's curve, and whether it is the one to look at."""

    name: str
    curve: Curve
    is_main: bool


@dataclass(frozen=True, slots=True)
class TrialDot:
    """One trial in a scatter chart."""

    dot: Dot
    kind: str  # "best", "pruned" or ""


@dataclass(frozen=True, slots=True)
class ScatterChart:
    """Value against one setting."""

    path: str
    name: str
    dots: tuple[TrialDot, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    is_log: bool


def chart_lines(runs: Sequence[RunCurve]) -> dict[str, list[Line]]:
    """Return the lines of the three charts: "loss", "value" and "rate"."""
    ordered = sorted(runs, key=lambda run: run.is_main)  # What is drawn last is on top
    charts: dict[str, list[Line]] = {"loss": [], "value": [], "rate": []}
    for run in ordered:
        tone = "strong" if run.is_main else "faint"
        progress, looks = run.curve.progress, run.curve.evaluations
        charts["loss"].append(
            _line(run.name, tone, [(point.epoch, point.loss) for point in progress])
        )
        if run.is_main:
            tested = [(p.epoch, p.metrics["loss"]) for p in looks if "loss" in p.metrics]
            charts["loss"].append(_line(f"{run.name}, validation", "second", tested))
        charts["value"].append(_line(run.name, tone, [(p.epoch, p.value) for p in looks]))
        charts["rate"].append(
            _line(run.name, tone, [(point.epoch, point.learning_rate) for point in progress])
        )
    return {name: [line for line in lines if line.x] for name, lines in charts.items()}


def scatter_charts(order: CloudOrder, trials: Sequence[Trial]) -> tuple[ScatterChart, ...]:
    """Return value against each setting that a search tries; none while two values are missing."""
    known = [trial for trial in trials if trial.value is not None and math.isfinite(trial.value)]
    if order.search is None or len(known) < 2:
        return ()
    charts = []
    for path, values in sorted(order.search.space.items())[:SCATTERS_MAX]:
        is_log = isinstance(values, Range) and values.is_log
        place, ticks = _axis(path, values, is_log=is_log)
        charts.append(_scatter(path, known, place, ticks, is_log=is_log))
    return tuple(charts)


def _line(label: str, tone: str, points: Sequence[tuple[float, float]]) -> Line:
    """Return points as a line; of two at one epoch the later one counts, as after a restart."""
    found: dict[float, float] = {}
    for x, y in points:
        if math.isfinite(x) and math.isfinite(y):
            found[round(x, 4)] = float(f"{y:.6g}")
    ordered = sorted(found.items())
    stride = -(-len(ordered) // POINTS_MAX) if ordered else 1
    kept = ordered[::-stride][::-1]
    return Line(label, tone, tuple(x for x, _ in kept), tuple(y for _, y in kept))


def _scatter(
    path: str,
    trials: Sequence[Trial],
    place: Callable[[Trial], float],
    x_ticks: tuple[Tick, ...],
    *,
    is_log: bool,
) -> ScatterChart:
    values = [trial.value or 0.0 for trial in trials]
    low, high = min(values), max(values)
    room = (high - low) * 0.08 or max(abs(high) * 0.05, 0.01)
    low, high = low - room, high + room
    name = path.rpartition(".")[2].replace("_", " ")
    dots = [
        TrialDot(
            Dot(
                x=round(place(trial), 1),
                y=round(_y(trial.value or 0.0, low, high), 1),
                title=f"Trial {trial.index}: {name} {setting(trial.params.get(path))}, "
                f"value {trial.value or 0.0:.4f}{', pruned' if trial.is_pruned else ''}",
            ),
            "best" if trial.is_best else "pruned" if trial.is_pruned else "",
        )
        for trial in sorted(trials, key=lambda trial: trial.is_best)
    ]
    marks = [low + (high - low) * index / (TICKS - 1) for index in range(TICKS)]
    y_ticks = tuple(Tick(round(_y(mark, low, high), 1), f"{mark:.2g}") for mark in marks)
    return ScatterChart(path, name, tuple(dots), x_ticks, y_ticks, is_log)


def _axis(
    path: str, values: Range | Choice, *, is_log: bool
) -> tuple[Callable[[Trial], float], tuple[Tick, ...]]:
    """Return where a trial stands across the chart, and the marks below it."""
    if isinstance(values, Choice):
        names = [setting(value) for value in values.values]
        step = (WIDTH - LEFT - RIGHT) / len(names)
        places = {name: LEFT + step * (index + 0.5) for index, name in enumerate(names)}
        ticks = tuple(Tick(round(at, 1), name[:12]) for name, at in places.items())
        return lambda trial: places.get(setting(trial.params.get(path)), LEFT), ticks
    scale: Callable[[float], float] = math.log10 if is_log else float
    low, high = scale(values.low), scale(values.high)

    def along(number: float) -> float:
        share = (scale(number) - low) / (high - low)
        return LEFT + (WIDTH - LEFT - RIGHT) * min(1.0, max(0.0, share))

    def place(trial: Trial) -> float:
        value = trial.params.get(path)
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        return along(float(value)) if is_number and (value or not is_log) else LEFT  # type: ignore[arg-type]

    shares = [index / (TICKS - 1) for index in range(TICKS)]
    marks = [low + (high - low) * share for share in shares]
    numbers = [10.0**mark if is_log else mark for mark in marks]
    return place, tuple(Tick(round(along(n), 1), f"{n:.2g}") for n in numbers)


def _y(value: float, low: float, high: float) -> float:
    return HEIGHT - BOTTOM - (HEIGHT - BOTTOM - TOP) * (value - low) / (high - low)
