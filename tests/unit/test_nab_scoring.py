"""NAB's scoring rule against cases worked out by hand."""

import numpy as np
import pytest

from tests.benchmarks.nab_scoring import (
    LOW_FALSE_ALARMS,
    LOW_MISSES,
    STANDARD,
    Series,
    gains_of,
    load_corpus,
    probation_rows,
    score_corpus,
    sigma,
    windowed_gaussian,
)
from tests.support.requirements import require_data

ROWS = 100
FILE = Series("one", tuple(map(str, range(ROWS))), np.zeros(ROWS), ((40, 49), (80, 89)))


def said(*rows: int) -> list[np.ndarray]:
    scores = np.zeros(ROWS)
    scores[list(rows)] = 1.0
    return [scores]


def test_the_sigmoid_is_the_published_one() -> None:
    assert sigma(-1.0) == pytest.approx(0.98661, abs=1e-5)
    assert sigma(-0.5) == pytest.approx(0.84828, abs=1e-5)
    assert sigma(0.0) == 0.0
    assert sigma(1.0) == pytest.approx(-0.98661, abs=1e-5)
    assert sigma(3.0) == -1.0


@pytest.mark.parametrize(("rows", "first"), [(100, 15), (4032, 604), (22_695, 750)])
def test_probation(rows: int, first: int) -> None:
    assert probation_rows(rows) == first


def test_silence_is_0_and_the_left_edge_of_every_window_is_100() -> None:
    assert score_corpus([FILE], said(), threshold=0.5).normalised == 0.0
    assert score_corpus([FILE], said(40, 80), threshold=0.5).normalised == pytest.approx(100.0)


@pytest.mark.parametrize(
    ("rows", "raw"),
    [
        ((20,), -2.0 - 0.11),  # Before the first window: all of a false alarm
        ((5, 10), -2.0),  # On probation
        ((40,), 0.0),  # One hit, one miss
        ((40, 41, 45, 49), 0.0),  # The earliest counts, once
        ((45,), -1.0 + 0.84828 / 0.98661),  # Halfway: y = -(49 - 45 + 1) / 10
        ((50,), -2.0 + 0.11 * sigma(1 / 9)),  # Just behind: hardly a false alarm
        ((49, 79), -1.0 + sigma(-0.1) / 0.98661 - 0.11),  # 30 rows behind a width of 9: far
    ],
)
def test_worked_by_hand(rows: tuple[int, ...], raw: float) -> None:
    assert score_corpus([FILE], said(*rows), threshold=0.5).raw == pytest.approx(raw, abs=1e-4)


def test_profiles_weigh_false_alarms_and_misses() -> None:
    low_fp = score_corpus([FILE], said(20), threshold=0.5, profile=LOW_FALSE_ALARMS)
    low_fn = score_corpus([FILE], said(20), threshold=0.5, profile=LOW_MISSES)
    assert low_fp.raw == pytest.approx(-2.22)
    assert low_fn.raw == pytest.approx(-4.11)


@pytest.mark.parametrize("seed", range(5))
def test_the_threshold_is_the_best_of_all(seed: int) -> None:
    scores = [np.random.default_rng(seed).integers(0, 12, ROWS) / 12.0]
    best = score_corpus([FILE], scores)
    every = [score_corpus([FILE], scores, threshold=t / 12.0).raw for t in range(14)]
    assert best.raw == pytest.approx(max(every))


def test_every_row_has_a_gain_and_windows_are_where_they_are() -> None:
    gains, inside = gains_of(ROWS, FILE.windows, STANDARD)
    assert (gains[inside >= 0] > 0).all()
    assert (gains[inside < 0] < 0).all()
    assert np.flatnonzero(inside == 1).tolist() == list(range(80, 90))


@pytest.mark.slow
def test_windowed_gaussian_scores_as_published_on_the_real_corpus() -> None:
    corpus = load_corpus(require_data("data/nab"))
    assert (len(corpus), sum(len(series.windows) for series in corpus)) == (58, 116)
    scores = [windowed_gaussian(series.values) for series in corpus]
    assert score_corpus(corpus, scores).normalised == pytest.approx(39.65, abs=0.75)
