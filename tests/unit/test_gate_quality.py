"""The gate's statistics against independent computations, and its rules on quality as tables."""

import math

import msgspec
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from scipy import stats

from cloud_hub.candidates.candidate import Answer, Verdict
from cloud_hub.candidates.examination import EvaluationFacts, PairedCounts, VariantFacts
from cloud_hub.candidates.gate_quality import (
    QualitySettings,
    compare_slices,
    cost_reasons,
    margin_of,
    quality_reasons,
)
from cloud_hub.candidates.paired_test import (
    EXACT_LOSSES_MAX,
    bound_high,
    bound_low,
    claims_by_holm,
    items_needed,
    score,
    worse_p_value,
)

Z = 1.6448536269514722
SETTINGS = QualitySettings()


@st.composite
def counts(draw: st.DrawFn) -> tuple[int, int, int]:
    """Gained, lost, items."""
    items = draw(st.integers(1, 5000))
    gained = draw(st.integers(0, items))
    return gained, draw(st.integers(0, items - gained)), items


def score_by_search(gained: int, lost: int, items: int, difference: float) -> float:
    """The score statistic, its nuisance chance found by trying many, not by a formula."""
    low, high = max(0.0, -difference), (1.0 - difference) / 2.0  # Of "lost"; "gained" is more by d
    for _ in range(12):
        q = np.linspace(low, high, 101)
        with np.errstate(divide="ignore", invalid="ignore"):
            likelihood = (
                np.where(gained, gained * np.log(q + difference), 0.0)
                + np.where(lost, lost * np.log(q), 0.0)
                + np.where(
                    items - gained - lost,
                    (items - gained - lost) * np.log(1.0 - 2.0 * q - difference),
                    0.0,
                )
            )
        best = int(np.nanargmax(likelihood))
        low, high = q[max(best - 1, 0)], q[min(best + 1, 100)]
    variance = items * (2.0 * q[best] + difference - difference**2)
    return float((gained - lost - items * difference) / math.sqrt(variance))


@pytest.mark.parametrize(
    ("gained", "lost", "items"),
    [(1, 0, 20), (1, 1, 50), (3, 9, 60), (9, 3, 60), (20, 25, 400), (1, 30, 100), (40, 60, 100)],
)
def test_the_bound_is_where_a_brute_force_search_finds_it(
    gained: int, lost: int, items: int
) -> None:
    grid = np.arange(-0.999, (gained - lost) / items, 0.001)
    rejected = [d for d in grid if score_by_search(gained, lost, items, float(d)) > Z]
    assert bound_low(gained, lost, items) == pytest.approx(max(rejected), abs=0.0011)


def test_where_nothing_differs_the_bound_has_a_closed_form() -> None:
    for items in (1, 10, 100, 10_000):
        assert bound_low(0, 0, items) == pytest.approx(-(1.0 - 0.05 ** (1.0 / items)), abs=1e-9)


@given(st.integers(1, 3000), st.integers(0, 250))
@example(98, 97)
def test_where_nothing_was_gained_the_exact_binomial_bound_agrees(items: int, lost: int) -> None:
    lost = min(lost, items)
    exact = -1.0 if lost == items else -stats.beta.ppf(0.95, lost + 1, items - lost)
    low = bound_low(0, lost, items)
    by_score = score(0, lost, items, low) if -1.0 < low < 0.0 else Z
    if lost <= EXACT_LOSSES_MAX:
        assert low <= exact + 1e-9
    # Never further out than the further of the two.
    assert low == pytest.approx(exact, abs=1e-9) or by_score == pytest.approx(Z, abs=1e-4)


@given(counts())
def test_bounds_hold_the_estimate_between_them(count: tuple[int, int, int]) -> None:
    gained, lost, items = count
    low, high = bound_low(*count), bound_high(*count)
    assert -1.0 <= low <= (gained - lost) / items <= high <= 1.0
    assert low == pytest.approx(-bound_high(lost, gained, items), abs=1e-12)


@given(counts())
def test_one_more_loss_never_raises_the_bound(count: tuple[int, int, int]) -> None:
    gained, lost, items = count
    if gained:
        assert bound_low(gained - 1, lost, items) <= bound_low(*count) + 1e-9
    if gained + lost < items:
        assert bound_low(gained, lost + 1, items) <= bound_low(*count) + 1e-9


@given(counts(), st.floats(-0.99, 0.99))
def test_the_score_is_finite_and_has_the_sign_of_what_is_seen(
    count: tuple[int, int, int], difference: float
) -> None:
    gained, lost, items = count
    seen = (gained - lost) / items
    value = score(gained, lost, items, difference)
    assert not math.isnan(value)
    if abs(seen - difference) > 1e-6:
        assert (value > 0.0) == (seen > difference)


def exact_errors(items: int, margin: float, gained_chances: list[float]) -> list[float]:
    """Chances to say "not worse" where the truth is exactly the margin: every outcome counted."""
    passing = []  # By the number gained: the most losses with which it is still said
    lost = -1
    for gained in range(items + 1):
        while gained + lost + 1 <= items and bound_low(gained, lost + 1, items) > -margin:
            lost += 1
        passing.append(lost)
    gains, most = np.arange(items + 1), np.minimum(passing, items - np.arange(items + 1))
    errors = []
    for chance in gained_chances:
        said = stats.binom.cdf(most, items - gains, (chance + margin) / (1.0 - chance))
        errors.append(float(stats.binom.pmf(gains, items, chance) @ said))
    return errors


@pytest.mark.parametrize(
    ("items", "margin"),
    [
        *((15, 0.2), (20, 0.2), (30, 0.1), (40, 0.15), (52, 0.05), (59, 0.05), (80, 0.05)),
        *((120, 0.05), (133, 0.02), (149, 0.02), (300, 0.02)),
    ],
)
def test_the_level_holds_for_few_items_counted_out_exactly(items: int, margin: float) -> None:
    """The score interval alone fails here: up to 6.9 % where nothing can be gained."""
    chances = [0.0, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2]
    assert max(exact_errors(items, margin, chances)) <= 0.0551


@pytest.mark.parametrize(("items", "margin"), [(150, 0.05), (600, 0.02), (2000, 0.02)])
@pytest.mark.parametrize("gained_chance", [0.0, 0.01, 0.05])
def test_a_model_worse_by_just_the_margin_passes_in_five_of_a_hundred(
    items: int, margin: float, gained_chance: float
) -> None:
    """A simulation with a fixed seed: 20 000 sets, its own error is 0.15 points."""
    random = np.random.default_rng(7)
    chances = [gained_chance, gained_chance + margin, 1.0 - 2.0 * gained_chance - margin]
    drawn = random.multinomial(items, chances, size=20_000)[:, :2]
    pairs, times = np.unique(drawn, axis=0, return_counts=True)
    passed = [bound_low(int(g), int(lost), items) > -margin for g, lost in pairs]
    assert times[passed].sum() / 20_000 <= 0.055


@given(st.integers(0, 50_000), st.integers(0, 50_000))
def test_mcnemar_is_scipys_exact_one_sided_binomial_test(gained: int, lost: int) -> None:
    if gained + lost == 0:
        assert worse_p_value(0, 0) == 1.0
        return
    expected = stats.binomtest(lost, gained + lost, 0.5, alternative="greater").pvalue
    assert worse_p_value(gained, lost) == pytest.approx(expected, rel=1e-7, abs=1e-300)


@given(st.integers(0, 12), st.integers(0, 12))
def test_mcnemar_counts_the_throws_of_a_fair_coin(gained: int, lost: int) -> None:
    throws = gained + lost
    ways = sum(math.comb(throws, heads) for heads in range(lost, throws + 1))
    assert worse_p_value(gained, lost) == pytest.approx(ways / 2**throws, rel=1e-12)


@pytest.mark.parametrize(
    ("p_values", "claimed"),
    [
        ({}, set()),
        ({"a": 0.05}, {"a"}),
        ({"a": 0.051}, set()),
        ({"a": 0.02, "b": 0.04}, {"a", "b"}),  # Bonferroni alone would leave b
        ({"a": 0.026, "b": 0.001}, {"a", "b"}),
        ({"a": 0.026, "b": 0.03}, set()),  # The first fails: so does what comes after
        ({"a": 0.01, "b": 0.03, "c": 0.03}, {"a"}),
    ],
)
def test_holms_steps(p_values: dict[str, float], claimed: set[str]) -> None:
    assert claims_by_holm(p_values) == claimed


@given(st.dictionaries(st.text(max_size=3), st.floats(0.0, 1.0), max_size=8))
def test_holm_claims_no_less_than_bonferroni_and_the_smallest_first(
    p_values: dict[str, float],
) -> None:
    claimed = claims_by_holm(p_values)
    for name, p_value in p_values.items():
        if p_value <= 0.0499999 / len(p_values):
            assert name in claimed
        if name in claimed:
            assert p_value <= 0.05 + 1e-12
            assert {n for n, p in p_values.items() if p < p_value} <= claimed


@given(counts(), st.floats(0.005, 0.2))
def test_the_number_of_items_asked_for_would_tell(
    count: tuple[int, int, int], margin: float
) -> None:
    """With that many items, as many of which differ, new and old equally good: "not worse"."""
    gained, lost, items = count
    needed = items_needed(gained, lost, items, margin=margin)
    assert needed > items
    assert needed >= items_needed(0, 0, items, margin=margin)
    half = max(gained + lost, 0.5) / items * needed / 2.0
    # Whole items only: on small sets half an item would decide.
    assert bound_low(math.floor(half), math.floor(half), needed) > -margin


def paired(name: str = "", *, items: int, gained: int, lost: int) -> PairedCounts:
    """Counts where the old model is right on 9 of 10."""
    old = max(lost, int(items * 0.9) - gained)
    return PairedCounts(
        name=name,
        items_count=items,
        right_count=old + gained - lost,
        right_old_count=old,
        gained_count=gained,
        lost_count=lost,
    )


@pytest.mark.parametrize(
    ("items", "gained", "lost", "answer"),
    [
        (1000, 0, 0, Answer.NOT_WORSE),
        (1000, 30, 20, Answer.NOT_WORSE),
        (1000, 0, 8, Answer.NOT_WORSE),  # Surely worse, but surely within the margin too
        (1000, 20, 30, Answer.CANNOT_TELL),
        (100, 0, 0, Answer.CANNOT_TELL),  # -2.6 points could hide here
        (1000, 10, 60, Answer.WORSE),
        (30, 0, 8, Answer.WORSE),
        (1, 0, 1, Answer.CANNOT_TELL),
    ],
)
def test_the_answer_on_all_items(items: int, gained: int, lost: int, answer: Answer) -> None:
    (row,) = compare_slices((paired(items=items, gained=gained, lost=lost),), SETTINGS)
    assert row.answer is answer
    assert (row.items_needed is not None) == (answer is Answer.CANNOT_TELL)
    reasons, remarks = quality_reasons((row,), SETTINGS)
    assert not remarks
    code = {Answer.WORSE: "gate.worse", Answer.CANNOT_TELL: "gate.cannot_tell"}.get(answer)
    assert [reason.code for reason in reasons] == ([code] if code else [])


@given(counts())
def test_a_row_is_what_the_counts_say(count: tuple[int, int, int]) -> None:
    gained, lost, items = count
    given_counts = PairedCounts(
        name="",
        items_count=items,
        right_count=gained,
        right_old_count=lost,
        gained_count=gained,
        lost_count=lost,
    )
    (row,) = compare_slices((given_counts,), SETTINGS)
    assert row.bound_low is not None
    assert (row.answer is Answer.NOT_WORSE) == (row.bound_low > -SETTINGS.margin)
    assert row.accuracy_new - (row.accuracy_old or 0.0) == pytest.approx((gained - lost) / items)


def test_cannot_tell_says_how_many_items_would() -> None:
    rows = compare_slices((paired(items=60, gained=1, lost=1),), SETTINGS)
    reasons, _ = quality_reasons(rows, SETTINGS)
    assert rows[0].items_needed == items_needed(1, 1, 60, margin=0.02)
    assert f"about {rows[0].items_needed} would be needed" in reasons[0].text
    assert "1 of 60 items got worse, 1 better" in reasons[0].text
    assert reasons[0].limit == "above -2.0 points"


def test_unsure_is_only_a_remark_where_settings_say_so() -> None:
    settings = QualitySettings(is_unsure_refused=False)
    rows = compare_slices((paired(items=60, gained=1, lost=1),), settings)
    reasons, remarks = quality_reasons(rows, settings)
    assert (reasons, [remark.code for remark in remarks]) == ([], ["gate.cannot_tell"])


@pytest.mark.parametrize(
    ("items", "gained", "lost", "refused", "remarked"),
    [
        (500, 5, 5, [], []),
        (99, 4, 6, [], ["gate.slice_cannot_tell"]),
        (100, 4, 6, ["gate.slice_cannot_tell"], []),
        (20, 0, 9, ["gate.slice_worse"], []),  # However small
    ],
)
def test_a_slice(
    items: int, gained: int, lost: int, refused: list[str], remarked: list[str]
) -> None:
    everything = paired(items=5000, gained=10, lost=10)
    rows = compare_slices(
        (everything, paired("night", items=items, gained=gained, lost=lost)), SETTINGS
    )
    reasons, remarks = quality_reasons(rows, SETTINGS)
    assert [reason.code for reason in reasons] == refused
    assert [remark.code for remark in remarks] == remarked
    assert all("In slice 'night'" in one.text for one in (*reasons, *remarks))


def test_many_slices_need_a_stronger_proof_that_one_is_worse() -> None:
    """5 losses to none have p = 0.031: a proof alone, not among ten slices."""
    bad = paired("bad", items=40, gained=0, lost=5)
    alone = compare_slices((paired(items=5000, gained=0, lost=5), bad), SETTINGS)
    assert alone[1].answer is Answer.WORSE
    others = [paired(f"slice{i}", items=400, gained=0, lost=0) for i in range(9)]
    among = compare_slices((paired(items=5000, gained=0, lost=5), bad, *others), SETTINGS)
    assert among[1].answer is Answer.CANNOT_TELL
    assert [row.answer for row in among[2:]] == [Answer.NOT_WORSE] * 9


def test_a_slice_may_have_a_margin_of_its_own() -> None:
    settings = QualitySettings(slice_margins={"night": 0.2})
    assert [margin_of(name, settings) for name in ("", "day", "night")] == [0.02, 0.05, 0.2]
    rows = compare_slices(
        (
            paired(items=5000, gained=5, lost=5),
            paired("day", items=60, gained=0, lost=6),
            paired("night", items=60, gained=0, lost=6),
        ),
        settings,
    )
    assert [row.answer for row in rows[1:]] == [Answer.WORSE, Answer.NOT_WORSE]


def test_the_first_release_is_compared_with_nothing_but_may_have_a_floor() -> None:
    first = PairedCounts(name="", items_count=200, right_count=150)
    for floor, codes in ((None, []), (0.75, []), (0.76, ["gate.accuracy"])):
        settings = QualitySettings(accuracy_min=floor)
        rows = compare_slices((first,), settings)
        reasons, remarks = quality_reasons(rows, settings)
        assert rows[0].answer is Answer.FIRST
        assert [reason.code for reason in reasons] == codes
        assert not remarks


@pytest.mark.parametrize(
    ("new_ms", "old_ms", "settings", "codes"),
    [
        (20.0, 10.0, QualitySettings(), ["gate.slower"]),
        (15.0, 10.0, QualitySettings(), []),
        (4.9, 0.1, QualitySettings(), []),  # Fast enough whatever the old one was
        (20.0, None, QualitySettings(), []),
        (None, 10.0, QualitySettings(latency_ms_max=1.0), []),
        (20.0, None, QualitySettings(latency_ms_max=19.0), ["gate.latency"]),
        (20.0, None, QualitySettings(latency_ms_max=20.0), []),
        (1.0, 1.0, QualitySettings(artifact_bytes_max=999), ["gate.artifact"]),
        (1.0, 1.0, QualitySettings(artifact_bytes_max=1000), []),
    ],
)
def test_time_and_size(
    new_ms: float | None, old_ms: float | None, settings: QualitySettings, codes: list[str]
) -> None:
    chosen = VariantFacts(name="fp32", artifact_bytes=1000, latency_ms=new_ms)
    facts = EvaluationFacts(variants=(chosen,), old_latency_ms=old_ms)
    assert [reason.code for reason in cost_reasons(facts, chosen, settings)] == codes


OLD_VERDICT = (
    b'{"is_passed":false,"reasons":[{"code":"gate.opset","text":"Old.","measured":"9",'
    b'"limit":">= 13"}],"remarks":[{"code":"gate.golden_drawn","text":"Drawn.",'
    b'"measured":"8 items","limit":""}]}'
)


def test_verdicts_kept_before_there_were_tables_are_still_read() -> None:
    verdict = msgspec.json.decode(OLD_VERDICT, type=Verdict)
    assert (verdict.variants, verdict.slices, verdict.comparison) == ((), (), None)
    assert verdict.reasons[0].code == "gate.opset"
    assert verdict.remarks[0].measured == "8 items"
    assert msgspec.json.decode(msgspec.json.encode(verdict), type=Verdict) == verdict
