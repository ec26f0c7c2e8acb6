"""LineCounter and ZoneCounter: what tracks do at one line or in one zone. Pure.

1. A line's side is told by the segment of it that is nearest to the anchor. On it, or within
   `margin` of it, a track keeps the side that it had: jitter never counts.
2. A track that is on the other side than before has gone over if its way, from where it last was
   clear of the line to where it is now, meets the line: who walks around an end has not.
3. Every going over counts: there and back is one in and one out.
4. A zone counts a track once it was in for `enter_s`, until it was out for `leave_s`. Dwell runs
   from when it came in. The lower edge of a box is taken a hair above where it is: that is the
   frame's or the region's own edge where the box is cut off there, and zones are drawn to it.
5. What is remembered of a track is forgotten when the track ends.
"""

import itertools
import math
from dataclasses import dataclass

from edge_agent.decisions.tracker import LiveTrack
from shared.pipeline.decisions import Anchor, LineSettings, ZoneSettings
from shared.wire.records import Crossing, ZoneStanding

Point = tuple[float, float]

HAIR_SHARE = 0.01  # Of a box's height


def anchor_of(track: LiveTrack, anchor: Anchor) -> Point:
    """Return the point of a track's box that stands for it."""
    left, top, right, bottom = track.box
    y = bottom if anchor is Anchor.BOTTOM else (top + bottom) / 2.0
    return (left + right) / 2.0, y


class LineCounter:
    """See the rules above. Not thread-safe."""

    def __init__(self, settings: LineSettings) -> None:
        """Start at 0."""
        self.settings = settings
        self.in_count = 0
        self.out_count = 0
        self._clear: dict[int, tuple[Point, float]] = {}  # Where each was last clear of the line

    def update(self, tracks: list[LiveTrack], *, alive: frozenset[int]) -> list[Crossing]:
        """Return who went over since the last frame."""
        crossings = []
        for track in tracks:
            if self.settings.labels and track.label not in self.settings.labels:
                continue
            direction = self._direction(track.number, anchor_of(track, self.settings.anchor))
            if direction:
                self.in_count += direction == "in"
                self.out_count += direction == "out"
                crossings.append(Crossing(self.settings.name, direction, track.number, track.label))
        self._clear = {number: at for number, at in self._clear.items() if number in alive}
        return crossings

    def _direction(self, number: int, now: Point) -> str:
        distance, side = distance_and_side(now, self.settings.points)
        if distance <= self.settings.margin or side == 0.0:
            return ""
        before = self._clear.get(number)
        self._clear[number] = (now, side)
        if before is None or before[1] == side or not _meets(before[0], now, self.settings.points):
            return ""
        return "in" if side > 0 else "out"


@dataclass(slots=True)
class _Stay:
    since_s: float  # When it came in
    inside_s: float  # When it was last in


class ZoneCounter:
    """See the rules above. Not thread-safe."""

    def __init__(self, settings: ZoneSettings) -> None:
        """Start empty."""
        self.settings = settings
        self.entered_count = 0
        self.loitered_count = 0
        self._stays: dict[int, _Stay] = {}
        self._entered: set[int] = set()
        self._loitered: set[int] = set()

    def update(
        self, tracks: list[LiveTrack], *, at_s: float, alive: frozenset[int]
    ) -> ZoneStanding:
        """Return what is in the zone now."""
        for track in tracks:
            if self.settings.labels and track.label not in self.settings.labels:
                continue
            if is_inside(_above_edge(track, self.settings.anchor), self.settings.points):
                stay = self._stays.setdefault(track.number, _Stay(at_s, at_s))
                stay.inside_s = at_s
        self._stays = {
            number: stay
            for number, stay in self._stays.items()
            if number in alive and at_s - stay.inside_s <= self.settings.leave_s
        }
        return self._standing(at_s)

    def _standing(self, at_s: float) -> ZoneStanding:
        dwells = {
            number: at_s - stay.since_s
            for number, stay in self._stays.items()
            if stay.inside_s - stay.since_s >= self.settings.enter_s
        }
        loiter_s = self.settings.loiter_s
        loitering = {number for number, dwell in dwells.items() if 0.0 < loiter_s <= dwell}
        self.entered_count += len(dwells.keys() - self._entered)
        self.loitered_count += len(loitering - self._loitered)
        self._entered, self._loitered = set(dwells), loitering
        return ZoneStanding(self.settings.name, len(dwells), max(dwells.values(), default=0.0))


def distance_and_side(point: Point, line: tuple[Point, ...]) -> tuple[float, float]:
    """Return how far `point` is from `line`, and its side: 1 right, -1 left, 0 on it.

    At a corner two segments are equally near; the one that sees the point most to its side tells
    (that is right for a corner of either kind).
    """
    best, side, best_sine = math.inf, 0.0, -1.0
    for start, end in itertools.pairwise(line):
        dx, dy = end[0] - start[0], end[1] - start[1]
        length = math.hypot(dx, dy)
        if length == 0.0:
            continue
        px, py = point[0] - start[0], point[1] - start[1]
        share = min(1.0, max(0.0, (px * dx + py * dy) / length**2))
        away = math.hypot(px - share * dx, py - share * dy)
        across = (dx * py - dy * px) / length  # Above 0: to the right, as y points down
        if away < best - 1e-12 or (away < best + 1e-12 and abs(across) > best_sine):
            best, best_sine = min(best, away), abs(across)
            side = math.copysign(1.0, across) if abs(across) > 1e-12 else 0.0
    return best, side


def is_inside(point: Point, polygon: tuple[Point, ...]) -> bool:
    """Return whether `point` lies in `polygon`, by the even-odd rule."""
    x, y = point
    inside = False
    for (ax, ay), (bx, by) in zip(polygon, (*polygon[1:], polygon[0]), strict=True):
        if (ay > y) != (by > y) and x < ax + (y - ay) / (by - ay) * (bx - ax):
            inside = not inside
    return inside


def _above_edge(track: LiveTrack, anchor: Anchor) -> Point:
    """Return the anchor of a box for a zone; see rule 4."""
    x, y = anchor_of(track, anchor)
    _, top, _, bottom = track.box
    return x, y - HAIR_SHARE * (bottom - top) if anchor is Anchor.BOTTOM else y


def _meets(start: Point, end: Point, line: tuple[Point, ...]) -> bool:
    """Whether the way from `start` to `end` meets a segment of `line`, its ends included."""
    return any(
        _turn(start, end, a) * _turn(start, end, b) <= 0.0
        and _turn(a, b, start) * _turn(a, b, end) <= 0.0
        for a, b in itertools.pairwise(line)
        if a != b
    )


def _turn(a: Point, b: Point, c: Point) -> float:
    return (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])
