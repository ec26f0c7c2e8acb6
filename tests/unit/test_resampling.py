"""Resampler: rows at a fixed rate, against numpy's own and against a slow definition."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.sources.resampling import Resampler
from shared.pipeline.sources import ResampleMethod, ResampleSettings

NAN = math.nan
LINEAR, HOLD, MEAN = ResampleMethod.LINEAR, ResampleMethod.HOLD, ResampleMethod.MEAN

# Times in eighths: exact, and often on the grid.
PAUSES = st.lists(st.integers(1, 40).map(lambda n: n / 8), min_size=2, max_size=40)


def resample(
    readings: list[tuple[float, float]], method: ResampleMethod, *, rate_hz: float = 1.0
) -> list[float]:
    resampler = Resampler(
        ResampleSettings(rate_hz=rate_hz, method=method, gap_s_max=10.0), channels_count=1
    )
    return [float(row[0]) for at_s, v in readings for row in resampler.push(at_s, [v]).rows]


def readings_of(pauses: list[float]) -> list[tuple[float, float]]:
    times = np.cumsum([1000.25, *pauses]).tolist()
    return [(at_s, math.sin(at_s)) for at_s in times]


def grid_of(readings: list[tuple[float, float]], rate_hz: float) -> list[float]:
    first, last = readings[0][0], readings[-1][0]
    return [
        k / rate_hz for k in range(math.ceil(first * rate_hz), math.ceil(last * rate_hz))
    ]  # The last reading is not in it: the one after it is not there yet.


@given(pauses=PAUSES, rate_hz=st.sampled_from([0.5, 1.0, 4.0]))
def test_linear_is_the_line_between_readings(pauses: list[float], rate_hz: float) -> None:
    readings = readings_of(pauses)
    expected = np.interp(grid_of(readings, rate_hz), *zip(*readings, strict=True))
    np.testing.assert_allclose(resample(readings, LINEAR, rate_hz=rate_hz), expected, atol=1e-5)


@given(pauses=PAUSES, rate_hz=st.sampled_from([0.5, 1.0, 4.0]))
def test_hold_is_the_last_reading_before(pauses: list[float], rate_hz: float) -> None:
    readings = readings_of(pauses)
    expected = [
        next(v for at, v in reversed(readings) if at <= grid_s)
        for grid_s in grid_of(readings, rate_hz)
    ]
    np.testing.assert_allclose(resample(readings, HOLD, rate_hz=rate_hz), expected, atol=1e-5)


@given(pauses=PAUSES, rate_hz=st.sampled_from([0.5, 1.0, 4.0]))
def test_mean_is_that_of_the_readings_since_the_row_before(
    pauses: list[float], rate_hz: float
) -> None:
    readings = readings_of(pauses)
    expected = []
    for grid_s in grid_of(readings, rate_hz):
        inside = [v for at, v in readings if grid_s - 1 / rate_hz < at <= grid_s]
        expected.append(np.mean(inside) if inside else NAN)
    np.testing.assert_allclose(resample(readings, MEAN, rate_hz=rate_hz), expected, atol=1e-5)


@pytest.mark.parametrize("method", ResampleMethod)
def test_readings_on_the_grid_come_through_unchanged(method: ResampleMethod) -> None:
    readings = [(1_700_000_000 + index / 10, float(index)) for index in range(100)]
    assert resample(readings, method, rate_hz=10.0) == [float(index) for index in range(99)]


@pytest.mark.parametrize("time_s", [11.1, 0.5, NAN, math.inf, 1e308])
def test_a_pause_too_long_a_step_back_and_no_time_cut(time_s: float) -> None:
    resampler = Resampler(ResampleSettings(rate_hz=1.0, gap_s_max=10.0), channels_count=1)
    resampler.push(1.0, [1.0])
    resampled = resampler.push(time_s, [2.0])
    assert resampled.is_cut
    assert not resampled.rows.size


def test_after_a_cut_rows_start_with_the_new_reading() -> None:
    resampler = Resampler(ResampleSettings(rate_hz=1.0, gap_s_max=10.0), channels_count=1)
    resampler.push(1.0, [1.0])
    resampler.push(100.5, [5.0])
    resampled = resampler.push(102.5, [7.0])
    assert not resampled.is_cut
    assert resampled.rows[:, 0].tolist() == [5.5, 6.5]


def test_after_a_lost_connection_no_row_rests_on_what_was_before() -> None:
    resampler = Resampler(ResampleSettings(rate_hz=1.0), channels_count=1)
    resampler.push(1.0, [1.0])
    resampler.cut()
    assert not resampler.push(3.0, [3.0]).rows.size


def test_a_missing_value_stays_with_its_channel_and_its_rows() -> None:
    resampler = Resampler(ResampleSettings(rate_hz=1.0), channels_count=2)
    rows = [
        row.tolist()
        for at_s, values in [(0.0, [0.0, 0.0]), (2.0, [2.0, NAN]), (4.0, [4.0, 4.0]), (5.0, [0, 0])]
        for row in resampler.push(at_s, values).rows
    ]
    np.testing.assert_array_equal(
        rows, [[0.0, 0.0], [1.0, NAN], [2.0, NAN], [3.0, NAN], [4.0, 4.0]]
    )


def test_a_mean_is_of_the_values_that_are_there() -> None:
    readings = [(0.25, 2.0), (0.5, NAN), (0.75, 4.0), (1.5, NAN), (3.5, 1.0)]
    np.testing.assert_array_equal(resample(readings, MEAN), [3.0, NAN, NAN])


def test_a_second_reading_of_one_time_replaces_the_first() -> None:
    assert resample([(1.0, 1.0), (1.0, 5.0), (2.0, 6.0)], LINEAR) == [5.0]
    assert resample([(1.0, 1.0), (1.0, 5.0), (2.0, 6.0)], HOLD) == [5.0]
