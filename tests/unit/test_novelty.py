"""Novelty: what is unlike a stream's own past stands out, once; what repeats does not."""

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from edge_agent.decisions.neighbours import NEAREST_COUNT, SHAPE, Neighbours
from edge_agent.decisions.novelty import LEARN_MIN, Novelty
from shared.pipeline.decisions import NoveltySettings

LAGS = 100
SETTINGS = NoveltySettings(history=400, lags=LAGS, rest=30)


def scores_of(
    values: NDArray[np.float64], settings: NoveltySettings = SETTINGS
) -> NDArray[np.float64]:
    novelty = Novelty(settings)
    return np.array([novelty.score(value) for value in values.tolist()])


def waves(rows_count: int, *, offset: float = 0.0) -> NDArray[np.float64]:
    noise = np.random.default_rng(5).normal(scale=0.05, size=rows_count)
    return offset + np.sin(np.arange(rows_count) * 2.0 * np.pi / 40.0) + noise


def distance_by_hand(values: NDArray[np.float64], at: int) -> float:
    newest = values[at - SHAPE + 1 : at + 1]
    squares = [
        float(((values[at - lag - SHAPE + 1 : at - lag + 1] - newest) ** 2).sum())
        for lag in range(SHAPE, LAGS + 1)
        if at - lag - SHAPE + 1 >= 0
    ]
    nearest = sorted(squares)[:NEAREST_COUNT]
    return math.sqrt(sum(nearest) / len(nearest)) if nearest else 0.0


def test_neighbours_are_those_of_a_search_over_all_stretches() -> None:
    values = np.random.default_rng(3).normal(size=700)  # Past two moves of the numbers kept
    neighbours = Neighbours(LAGS)
    told = [neighbours.distance(value) for value in values.tolist()]
    assert told == pytest.approx([distance_by_hand(values, at) for at in range(700)], abs=1e-9)
    assert told[2 * SHAPE - 2] == 0.0 < told[2 * SHAPE - 1]


def test_rounding_left_by_a_huge_number_is_gone_some_numbers_later() -> None:
    values = np.tile(np.arange(10.0), 100)
    values[300] = 1e15
    neighbours = Neighbours(LAGS)
    told = [neighbours.distance(value) for value in values.tolist()]
    assert told[300] > 1e14
    assert max(told[-200:]) == 0.0


def test_a_number_out_of_the_usual_stands_out() -> None:
    values = waves(600)
    values[500] = 4.0
    scores = scores_of(values)
    assert scores[500] > SETTINGS.threshold
    assert scores[100:500].max() <= SETTINGS.threshold


def test_a_known_course_missing_stands_out_though_each_number_is_usual() -> None:
    values = waves(600)
    values[500:540] = values[460]  # Near 0, between the extremes
    scores = scores_of(values)
    assert scores[500:540].max() > scores[100:500].max()
    assert scores[500:540].max() > SETTINGS.threshold


def test_one_event_is_told_once_and_the_next_after_the_rest() -> None:
    values = waves(600)
    values[[450, 455, 560]] = 6.0, 9.0, 12.0
    scores = scores_of(values)
    assert np.flatnonzero(scores > SETTINGS.threshold).tolist() == [450, 560]
    assert scores[455] == 0.0


def test_without_rest_every_number_above_is_told() -> None:
    values = waves(600)
    values[[450, 455]] = 6.0, 9.0
    scores = scores_of(values, NoveltySettings(history=400, lags=LAGS, rest=0))
    assert min(scores[450], scores[455]) > SETTINGS.threshold


def test_nothing_is_said_while_learning_or_of_a_stream_that_stands_still() -> None:
    values = np.full(300, 7.0)
    values[5] = 100.0
    assert not scores_of(values)[:LEARN_MIN].any()
    assert not scores_of(np.full(300, 7.0)).any()


def test_a_step_after_standing_still_is_told() -> None:
    values = np.full(300, 7.0)
    values[250:] = 8.0
    assert scores_of(values)[250] > SETTINGS.threshold


def test_a_large_offset_changes_nothing() -> None:
    near = scores_of(waves(600))
    assert scores_of(waves(600, offset=1024.0)) == pytest.approx(near, abs=0.05)


@pytest.mark.parametrize("scale", [-1e18, 1e18])
def test_the_largest_numbers_a_model_may_tell_give_a_score(scale: float) -> None:
    assert np.isfinite(scores_of(waves(600) * scale)).all()
