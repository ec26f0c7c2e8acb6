"""The rules of a trial."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.inference.active_model import Comparison
from edge_agent.updates.trial import FAILED_IN_A_ROW, Ruling, Tally, Verdict, judge
from shared.wire.target import TrialPolicy

POLICY = TrialPolicy(items_min=100, seconds_min=10.0, deadline_s=600.0)


def item(
    *,
    new_ms: float | None = 10.0,
    old_ms: float | None = 10.0,
    new_confidence: float = 0.8,
    old_confidence: float = 0.8,
    agrees: bool = True,
    versions: tuple[int, int] = (2, 1),
) -> Comparison:
    has_both = new_ms is not None and old_ms is not None
    return Comparison(
        serving_version=versions[0],
        companion_version=versions[1],
        serving_ms=new_ms,
        companion_ms=old_ms,
        serving_confidence=new_confidence if new_ms is not None else None,
        companion_confidence=old_confidence if old_ms is not None else None,
        agrees=agrees if has_both else None,
    )


def verdict_on(
    *items: Comparison, elapsed_s: float = 20.0, policy: TrialPolicy = POLICY, alone: bool = False
) -> Verdict:
    tally = Tally(version=2, beside=None if alone else 1)
    tally.add(items)
    return judge(tally, policy, elapsed_s=elapsed_s)


FINE, FAILED = item(), item(new_ms=None)
BOTH_FAILED = item(new_ms=None, old_ms=None)
UNLIKE = item(agrees=False)


def test_no_worse_settles() -> None:
    assert verdict_on(*[FINE] * 100).ruling is Ruling.SETTLE


def test_too_few_items_never_settle() -> None:
    assert verdict_on(*[FINE] * 99, elapsed_s=599.0).ruling is Ruling.CONTINUE


def test_too_short_a_time_never_settles() -> None:
    assert verdict_on(*[FINE] * 5000, elapsed_s=9.9).ruling is Ruling.CONTINUE


def test_silence_at_the_deadline_is_worse() -> None:
    verdict = verdict_on(*[FINE] * 99, elapsed_s=600.0)
    assert (verdict.ruling, verdict.code) == (Ruling.WORSE, "trial.silent")
    assert "99 of 100" in verdict.text


def test_failing_in_a_row_ends_it_at_once() -> None:
    few = [FAILED] * FAILED_IN_A_ROW
    policy = TrialPolicy(items_min=1_000_000, failed_share_max=1.0)
    assert verdict_on(*few[1:], policy=policy).ruling is Ruling.CONTINUE
    assert verdict_on(*few, policy=policy).code == "trial.failing"
    assert verdict_on(*few[1:], FINE, FAILED, policy=policy).ruling is Ruling.CONTINUE


def test_failures_that_cannot_be_made_up_for_end_it_early() -> None:
    verdict = verdict_on(FAILED, FINE, FAILED, FINE, FAILED)
    assert verdict.code == "trial.failed_share"
    assert "3 of 5" in verdict.text


def test_one_or_two_failures_are_no_share() -> None:
    assert verdict_on(FAILED, *[FINE] * 60, FAILED, *[FINE] * 60).ruling is Ruling.SETTLE


def test_items_that_the_old_release_cannot_do_either_are_no_evidence() -> None:
    assert verdict_on(*[BOTH_FAILED] * 200, *[FINE] * 100).ruling is Ruling.SETTLE
    silent = verdict_on(*[BOTH_FAILED] * 200, elapsed_s=600.0)
    assert silent.code == "trial.silent"


def test_rotated_classes_are_caught_well_before_items_min() -> None:
    assert verdict_on(*[UNLIKE] * 40).code == "trial.disagreement"


def test_disagreement_within_its_limit_settles() -> None:
    assert verdict_on(*[UNLIKE, FINE] * 60).ruling is Ruling.SETTLE
    assert verdict_on(*[UNLIKE, FINE] * 60, UNLIKE).code == "trial.disagreement"


def test_lost_confidence_is_worse_from_items_min_on() -> None:
    unsure = item(new_confidence=0.6)
    assert verdict_on(*[unsure] * 99).ruling is Ruling.CONTINUE
    verdict = verdict_on(*[unsure] * 100)
    assert verdict.code == "trial.confidence"
    assert "0.200" in verdict.text
    assert "0.150" in verdict.text


def test_more_confidence_is_no_fault() -> None:
    assert verdict_on(*[item(new_confidence=1.0, old_confidence=0.1)] * 100).ruling is (
        Ruling.SETTLE
    )


@pytest.mark.parametrize(
    ("new_ms", "old_ms", "ruling"),
    [
        (20.0, 10.0, Ruling.SETTLE),  # Exactly twice
        (20.1, 10.0, Ruling.WORSE),
        (4.9, 0.1, Ruling.SETTLE),  # 49 times slower, and still fast
        (5.1, 0.1, Ruling.WORSE),
    ],
)
def test_latency_is_judged_by_ratio_and_floor(new_ms: float, old_ms: float, ruling: Ruling) -> None:
    assert verdict_on(*[item(new_ms=new_ms, old_ms=old_ms)] * 100).ruling is ruling


def test_one_slow_item_does_not_make_a_slow_release() -> None:
    assert verdict_on(*[item(new_ms=5000.0)] * 40, *[FINE] * 60).ruling is Ruling.SETTLE


def test_items_of_another_pair_are_not_counted() -> None:
    assert verdict_on(*[item(versions=(1, 1))] * 200).ruling is Ruling.CONTINUE


def test_a_first_release_settles_by_not_failing() -> None:
    beside_itself = item(versions=(2, 2))
    assert verdict_on(*[beside_itself] * 100, alone=True).ruling is Ruling.SETTLE


def test_a_first_release_stays_in_its_trial_while_it_is_silent() -> None:
    few = [item(versions=(2, 2))] * 5
    assert verdict_on(*few, elapsed_s=1e9, alone=True).ruling is Ruling.CONTINUE


def test_a_first_release_that_fails_is_worse_although_both_failed() -> None:
    failed = item(new_ms=None, old_ms=None, versions=(2, 2))
    assert verdict_on(*[failed] * 5, alone=True).code == "trial.failing"


ITEMS = st.lists(st.sampled_from([FINE, FAILED, BOTH_FAILED, UNLIKE]), max_size=300)


@given(ITEMS, st.floats(0, 1000))
def test_a_trial_never_settles_early_and_never_outlives_its_deadline_unjudged(
    items: list[Comparison], elapsed_s: float
) -> None:
    verdict = verdict_on(*items, elapsed_s=elapsed_s)
    if verdict.ruling is Ruling.SETTLE:
        assert len(items) >= POLICY.items_min
        assert elapsed_s >= POLICY.seconds_min
    if elapsed_s >= POLICY.deadline_s:
        assert verdict.ruling is not Ruling.CONTINUE
    if verdict.ruling is Ruling.WORSE:
        assert verdict.code.startswith("trial.")
        assert verdict.text
