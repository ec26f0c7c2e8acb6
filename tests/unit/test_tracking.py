"""Tracks, lines and zones: what holds whatever the boxes do."""

import itertools
import math

import numpy as np
import pytest

from edge_agent.decisions.assignment import assign
from edge_agent.decisions.places import distance_and_side, is_inside
from edge_agent.decisions.tracking import Tracking
from shared.pipeline.decisions import (
    Anchor,
    DecisionSettings,
    LineSettings,
    TrackingSettings,
    ZoneSettings,
)
from shared.wire.records import Box, Tracked

QUICK = TrackingSettings(hits_min=1)
SQUARE = ((0.2, 0.2), (0.8, 0.2), (0.8, 0.8), (0.2, 0.8))


def box(x: float, y: float, *, size: float = 0.1, sure: float = 0.9, label: str = "car") -> Box:
    half = size / 2
    sides = (x - half, y - half, x + half, y + half)
    return Box(label, sure, *(min(1.0, max(0.0, side)) for side in sides))


def tracking(
    *,
    lines: tuple[LineSettings, ...] = (),
    zones: tuple[ZoneSettings, ...] = (),
    how: TrackingSettings = QUICK,
) -> Tracking:
    return Tracking(how, DecisionSettings(tracking=how, lines=lines, zones=zones))


def walk(one: Tracking, ys: list[float], *, start_s: float = 0.0, step_s: float = 0.1) -> Tracked:
    told = Tracked(())
    for index, y in enumerate(ys):
        told = one.update((box(0.5, y),), at_s=start_s + index * step_s)
    return told


def gate(*points: tuple[float, float]) -> LineSettings:
    points = points or ((0.0, 0.5), (1.0, 0.5))
    return LineSettings(name="gate", points=points, anchor=Anchor.CENTRE)


def ramp(start: float, end: float) -> list[float]:
    return [float(y) for y in np.linspace(start, end, 21)]


@pytest.mark.parametrize("seed", range(20))
def test_pairs_are_the_best_there_are(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n, m = int(rng.integers(1, 6)), int(rng.integers(1, 6))
    gains = np.where(rng.random((n, m)) < 0.6, rng.random((n, m)), 0.0)
    found = assign(gains)
    assert len({row for row, _ in found}) == len({column for _, column in found}) == len(found)
    assert all(gains[pair] > 0 for pair in found)
    padded = np.concatenate([gains, np.zeros((n, n))], axis=1)
    best = max(
        sum(padded[row, column] for row, column in enumerate(columns))
        for columns in itertools.permutations(range(m + n), n)
    )
    assert sum(gains[pair] for pair in found) == pytest.approx(best)


def test_one_object_is_one_track_and_two_that_cross_stay_two() -> None:
    one = tracking()
    for index in range(40):
        x = 0.1 + 0.02 * index
        told = one.update((box(x, 0.4), box(1.0 - x, 0.6)), at_s=index * 0.1)
        assert [track.track for track in told.tracks] == [1, 2]
    assert told.tracks[0].left > 0.8
    assert told.tracks[0].age_s == pytest.approx(3.9)


def test_a_track_is_found_again_after_irregular_gaps_and_its_number_never_comes_twice() -> None:
    one, at_s = tracking(), 0.0
    rng = np.random.default_rng(3)
    for _ in range(30):
        told = one.update((box(0.1 + 0.05 * at_s, 0.5),), at_s=at_s)
        assert [track.track for track in told.tracks] == [1]
        at_s += float(rng.uniform(0.02, 0.6))
    assert one.update((), at_s=at_s).tracks == ()
    told = one.update((box(0.1 + 0.05 * at_s, 0.5),), at_s=at_s + 1.5)
    assert [track.track for track in told.tracks] == [2]


def test_who_stands_where_another_stood_before_a_long_pause_is_somebody_else() -> None:
    one = tracking(zones=(ZoneSettings(name="door", points=SQUARE, loiter_s=60.0),))
    for index in range(20):
        one.update((box(0.5, 0.5),), at_s=index * 0.1)
    told = one.update((box(0.5, 0.5),), at_s=9.0)  # As long as a camera may need to come back
    assert [track.track for track in told.tracks] == [1]
    told = one.update((box(0.5, 0.5),), at_s=3600.0)
    assert [(track.track, track.age_s) for track in told.tracks] == [(2, 0.0)]
    assert told.totals == {"door/entered": 2, "door/loitered": 0}

    one.update((), at_s=3600.1)  # Out of sight for longer than lost_s_max, though no frame came
    told = one.update((box(0.5, 0.5),), at_s=3605.0)
    assert [track.track for track in told.tracks] == [3]


def test_frames_that_are_always_far_apart_are_followed_all_the_same() -> None:
    one = tracking()
    numbers = [
        one.update((box(0.5, 0.5),), at_s=60.0 * minute).tracks[0].track for minute in range(9)
    ]
    assert len(set(numbers[1:])) == 1


def test_a_low_box_keeps_a_track_but_starts_none() -> None:
    one = tracking()
    assert one.update((box(0.5, 0.5, sure=0.3),), at_s=0.0).tracks == ()
    one.update((box(0.5, 0.5),), at_s=0.1)
    (track,) = one.update((box(0.5, 0.5, sure=0.3),), at_s=0.2).tracks
    assert (track.track, track.confidence) == (1, 0.3)


def test_a_track_is_told_from_its_third_box_and_not_without_the_second() -> None:
    one = tracking(how=TrackingSettings(hits_min=3))
    told = [
        len(one.update(boxes, at_s=index * 0.1).tracks)
        for index, boxes in enumerate([(box(0.5, 0.5),)] * 2 + [()] + [(box(0.5, 0.5),)] * 3)
    ]
    assert told == [0, 0, 0, 0, 0, 1]


def test_there_and_back_is_one_in_and_one_out() -> None:
    one = tracking(lines=(gate(),))
    assert walk(one, ramp(0.2, 0.8)).totals == {"gate/in": 1, "gate/out": 0}
    assert walk(one, ramp(0.8, 0.2), start_s=3.0).totals == {"gate/in": 1, "gate/out": 1}


def test_a_crossing_is_told_in_its_frame_only() -> None:
    one = tracking(lines=(gate(),))
    told = [walk(one, [y], start_s=index * 0.1) for index, y in enumerate(ramp(0.2, 0.8))]
    crossings = [crossing for each in told for crossing in each.crossings]
    assert [(c.line, c.direction, c.track, c.label) for c in crossings] == [
        ("gate", "in", 1, "car")
    ]


def test_jitter_on_the_line_counts_nothing() -> None:
    one = tracking(lines=(gate(),))
    rng = np.random.default_rng(1)
    walk(one, ramp(0.2, 0.495))
    told = walk(one, [0.5 + float(d) for d in rng.uniform(-0.009, 0.009, 200)], start_s=3.0)
    assert told.totals == {"gate/in": 0, "gate/out": 0}


def test_who_walks_around_the_end_of_a_line_has_not_crossed() -> None:
    one = tracking(lines=(gate((0.0, 0.5), (0.3, 0.5)),))
    assert walk(one, ramp(0.2, 0.8)).totals == {"gate/in": 0, "gate/out": 0}


@pytest.mark.parametrize("seed", range(12))
def test_a_line_counts_the_same_however_it_is_divided(seed: int) -> None:
    rng = np.random.default_rng(seed)
    corners = [(0.0, 0.5), (0.4, float(rng.uniform(0.3, 0.7))), (1.0, 0.5)]
    fine = [corners[0]]
    for (ax, ay), (bx, by) in itertools.pairwise(corners):
        cuts = [*sorted(rng.random(int(rng.integers(0, 6))).tolist()), 1.0]
        fine += [(ax + cut * (bx - ax), ay + cut * (by - ay)) for cut in cuts]
    ones = [tracking(lines=(gate(*points),)) for points in (corners, fine)]
    turns = rng.uniform(0.02, 0.08, 4)
    for index in range(150):  # A winding walk, slow enough to be followed
        x = 0.5 + 0.2 * math.sin(turns[0] * index) + 0.1 * math.sin(turns[1] * index)
        y = 0.5 - 0.2 * math.cos(turns[2] * index) - 0.1 * math.cos(turns[3] * index)
        told = [one.update((box(x, y),), at_s=index * 0.1) for one in ones]
        assert told[0] == told[1]
    assert sum(told[0].totals.values()) > 0


@pytest.mark.parametrize(
    ("point", "side"), [((0.5, 0.6), 1), ((0.5, 0.4), -1), ((0.5, 0.5), 0), ((1.2, 0.6), 1)]
)
def test_the_right_hand_is_the_side_below_a_line_to_the_right(
    point: tuple[float, float], side: int
) -> None:
    assert distance_and_side(point, ((0.0, 0.5), (1.0, 0.5)))[1] == side


def test_inside_and_outside() -> None:
    hollow = ((0.1, 0.1), (0.9, 0.1), (0.9, 0.9), (0.5, 0.3), (0.1, 0.9))
    assert is_inside((0.2, 0.5), hollow)
    assert not is_inside((0.5, 0.6), hollow)


@pytest.mark.parametrize("anchor", Anchor)
@pytest.mark.parametrize("low", [1.0, 385 / 481])  # The frame's edge; a region's, in whole pixels
def test_who_is_cut_off_at_the_lower_edge_stands_in_the_zone_above_it(
    anchor: Anchor, low: float
) -> None:
    edge = 1.0 if low == 1.0 else 0.8
    points = ((0.0, 0.0), (1.0, 0.0), (1.0, edge), (0.0, edge))
    one = tracking(zones=(ZoneSettings(name="yard", points=points, anchor=anchor),))
    told = one.update((Box("person", 0.9, 0.4, low - 0.4, 0.6, low),), at_s=0.0)
    assert [zone.tracks_count for zone in told.zones] == [1]


def test_a_zone_tells_who_is_in_how_long_and_who_loiters() -> None:
    zone = ZoneSettings(
        name="yard",
        points=((0.0, 0.5), (1.0, 0.5), (1.0, 1.0), (0.0, 1.0)),
        anchor=Anchor.CENTRE,
        loiter_s=2.0,
    )
    one = tracking(zones=(zone,))
    walk(one, ramp(0.2, 0.6))
    told = walk(one, [0.6] * 25, start_s=2.1)
    (standing,) = told.zones
    assert standing.tracks_count == 1
    assert standing.dwell_s_max == pytest.approx(4.5 - 1.5, abs=0.11)
    assert told.totals == {"yard/entered": 1, "yard/loitered": 1}
    told = walk(one, ramp(0.6, 0.2), start_s=4.6)
    assert told.zones[0].tracks_count == 0
    assert told.totals == {"yard/entered": 1, "yard/loitered": 1}


def test_what_stands_still_behind_a_motion_gate_stays_and_goes_on_dwelling() -> None:
    zone = ZoneSettings(name="yard", points=((0.0, 0.0), (1.0, 0.0), (1.0, 1.0), (0.0, 1.0)))
    one = tracking(zones=(zone,))
    walk(one, [0.5, 0.5])
    for at_s in (10.0, 20.0, 30.0):
        told = one.hold(at_s=at_s)
    assert [track.track for track in told.tracks] == [1]
    assert told.zones[0].dwell_s_max == pytest.approx(30.0)
    assert [track.track for track in walk(one, [0.5], start_s=30.1).tracks] == [1]


def test_a_new_release_goes_on_counting_and_both_then_go_their_own_way() -> None:
    first, second = tracking(lines=(gate(),)), tracking(lines=(gate(),))
    walk(first, ramp(0.2, 0.8))
    second.carry_over(first)
    told = walk(second, ramp(0.8, 0.2), start_s=2.1)
    assert told.totals == {"gate/in": 1, "gate/out": 1}
    assert [track.track for track in told.tracks] == [1]
    assert walk(first, [0.8], start_s=2.1).totals == {"gate/in": 1, "gate/out": 0}


def test_a_moved_line_starts_anew_and_numbers_go_on() -> None:
    first = tracking(lines=(gate(),))
    walk(first, ramp(0.2, 0.8))
    second = tracking(lines=(gate((0.0, 0.6), (1.0, 0.6)),), how=TrackingSettings(hits_min=2))
    second.carry_over(first)
    told = walk(second, [0.3, 0.3], start_s=9.0)
    assert told.totals == {"gate/in": 0, "gate/out": 0}
    assert [track.track for track in told.tracks] == [2]


def test_a_line_to_a_corner_has_one_side_on_each_side_of_it() -> None:
    corner = ((0.0, 0.0), (0.5, 0.5), (0.0, 1.0))
    for angle in np.linspace(-2.2, 2.2, 30):  # To the left of the tip lies its inside
        x, y = 0.5 + 0.1 * math.cos(angle), 0.5 + 0.1 * math.sin(angle)
        assert distance_and_side((x, y), corner)[1] == -1
    assert distance_and_side((0.3, 0.5), corner)[1] == 1
