"""Small drawings made on the hub: sparklines and strips of states as SVG coordinates. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

SPARK_WIDTH = 104.0
SPARK_HEIGHT = 26.0
SPARK_MARGIN = 3.0
STRIP_UNITS = 1000.0
# From done to not yet begun: a strip fills from the left.
STRIP_ORDER = (
    "updated",
    "undone",
    "failed",
    "unknown",
    "undoing",
    "updating",
    "targeted",
    "waiting",
    "removed",
)


@dataclass(frozen=True, slots=True)
class Spark:
    """A line of a few values; `points` is an SVG polyline's."""

    points: str
    end_x: float
    end_y: float


@dataclass(frozen=True, slots=True)
class Segment:
    """A part of a strip, in STRIP_UNITS; `count` of `state`."""

    state: str
    count: int
    start: float
    width: float


def spark(values: Sequence[float]) -> Spark | None:
    """Return a line from 0 to the largest value; None if there are fewer than two."""
    if len(values) < 2:
        return None
    highest = max(max(values), 1e-9)
    step = SPARK_WIDTH / (len(values) - 1)
    usable = SPARK_HEIGHT - 2 * SPARK_MARGIN
    places = [
        (index * step, SPARK_HEIGHT - SPARK_MARGIN - usable * value / highest)
        for index, value in enumerate(values)
    ]
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    return Spark(points=points, end_x=round(places[-1][0], 1), end_y=round(places[-1][1], 1))


def count_states(states: Iterable[str]) -> dict[str, int]:
    """Return how many there are of each state, in the order of a strip."""
    found = list(states)
    counts = {state: found.count(state) for state in STRIP_ORDER}
    return {state: count for state, count in counts.items() if count}


def strip(counts: Mapping[str, int]) -> tuple[Segment, ...]:
    """Return the parts of a strip as long as their counts are large."""
    total = sum(counts.values())
    segments: list[Segment] = []
    start = 0.0
    for state in STRIP_ORDER:
        count = counts.get(state, 0)
        if count:
            width = STRIP_UNITS * count / total
            segments.append(Segment(state, count, round(start, 2), round(width, 2)))
            start += width
    return tuple(segments)
