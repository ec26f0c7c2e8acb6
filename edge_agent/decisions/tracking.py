"""Tracking: the boxes of a frame to a Tracked: who is there, who crossed what, who is where. Pure.

1. Totals are "line/in", "line/out", "zone/entered" and, where the zone knows loitering,
   "zone/loitered", since the pipeline started; `carry_over` keeps them through a new release.
2. A frame that did not move crosses nothing; dwell goes on.
3. Lines come before zones in the totals. A record has room for all that settings may name.
"""

import copy
from typing import TypeVar

from edge_agent.decisions.places import LineCounter, ZoneCounter
from edge_agent.decisions.tracker import LiveTrack, Tracker
from shared.pipeline.decisions import DecisionSettings, TrackingSettings
from shared.wire.records import BOXES_MAX, Box, Crossing, Track, Tracked


class Tracking:
    """See the rules above. Not thread-safe."""

    def __init__(self, tracking: TrackingSettings, settings: DecisionSettings) -> None:
        """Start at 0."""
        self.settings = tracking
        self.tracker = Tracker(tracking)
        self.lines = [LineCounter(line) for line in settings.lines]
        self.zones = [ZoneCounter(zone) for zone in settings.zones]

    def update(self, boxes: tuple[Box, ...], *, at_s: float) -> Tracked:
        """Return what the boxes of a frame mean."""
        tracks = self.tracker.update(boxes, at_s=at_s)
        alive = self.tracker.alive
        crossings = [
            crossing for line in self.lines for crossing in line.update(tracks, alive=alive)
        ]
        return self._tell(tracks, tuple(crossings[:BOXES_MAX]), at_s)

    def hold(self, *, at_s: float) -> Tracked:
        """Return how things stand in a frame that did not move."""
        return self._tell(self.tracker.hold(at_s=at_s), (), at_s)

    def carry_over(self, previous: "Tracking") -> None:
        """Go on from `previous`, as far as settings of tracks, lines and zones are equal."""
        if self.settings == previous.settings:
            self.tracker = copy.deepcopy(previous.tracker)
        else:
            self.tracker.start_after(previous.tracker)
        lines = {line.settings.name: line for line in previous.lines}
        zones = {zone.settings.name: zone for zone in previous.zones}
        self.lines = [_going_on(line, lines.get(line.settings.name)) for line in self.lines]
        self.zones = [_going_on(zone, zones.get(zone.settings.name)) for zone in self.zones]

    def _tell(
        self, tracks: list[LiveTrack], crossings: tuple[Crossing, ...], at_s: float
    ) -> Tracked:
        alive = self.tracker.alive
        zones = tuple(zone.update(tracks, at_s=at_s, alive=alive) for zone in self.zones)
        return Tracked(
            tracks=tuple(_told(track, at_s) for track in tracks[:BOXES_MAX]),
            crossings=crossings,
            zones=zones,
            totals=self._totals(),
        )

    def _totals(self) -> dict[str, int]:
        totals: dict[str, int] = {}
        for line in self.lines:
            totals[f"{line.settings.name}/in"] = line.in_count
            totals[f"{line.settings.name}/out"] = line.out_count
        for zone in self.zones:
            totals[f"{zone.settings.name}/entered"] = zone.entered_count
            if zone.settings.loiter_s:
                totals[f"{zone.settings.name}/loitered"] = zone.loitered_count
        return totals


PlaceCounter = TypeVar("PlaceCounter", LineCounter, ZoneCounter)


def _going_on(counter: PlaceCounter, before: PlaceCounter | None) -> PlaceCounter:
    """Return a counter as `before` left it, if it is of the very same place."""
    if before is None or before.settings != counter.settings:
        return counter
    return copy.deepcopy(before)


def _told(track: LiveTrack, at_s: float) -> Track:
    return Track(
        track.number,
        track.label,
        min(1.0, track.confidence),
        *track.box,
        max(0.0, at_s - track.first_s),
    )
