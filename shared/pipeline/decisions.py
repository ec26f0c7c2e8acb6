"""DecisionSettings: how this device reads a model's outputs, where it differs from the spec.

1. Places are shares of the whole frame's width and height, 0..1, so they hold at any resolution.
2. A line has two sides. Walking it from its first point to its last, with y pointing down, who
   goes from the left hand to the right hand goes "in", the other way "out".
3. Lines and zones judge one point of each tracked box, its anchor; they need `tracking`.
4. Times are seconds, never frames: cameras and motion gates change the rate.
"""

from enum import StrEnum
from typing import Annotated

from msgspec import Meta

from shared.settings import Settings
from shared.wire.limits import Name, Number, Share, ShortText
from shared.wire.records import PLACES_MAX

POINTS_MAX = 64
LABELS_FILTER_MAX = 64

Point = tuple[Share, Share]
Labels = Annotated[tuple[ShortText, ...], Meta(max_length=LABELS_FILTER_MAX)]
Line = Annotated[tuple[Point, ...], Meta(min_length=2, max_length=POINTS_MAX)]
Polygon = Annotated[tuple[Point, ...], Meta(min_length=3, max_length=POINTS_MAX)]
HoldSeconds = Annotated[float, Meta(ge=0.0, le=3600.0)]


class Anchor(StrEnum):
    """The point of a box that stands for it."""

    BOTTOM = "bottom"  # Middle of the lower edge: where it stands on the ground
    CENTRE = "centre"


class TrackingSettings(Settings, frozen=True):
    """How boxes become tracks; the rules are in edge_agent/decisions/tracker.py.

    `confidence_min` of the pipeline (or spec) is what the detector tells at all: give it at or
    below `low_min`, or there are no low boxes to keep a track alive with.
    """

    high_min: Share = 0.5  # Boxes from here on are matched first
    low_min: Share = 0.1  # Boxes below play no part
    new_min: Share = 0.6  # A box that matches nothing starts a track from here on
    overlap_min: Share = 0.2  # IoU with where the track should be; weighed by confidence
    overlap_low_min: Share = 0.5  # The same for low boxes
    hits_min: Annotated[int, Meta(ge=1, le=100)] = 3  # Boxes before a track is told
    lost_s_max: Annotated[float, Meta(gt=0.0, le=600.0)] = 1.0  # Unseen longer: the track ends
    # Whether a box only continues a track of its own label; else labels are voted over time.
    by_label: bool = True
    labels: Labels = ()  # Only these are followed; none: all


class LineSettings(Settings, frozen=True):
    """Counts tracks that go over it; see rule 2."""

    name: Name
    points: Line
    labels: Labels = ()  # Only these count; none: all
    anchor: Anchor = Anchor.BOTTOM
    # A track is on a side only when its anchor is as far from the line: jitter does not count.
    margin: Annotated[float, Meta(ge=0.0, le=0.5)] = 0.01

    def __post_init__(self) -> None:
        """Refuse what the types cannot."""
        if len(set(self.points)) < 2:
            raise ValueError("points of a line must not all be the same")


class ZoneSettings(Settings, frozen=True):
    """Counts tracks that are in it, and how long they stay."""

    name: Name
    points: Polygon
    labels: Labels = ()
    anchor: Anchor = Anchor.BOTTOM
    enter_s: HoldSeconds = 0.0  # In it for as long before it counts as in
    leave_s: HoldSeconds = 0.5  # Out of it for as long before it counts as out
    loiter_s: HoldSeconds = 0.0  # Longer in it is loitering; 0: never

    def __post_init__(self) -> None:
        """Refuse what the types cannot."""
        pairs = zip(self.points, (*self.points[1:], self.points[0]), strict=True)
        if abs(sum(ax * by - bx * ay for (ax, ay), (bx, by) in pairs)) < 1e-9:
            raise ValueError("points of a zone must enclose an area")


class AdaptiveThresholdSettings(Settings, frozen=True):
    """A threshold that learns what scores are usual; edge_agent/decisions/adaptive.py.

    Until `learn_scores` scores have come it learns and says nothing is anomalous.
    """

    risk: Annotated[float, Meta(ge=1e-9, le=0.1)] = 1e-4  # Share of normal scores above it
    learn_scores: Annotated[int, Meta(ge=50, le=100_000)] = 300
    tail_share: Annotated[float, Meta(ge=0.001, le=0.2)] = 0.02  # Scores that form the tail
    history_scores: Annotated[int, Meta(ge=100, le=20_000)] = 2000  # Kept a sensor
    sensors_max: Annotated[int, Meta(ge=1, le=100_000)] = 2000  # The longest silent is forgotten


class NoveltySettings(Settings, frozen=True):
    """Scores are a stream of numbers, and how new each is counts; edge_agent/decisions/novelty.py.

    For a model whose number is a measured or foretold quantity rather than an error.
    """

    history: Annotated[int, Meta(ge=100, le=20_000)] = 6400  # Numbers kept a sensor, four times
    lags: Annotated[int, Meta(ge=100, le=20_000)] = 3000  # How far back alike stretches are sought
    rest: Annotated[int, Meta(ge=0, le=20_000)] = 120  # Numbers after an anomaly without another
    threshold: Annotated[float, Meta(gt=0.0, le=100.0)] = 7.0
    sensors_max: Annotated[int, Meta(ge=1, le=100_000)] = 200  # The longest silent is forgotten


class DecisionSettings(Settings, frozen=True):
    """None leaves it to the model's spec."""

    confidence_min: Share | None = None  # Detection
    overlap_max: Share | None = None  # Detection
    threshold: Number | None = None  # Anomaly; what `adaptive` says instead, if that is given
    adaptive: AdaptiveThresholdSettings | None = None  # Anomaly
    novelty: NoveltySettings | None = None  # Anomaly: instead of the model's own score
    # Classification: a new class must beat the last decided one by this much to replace it,
    hysteresis_margin: Share = 0.0
    # and go on doing so for as long.
    settle_s: HoldSeconds = 0.0
    tracking: TrackingSettings | None = None  # Detection
    lines: Annotated[tuple[LineSettings, ...], Meta(max_length=PLACES_MAX)] = ()
    zones: Annotated[tuple[ZoneSettings, ...], Meta(max_length=PLACES_MAX)] = ()
    # During a trial: the share of items on which the other release runs too. Bounds the CPU. With
    # none a trial has no evidence, and every release is taken back as silent: so not below 0.01.
    companion_share: Annotated[float, Meta(ge=0.01, le=1.0)] = 1.0

    def __post_init__(self) -> None:
        """Refuse what the types cannot."""
        if self.novelty is not None and self.adaptive is not None:
            raise ValueError("give either adaptive or novelty, not both")
        if (self.lines or self.zones) and self.tracking is None:
            raise ValueError("lines and zones need tracking: add [tracking] beside them")
        for kind, places in (("lines", self.lines), ("zones", self.zones)):
            names = [place.name for place in places]
            if len(set(names)) != len(names):
                raise ValueError(f"{kind} names one twice")
