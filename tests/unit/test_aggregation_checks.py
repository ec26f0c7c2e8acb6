"""Norms, weights, lateness, q-FedAvg's weights, the mean's precision: the rules alone."""

import math
import statistics

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud_hub.training import order
from cloud_hub.training.aggregation import mean, robust, shares
from cloud_hub.training.aggregation.checks import (
    HELD_MAX,
    NORMS_KEPT_MAX,
    RoundNorms,
    UpdateChecks,
)
from cloud_hub.training.aggregation.entry import Standing
from cloud_hub.training.aggregation.fair import fair_weight
from cloud_hub.training.aggregation.late import discount
from shared.errors import ContractError, RefusedError

norms = st.floats(1e-3, 1e3)


def _round(*known: float, **settings: float) -> RoundNorms:
    checks = UpdateChecks(order.CheckSettings(**settings))  # type: ignore[arg-type]
    checks.remember(known)
    return RoundNorms(checks)


def test_until_three_norms_are_known_updates_are_held() -> None:
    judged = _round()
    assert judged.judge(1, 1.0) == []
    assert judged.judge(2, 1e6) == []
    assert judged.expect(1.1) is Standing.ACCEPTED
    assert judged.judge(3, 1.1) == [1, 3]  # The liar stays held
    assert judged.close() == ([], [2])


def test_an_early_small_median_does_not_refuse_those_who_come_later() -> None:
    judged = _round()
    for number in (1, 2, 3):
        judged.judge(number, 0.1)
    assert judged.judge(4, 1.0) == []  # 10 times the median of the first: held, not refused
    judged.judge(5, 1.0)
    assert judged.judge(6, 1.0) == [4, 5, 6]


def test_two_updates_and_no_history_count_whatever_they_are() -> None:
    judged = _round()
    judged.judge(1, 1.0)
    judged.judge(2, 1e9)
    assert judged.close() == ([1, 2], [])


def test_known_norms_of_earlier_rounds_decide_at_once() -> None:
    judged = _round(1.0, 1.0, 1.0)
    assert judged.expect(8.0) is Standing.ACCEPTED
    assert judged.expect(8.1) is Standing.REFUSED
    assert judged.expect(math.nan) is Standing.REFUSED
    assert judged.expect(math.inf) is Standing.REFUSED


def test_no_more_than_held_max_are_held() -> None:
    judged = _round()
    for number in range(1, 3 * HELD_MAX):
        judged.judge(number, 1.0)
    for number in range(HELD_MAX):
        judged.judge(1000 + number, 1e6)
    assert judged.expect(1e6) is Standing.REFUSED
    assert len(judged.close()[1]) == HELD_MAX


def test_nothing_is_not_known() -> None:
    judged = _round()
    assert judged.judge(1, 0.0) == [1]
    assert judged.bound is None


@given(st.lists(norms, min_size=3, max_size=12), st.floats(0, 1e30), st.integers(0, 12))
def test_one_liar_among_four_is_bounded_by_the_honest(
    honest: list[float], lie: float, place: int
) -> None:
    judged = _round()
    arrived = [*honest[:place], lie, *honest[place:]]
    liar = min(place, len(honest))
    accepted: list[int] = []
    for number, norm in enumerate(arrived):
        if judged.expect(norm) is not Standing.REFUSED:
            accepted += judged.judge(number, norm)
    accepted += judged.close()[0]
    if liar in accepted:
        assert lie <= 8.0 * max(honest) * (1 + 1e-12)


@given(st.lists(st.floats(1.0, 7.9), min_size=4, max_size=12), st.randoms())
def test_honest_updates_are_accepted_in_any_order(honest: list[float], random: object) -> None:
    random.shuffle(honest)  # type: ignore[attr-defined]
    judged = _round()
    accepted = [n for i, norm in enumerate(honest) for n in judged.judge(i, norm)]
    accepted += judged.close()[0]
    assert sorted(accepted) == list(range(len(honest)))


def test_the_norms_of_closed_rounds_survive() -> None:
    checks = UpdateChecks(order.CheckSettings())
    checks.remember(float(n) for n in range(1, 2 * NORMS_KEPT_MAX))
    other = UpdateChecks(order.CheckSettings())
    other.restore(checks.state())
    assert other.norms == checks.norms
    assert len(other.norms) == NORMS_KEPT_MAX
    with pytest.raises(ContractError):
        other.restore({})


@pytest.mark.parametrize(("count", "weight"), [(1, 1), (70, 70), (10**9, 1000), (None, 5)])
def test_weight_is_the_samples_up_to_the_limit(count: int | None, weight: int) -> None:
    checks = UpdateChecks(order.CheckSettings(samples_max=1000), samples_unknown=5)
    assert checks.weight(count) == weight


@pytest.mark.parametrize("count", [0, -1, -(10**12)])
def test_no_samples_no_weight(count: int) -> None:
    with pytest.raises(RefusedError) as caught:
        UpdateChecks(order.CheckSettings()).weight(count)
    assert caught.value.code == "update.samples"


@given(
    st.lists(st.floats(1e-3, 1e6), min_size=1, max_size=40),
    st.sampled_from([0.02, 0.1, 0.2, 1 / 3, 0.5, 0.9, 1.0]),
)
def test_no_share_is_above_the_cap_where_that_can_be(weights: list[float], share: float) -> None:
    falling = sorted(weights, reverse=True)
    size = shares.reserve_size(share)
    reserve, rest = falling[:size], falling[size:]
    lowered = shares.capped(reserve, sum(rest), share_max=share)
    total = sum(lowered) + sum(rest)
    assert max([*lowered, *rest]) <= max(share, 1 / len(weights)) * total * (1 + 1e-6)
    assert all(0 < new <= old for new, old in zip(lowered, reserve, strict=True))
    if falling[0] <= share * sum(falling):
        assert lowered == pytest.approx(reserve)


def test_the_cap_by_hand() -> None:
    assert shares.capped([100.0, 50.0], 1.0, share_max=0.5) == [51.0, 50.0]
    assert shares.capped([100.0, 1.0], 0.0, share_max=0.5) == [1.0, 1.0]
    assert shares.reserve_size(1.0) == 0
    assert shares.weighs_alike(0.0)


def test_late_updates_weigh_less() -> None:
    settings = order.LateSettings(rounds_max=3, exponent=0.5)
    worth = [discount(late, settings, order.MeanStrategy()) for late in range(4)]
    assert worth == pytest.approx([1.0, 2**-0.5, 3**-0.5, 0.5])


@pytest.mark.parametrize(
    ("strategy", "late", "privacy", "code"),
    [
        (order.MeanStrategy(), 2, None, "late.too_late"),
        (order.MedianStrategy(), 1, None, "late.robust"),
        (order.BulyanStrategy(), 1, None, "late.robust"),
        (
            order.MeanStrategy(),
            1,
            order.CentralPrivacy(clip_norm=1.0, noise_multiplier=1.0),
            "late.private",
        ),
    ],
)
def test_some_late_updates_are_refused_with_the_reason(
    strategy: order.Strategy, late: int, privacy: order.CentralPrivacy | None, code: str
) -> None:
    with pytest.raises(RefusedError) as caught:
        discount(late, order.LateSettings(), strategy, privacy=privacy)
    assert caught.value.code == code


@pytest.mark.parametrize("loss", [None, math.nan, math.inf, -1.0, 1e13])
def test_fair_weights_need_a_loss(loss: float | None) -> None:
    with pytest.raises(RefusedError):
        fair_weight(order.FairStrategy(), loss=loss, norm=1.0)


def test_ten_thousand_updates_lose_no_digits() -> None:
    rng = np.random.default_rng(1)
    updates = rng.standard_normal((10_000, 64)).astype(np.float32) + np.float32(100.0)
    total, narrow = np.zeros(64), np.zeros(64, np.float32)
    for update in updates:
        mean.fold(total, update, 3.0)
        narrow += np.float32(3.0) * update
    exact = np.array([math.fsum(column.tolist()) / 10_000 for column in updates.T])
    error = np.abs(total / 30_000 / exact - 1).max()
    assert error < 1e-13
    assert np.abs(narrow / 30_000 / exact - 1).max() > 1e6 * error
    assert mean.divided(total, 30_000.0).dtype == np.float32


def test_large_vectors_are_folded_by_blocks_to_the_same() -> None:
    size = 2 * mean.BLOCK + 12_345
    vector = np.random.default_rng(2).standard_normal(size).astype(np.float32)
    total = np.ones(size)
    mean.fold(total, vector, 0.3)
    np.testing.assert_array_equal(total, 1.0 + vector.astype(np.float64) * 0.3)
    assert mean.norm_of(vector) == pytest.approx(np.linalg.norm(vector.astype(np.float64)))
    vector[size - 1] = np.nan
    assert math.isnan(mean.norm_of(vector))


@pytest.mark.parametrize("n", [3, 4, 7, 10])
def test_block_means_are_numpys(n: int) -> None:
    columns = 2 * robust.TILE + 3
    block = np.random.default_rng(n).standard_normal((n, columns)).astype(np.float32)
    np.testing.assert_allclose(robust.median(block), np.median(block, axis=0), rtol=1e-5)
    ordered = np.sort(block, axis=0)
    cut = int(0.3 * n)
    expected = ordered[cut : n - cut].mean(axis=0)
    np.testing.assert_allclose(robust.trimmed_mean(block, 0.3), expected, atol=1e-6)
    one = robust.nearest_mean(block[:, :50], 3)
    for column, found in zip(block.T[:50].astype(np.float64), one, strict=True):
        middle = statistics.median(column)
        assert found == pytest.approx(
            np.mean(sorted(column, key=lambda value: abs(value - middle))[:3]), abs=1e-6
        )


@pytest.mark.parametrize(
    ("strategy", "needed"),
    [
        (order.MeanStrategy(), 1),
        (order.MedianStrategy(), 3),
        (order.TrimmedStrategy(), 5),
        (order.TrimmedStrategy(trimmed_share=0.34), 3),
        (order.KrumStrategy(malicious_count=2), 7),
        (order.MultiKrumStrategy(), 5),
        (order.BulyanStrategy(), 7),
    ],
)
def test_a_robust_strategy_says_how_many_it_needs(strategy: order.Strategy, needed: int) -> None:
    assert robust.updates_min(strategy) == needed
