"""FrameRate: exact over time, never a burst."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.sources.frame_rate import FrameRate


def taken_of(fps_max: float, times: list[float]) -> list[float]:
    rate, taken = FrameRate(fps_max), []
    for at_s in times:
        if rate.is_due(at_s):
            rate.take(at_s)
            taken.append(at_s)
    return taken


@pytest.mark.parametrize("source_fps", [10.0, 12.0, 14.99, 15.0, 25.0, 29.97, 60.0, 1000.0])
@pytest.mark.parametrize("fps_max", [1.0, 5.0, 7.0, 10.0])
def test_the_rate_is_exact_over_ten_minutes(source_fps: float, fps_max: float) -> None:
    times = [index / source_fps for index in range(int(600 * source_fps))]
    assert len(taken_of(fps_max, times)) == pytest.approx(600 * fps_max, abs=2)


def test_a_slower_source_is_taken_whole() -> None:
    times = [index / 3.0 for index in range(100)]
    assert taken_of(5.0, times) == times


def test_a_source_of_the_same_rate_that_jitters_is_taken_whole() -> None:
    dice = random.Random(7)
    times = [index / 10.0 + dice.uniform(-0.012, 0.012) for index in range(1000)]
    assert len(taken_of(10.0, times)) == 1000


def test_no_limit_takes_all() -> None:
    times = [0.0, 0.0, 0.001, 5.0]
    assert taken_of(0.0, times) == times


def test_after_a_pause_there_is_no_burst() -> None:
    times = [0.0, 0.1, *(30.0 + index * 0.01 for index in range(50))]
    assert taken_of(10.0, times)[2:] == pytest.approx([30.0, 30.08, 30.18, 30.28, 30.38, 30.48])


def test_a_source_that_began_again_is_not_waited_for() -> None:
    assert taken_of(1.0, [100.0, 101.0, 0.0, 0.5, 1.0]) == [100.0, 101.0, 0.0, 1.0]


def test_a_frame_that_nobody_wants_leaves_the_next_one_due() -> None:
    rate = FrameRate(1.0)
    rate.take(0.0)
    assert rate.is_due(1.0)
    assert rate.is_due(1.04)


@given(pauses=st.lists(st.floats(0.0, 3.0), min_size=1, max_size=300), fps_max=st.floats(0.5, 50.0))
def test_never_more_than_the_rate_in_any_stretch(pauses: list[float], fps_max: float) -> None:
    at_s, times = 0.0, []
    for pause_s in pauses:
        at_s += pause_s
        times.append(at_s)
    taken = taken_of(fps_max, times)
    for first in range(len(taken)):
        for last in range(first + 1, min(first + 20, len(taken))):
            stretch_s = taken[last] - taken[first]
            # One period early by a quarter, and one late by a whole one, at most.
            assert last - first <= stretch_s * fps_max + 1.26
