"""RollingWindow: steps, missing values and cuts, against slices of a list."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.sources.windowing import RollingWindow
from shared.pipeline.sources import WindowSettings

NAN = math.nan


def windows_of(rows: list[list[float]], settings: WindowSettings) -> list[list[list[float]]]:
    rolling = RollingWindow(settings, channels_count=len(rows[0]))
    found = [rolling.push(row) for row in rows]
    return [window.tolist() for window in found if window is not None]


@given(count=st.integers(1, 60), samples=st.integers(1, 9), step=st.integers(1, 14))
def test_windows_are_slices_of_the_rows(count: int, samples: int, step: int) -> None:
    rows = [[float(i), -float(i)] for i in range(count)]
    found = windows_of(rows, WindowSettings(samples=samples, step=step))
    assert found == [rows[i : i + samples] for i in range(0, count - samples + 1, step)]


def test_a_window_is_a_copy() -> None:
    rolling = RollingWindow(WindowSettings(samples=2), channels_count=1)
    rolling.push([1.0])
    window = rolling.push([2.0])
    rolling.push([3.0])
    assert window is not None
    assert window.tolist() == [[1.0], [2.0]]


def test_a_missing_value_repeats_the_last_one_of_its_channel() -> None:
    settings = WindowSettings(samples=3, hold_rows_max=2)
    rows = [[1.0, 10.0], [NAN, 20.0], [NAN, NAN]]
    assert windows_of(rows, settings) == [[[1.0, 10.0], [1.0, 20.0], [1.0, 20.0]]]


def test_a_longer_gap_empties_the_window() -> None:
    settings = WindowSettings(samples=3, hold_rows_max=1)
    rows = [[1.0], [NAN], [NAN], [2.0], [3.0], [4.0]]
    assert windows_of(rows, settings) == [[[2.0], [3.0], [4.0]]]


def test_no_holding_at_all() -> None:
    rows = [[1.0], [math.inf], [2.0], [3.0]]
    assert windows_of(rows, WindowSettings(samples=2, hold_rows_max=0)) == [[[2.0], [3.0]]]


def test_a_channel_without_a_first_value_leaves_rows_out() -> None:
    rows = [[1.0, NAN], [2.0, 5.0], [3.0, 6.0]]
    assert windows_of(rows, WindowSettings(samples=2)) == [[[2.0, 5.0], [3.0, 6.0]]]


def test_a_cut_never_lets_a_window_span_it() -> None:
    rolling = RollingWindow(WindowSettings(samples=3), channels_count=1)
    for value in (1.0, 2.0):
        assert rolling.push([value]) is None
    rolling.cut()
    assert rolling.push([3.0]) is None
    assert rolling.push([4.0]) is None
    window = rolling.push([5.0])
    assert window is not None
    assert window.tolist() == [[3.0], [4.0], [5.0]]


@given(
    values=st.lists(st.one_of(st.floats(-1e6, 1e6, width=32), st.just(NAN)), max_size=80),
    hold=st.integers(0, 4),
)
def test_no_window_ever_holds_a_missing_value(values: list[float], hold: int) -> None:
    rolling = RollingWindow(WindowSettings(samples=4, hold_rows_max=hold), channels_count=1)
    for value in values:
        window = rolling.push([value])
        assert window is None or np.isfinite(window).all()


@pytest.mark.parametrize("samples", [1, 5])
def test_the_newest_row_is_last(samples: int) -> None:
    rolling = RollingWindow(WindowSettings(samples=samples), channels_count=1)
    for value in range(20):
        window = rolling.push([float(value)])
        assert window is None or window[-1, 0] == value
