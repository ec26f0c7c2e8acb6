"""The bound of a mean of scores against what is exact, and its level and power measured."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from cloud_hub.candidates import paired_test
from cloud_hub.candidates.paired_scores import (
    GRID,
    VALUES_MAX,
    bound_high,
    bound_low,
    p_value_above,
    worse_p_value,
)
from cloud_hub.candidates.paired_test import items_needed_of_spread

Floats = NDArray[np.float64]
SETS = 4000  # Of a simulation: its own error at 5 % is 0.35 points
# What happens to a picture with one to four objects: F1 stays, or something is lost or gained.
STEPS = np.array([-1.0, -2 / 3, -1 / 2, -1 / 3, -1 / 5, 0.0, 1 / 5, 1 / 3, 1.0])


def outcomes(*, gained: int, lost: int, same: int) -> Floats:
    return np.array([1.0] * gained + [-1.0] * lost + [0.0] * same)


@pytest.mark.parametrize(
    ("items", "lost"), [(1, 0), (2, 1), (5, 0), (20, 3), (60, 60), (149, 0), (150, 9), (5000, 40)]
)
def test_where_items_are_only_lost_it_is_the_exact_binomial_bound(items: int, lost: int) -> None:
    exact = -1.0 if lost == items else -float(stats.beta.ppf(0.95, lost + 1, items - lost))
    found = bound_low(outcomes(gained=0, lost=lost, same=items - lost))
    assert found == pytest.approx(exact, abs=1e-6)


@given(st.integers(0, 40), st.integers(0, 40), st.integers(1, 60))
def test_where_items_are_right_or_wrong_it_is_mcnemars_exact_test(
    gained: int, lost: int, same: int
) -> None:
    found = worse_p_value(outcomes(gained=gained, lost=lost, same=same))
    assert found == pytest.approx(paired_test.worse_p_value(gained, lost), abs=1e-9)


@pytest.mark.parametrize("items", [1, 2, 3, 5, 30])
def test_it_is_what_drawing_the_weights_gives(items: int) -> None:
    random = np.random.default_rng(items)
    differences = random.uniform(-1.0, 1.0, items)
    weights = random.dirichlet(np.ones(items + 1), 200_000)
    means = weights @ np.append(differences, -1.0)
    assert bound_low(differences) == pytest.approx(np.quantile(means, 0.05), abs=0.006)
    limit = float(differences.mean()) - 0.3
    drawn = float((means < limit).mean())
    assert p_value_above(differences, limit) == pytest.approx(drawn, abs=0.004)


@given(st.lists(st.sampled_from(STEPS.tolist()), min_size=1, max_size=60))
def test_the_bounds_hold_the_mean_between_them(values: list[float]) -> None:
    differences = np.array(values)
    low, high = bound_low(differences), bound_high(differences)
    assert -1.0 <= low <= differences.mean() <= high <= 1.0
    assert low == pytest.approx(-bound_high(-differences), abs=1e-12)
    assert bound_low(differences, confidence=0.99) <= low + 1e-6
    worse = differences.copy()
    worse[0] = -1.0
    assert bound_low(worse) <= low + 1e-6
    assert (p_value_above(differences, low - 1e-6) < 0.05) or low == -1.0


def test_many_different_scores_are_rounded_to_the_safe_side_and_hardly() -> None:
    differences = np.random.default_rng(0).normal(0.0, 0.1, 4 * VALUES_MAX).clip(-1.0, 1.0)
    few = np.round(differences * 50) / 50  # Not rounded: about 30 values
    by_normal = differences.mean() - 1.645 * differences.std() / np.sqrt(differences.size)
    assert abs(bound_low(differences) - by_normal) < 2.0 / GRID
    assert abs(bound_low(differences) - bound_low(few)) < 2.0 / GRID
    exact = np.quantile(
        np.random.default_rng(1).dirichlet(np.ones(differences.size + 1), 4000)
        @ np.append(differences, -1.0),
        0.05,
    )
    assert bound_low(differences) <= exact + 0.2 / GRID


def truths(mean: float) -> dict[str, tuple[Floats, Floats]]:
    """Ways in which pictures may differ, values and chances, each of just this mean."""
    all_or_nothing = np.array([1.0 + mean, -mean])
    small = np.array([0.5 + 2 * mean, 0.5 - 2 * mean])
    return {
        "lost or the same": (np.array([0.0, -1.0]), all_or_nothing),
        "lost, gained or the same": (np.array([0.0, 1.0, -1.0]), _three(0.1, mean)),
        "one of two objects": (np.array([0.0, -1 / 3]), np.array([1.0 + 3 * mean, -3 * mean])),
        "small changes": (np.array([0.25, -0.25]), small),
        "rare and large beside small gains": (np.array([0.05, -1.0]), _two(0.05, -1.0, mean)),
        "many kinds": _tilted(mean),
    }


def _three(gained: float, mean: float) -> Floats:
    return np.array([1.0 - 2 * gained + mean, gained, gained - mean])


def _two(high: float, low: float, mean: float) -> Floats:
    share = (high - mean) / (high - low)
    return np.array([1.0 - share, share])


def _tilted(mean: float) -> tuple[Floats, Floats]:
    """Return STEPS with chances, most of 0, tilted so that the mean is right."""
    weights = np.where(STEPS == 0.0, 6.0, 0.5)
    low, high = -20.0, 20.0
    for _ in range(80):
        middle = (low + high) / 2.0
        chances = weights * np.exp(middle * STEPS)
        chances /= chances.sum()
        low, high = (middle, high) if chances @ STEPS < mean else (low, middle)
    return STEPS, chances


def said_not_worse(values: Floats, chances: Floats, items: int, margin: float) -> float:
    """Return in how many of SETS sets "not worse" would be said."""
    random = np.random.default_rng(items)
    drawn = random.multinomial(items, chances / chances.sum(), size=SETS)  # (SETS, k)
    counts, times = np.unique(drawn, axis=0, return_counts=True)
    said = [p_value_above(np.repeat(values, row), -margin) < 0.05 for row in counts]
    return float(times[said].sum() / SETS)


@pytest.mark.slow
@pytest.mark.parametrize(("items", "margin"), [(10, 0.2), (30, 0.1), (100, 0.05)])
@pytest.mark.parametrize("truth", list(truths(-0.05)))
def test_a_detector_worse_by_just_the_margin_passes_in_five_of_a_hundred(
    truth: str, items: int, margin: float
) -> None:
    level = said_not_worse(*truths(-margin)[truth], items, margin)
    print(f"{truth}, {items} pictures, margin {margin}: {level:.4f}")
    assert level <= 0.058


def test_sign_flips_are_deceived_by_pictures_without_a_difference() -> None:
    """Of one in five pictures lost, ten show none in one of nine sets: flips say p = 0.001."""
    margin, items = 0.2, 10
    same = outcomes(gained=0, lost=0, same=items)
    chance = (1.0 - margin) ** items  # That none is lost though one in five is
    assert chance > 0.1
    flipped = 0.5**items  # The p-value of sign flips of 10 equal values, all above -margin
    assert flipped < 0.05
    assert p_value_above(same, -margin) > 0.05  # Ours is not deceived


@pytest.mark.slow
@pytest.mark.parametrize(("items", "margin"), [(40, 0.1), (100, 0.05)])
@pytest.mark.parametrize("truth", ["lost, gained or the same", "many kinds", "small changes"])
def test_the_number_of_items_asked_for_would_tell(truth: str, items: int, margin: float) -> None:
    """New and old equally good: with that many pictures "not worse" is said four times in five."""
    values, chances = truths(0.0)[truth]
    squares = items * float(chances @ np.square(values))
    needed = items_needed_of_spread(squares, items, margin=margin)
    power = said_not_worse(values, chances, needed, margin)
    print(f"{truth}, margin {margin}: {needed} pictures, power {power:.3f}")
    assert 0.74 <= power <= 0.99
    assert needed > items


def test_without_any_difference_as_many_are_asked_for_as_the_bound_needs() -> None:
    needed = items_needed_of_spread(0.0, 500, margin=0.02)
    assert needed >= 501
    same = outcomes(gained=0, lost=0, same=149)
    assert bound_low(same) > -0.02 > bound_low(same[1:])


@pytest.mark.slow
def test_worse_is_said_wrongly_in_five_of_a_hundred_at_most() -> None:
    random = np.random.default_rng(3)
    for items in (8, 30):
        for values, chances in truths(0.0).values():
            drawn = random.multinomial(items, np.clip(chances, 0.0, 1.0), size=2000)
            counts, times = np.unique(drawn, axis=0, return_counts=True)
            said = [worse_p_value(np.repeat(values, row)) <= 0.05 for row in counts]
            assert times[said].sum() / 2000 <= 0.062
