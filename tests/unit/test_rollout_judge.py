"""The judge: counts in, one judgement out."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud_hub.rollouts.judge import Counts, ItemTotals, Verdict, WaveFacts, judge_wave
from cloud_hub.rollouts.order import FailureLimit, RolloutOrder
from shared.ids import ModelName

ORDER = RolloutOrder(
    model=ModelName("tones"),
    version=2,
    failure_limit=FailureLimit(share_max=0.25, count_min=2),
    success_share_min=0.6,
    unknown_share_max=0.2,
    wave_deadline_s=100.0,
    bake_s=10.0,
)
NOW_MS = 1_000_000


def counts(*, updated: int = 0, failed: int = 0, pending: int = 0, unknown: int = 0) -> Counts:
    return Counts(
        size=updated + failed + pending + unknown,
        updated=updated,
        failed=failed,
        answered=updated + failed,
        pending=pending,
        unknown=unknown,
    )


def facts(wave: Counts, *, before: Counts | None = None, **changes: object) -> WaveFacts:
    so_far = wave if before is None else _sum(wave, before)
    made = WaveFacts(wave=wave, so_far=so_far, waiting=0, good_ms=None)
    return replace(made, **changes)  # type: ignore[arg-type]


def _sum(one: Counts, other: Counts) -> Counts:
    names = ("size", "updated", "failed", "answered", "pending", "unknown")
    return Counts(**{name: getattr(one, name) + getattr(other, name) for name in names})


@pytest.mark.parametrize(
    ("wave", "verdict", "code"),
    [
        (counts(pending=4), Verdict.WAIT, "wave.pending"),
        (counts(updated=3, pending=1), Verdict.WAIT, "wave.pending"),
        (counts(updated=4), Verdict.BAKE, "wave.good"),
        # One failure of two is over the share, but under the count.
        (counts(updated=1, failed=1), Verdict.HOLD, "wave.short"),
        (counts(failed=2, pending=5), Verdict.FAIL, "wave.failed"),
        (counts(failed=2, pending=6), Verdict.WAIT, "wave.pending"),  # Exactly at the limit
        (counts(updated=6, failed=2), Verdict.BAKE, "wave.good"),
        (counts(updated=4, unknown=1), Verdict.BAKE, "wave.good"),  # Exactly at the limit
        (counts(updated=3, unknown=1), Verdict.HOLD, "wave.silent"),
        (counts(unknown=1), Verdict.HOLD, "wave.silent"),
        (counts(unknown=3, pending=1), Verdict.WAIT, "wave.pending"),
        (counts(failed=3, unknown=3), Verdict.FAIL, "wave.failed"),
    ],
)
def test_counts_lead_to_this_verdict(wave: Counts, verdict: Verdict, code: str) -> None:
    judgement = judge_wave(facts(wave), ORDER, now_ms=NOW_MS)
    assert (judgement.verdict, judgement.code) == (verdict, code)
    assert judgement.text


def test_failures_add_up_over_the_waves() -> None:
    wave, before = counts(failed=1, updated=3), counts(failed=2, updated=3)
    order = replace(ORDER, failure_limit=FailureLimit(share_max=0.3, count_min=2))
    judgement = judge_wave(facts(wave, before=before), order, now_ms=NOW_MS)
    assert judgement.verdict is Verdict.FAIL
    assert "3 of 9 devices moved so far" in judgement.text


def test_an_earlier_wave_that_fell_silent_holds_a_later_one() -> None:
    wave, before = counts(updated=2), counts(unknown=2, updated=1)
    judgement = judge_wave(facts(wave, before=before), ORDER, now_ms=NOW_MS)
    assert judgement.code == "wave.silent"


def test_a_good_wave_passes_only_after_it_has_baked() -> None:
    wave = counts(updated=4)
    early = judge_wave(facts(wave, good_ms=NOW_MS - 9_999), ORDER, now_ms=NOW_MS)
    late = judge_wave(facts(wave, good_ms=NOW_MS - 10_000), ORDER, now_ms=NOW_MS)
    assert (early.verdict, late.verdict) == (Verdict.BAKE, Verdict.PASS)


def test_a_clock_that_was_set_back_passes_nothing() -> None:
    judgement = judge_wave(facts(counts(updated=4), good_ms=NOW_MS + 1), ORDER, now_ms=NOW_MS)
    assert judgement.verdict is Verdict.BAKE


@pytest.mark.parametrize(
    ("items", "good_s", "verdict"),
    [
        (None, 20, Verdict.BAKE),
        (ItemTotals(decided=49), 20, Verdict.BAKE),
        (ItemTotals(decided=50), 20, Verdict.PASS),
        (ItemTotals(decided=50), 5, Verdict.BAKE),
        (ItemTotals(decided=49), 111, Verdict.HOLD),
        (None, 111, Verdict.HOLD),
        (ItemTotals(decided=40, failed=10), 5, Verdict.FAIL),
        (ItemTotals(decided=1, failed=3), 5, Verdict.BAKE),  # Too few to say anything
    ],
)
def test_traffic_is_needed_where_the_order_asks_for_it(
    items: ItemTotals | None, good_s: int, verdict: Verdict
) -> None:
    order = replace(ORDER, bake_items_min=50)
    given_facts = facts(counts(updated=4), good_ms=NOW_MS - good_s * 1000, items=items)
    assert judge_wave(given_facts, order, now_ms=NOW_MS).verdict is verdict


def test_an_empty_wave_is_no_success() -> None:
    nobody = counts()
    assert judge_wave(facts(nobody, waiting=3), ORDER, now_ms=NOW_MS).verdict is Verdict.REFILL
    assert judge_wave(facts(nobody), ORDER, now_ms=NOW_MS).code == "wave.empty"
    earlier = facts(nobody, before=counts(updated=2), good_ms=0)
    assert judge_wave(earlier, ORDER, now_ms=NOW_MS).verdict is Verdict.PASS


@given(
    updated=st.integers(0, 20),
    failed=st.integers(0, 20),
    pending=st.integers(0, 20),
    unknown=st.integers(0, 20),
    good_ms=st.one_of(st.none(), st.integers(0, NOW_MS)),
)
def test_nothing_passes_without_proof_or_with_someone_pending(
    updated: int, failed: int, pending: int, unknown: int, good_ms: int | None
) -> None:
    wave = counts(updated=updated, failed=failed, pending=pending, unknown=unknown)
    judgement = judge_wave(facts(wave, good_ms=good_ms), ORDER, now_ms=NOW_MS)
    if judgement.verdict in (Verdict.PASS, Verdict.BAKE):
        assert pending == 0
        assert updated > 0
        assert unknown <= 0.2 * wave.size
        assert updated >= 0.6 * (updated + failed)
        assert failed < 2 or failed <= 0.25 * wave.size
