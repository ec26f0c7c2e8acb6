"""Scores of reports against hand-counted cases and scikit-learn."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as reference

from cloud_hub.explain import anomalies, curves, numbers, scores
from cloud_hub.explain.calibration import calibration_error, fit_temperature, reliability
from cloud_hub.explain.intervals import share_of
from cloud_hub.explain.report import CLASSES_SHOWN_MAX
from cloud_hub.explain.slices import score_slices
from cloud_hub.explain.worst import surest_right, worst_items
from shared.model.metrics import confusion


@pytest.mark.parametrize(
    ("right", "count", "low", "high"),
    # Published: R. G. Newcombe, Statistics in Medicine 17, 1998, table I, method 3
    [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_intervals_are_wilsons(right: int, count: int, low: float, high: float) -> None:
    interval = share_of(right, count)
    assert interval is not None
    assert (interval.low, interval.high) == pytest.approx((low, high), abs=5e-5)
    assert interval.count == count


def test_a_share_of_nothing_is_not_said() -> None:
    assert share_of(0, 0) is None


@given(st.integers(1, 5000), st.floats(0.0, 1.0))
def test_an_interval_holds_its_value_and_stays_a_share(count: int, share: float) -> None:
    interval = share_of(round(share * count), count)
    assert interval is not None
    assert 0.0 <= interval.low <= interval.value <= interval.high <= 1.0
    assert interval.high > interval.low  # Three of three is not certainty


def _classes(seed: int = 3) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 4, 300)
    logits = rng.normal(0.0, 1.0, (300, 4)).round(1) + 1.5 * np.eye(4)[labels]
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return shares.astype(np.float64), labels.astype(np.int64)


def test_scores_of_classes_are_scikit_learns() -> None:
    shares, labels = _classes()
    answers = shares.argmax(axis=1)
    table = confusion(answers, labels, classes_count=4)
    names = ["a", "b", "c", "d"]
    shown = scores.shown_classes(labels, classes_count=4)
    per_class = scores.class_scores(table, shares, labels, names, shown)
    precision, recall, f1, support = reference.precision_recall_fscore_support(labels, answers)
    for index, one in enumerate(per_class):
        assert one.precision is not None
        assert one.recall is not None
        assert one.precision.value == pytest.approx(precision[index])
        assert one.recall.value == pytest.approx(recall[index])
        assert one.f1 == pytest.approx(f1[index])
        assert one.support == support[index]
        is_of = labels == index
        assert one.roc_area == pytest.approx(reference.roc_auc_score(is_of, shares[:, index]))
        wanted = reference.average_precision_score(is_of, shares[:, index])
        assert one.average_precision == pytest.approx(wanted)
    found = scores.class_metrics(table, shares, labels, per_class)
    assert found["roc_area"] == pytest.approx(
        reference.roc_auc_score(labels, shares, multi_class="ovr")
    )
    assert found["precision_macro"] == pytest.approx(precision.mean())
    assert found["log_loss"] == pytest.approx(reference.log_loss(labels, shares))
    assert found["brier"] == pytest.approx(np.square(shares - np.eye(4)[labels]).sum(1).mean())
    assert "top5_accuracy" not in found


def test_what_a_class_does_not_have_is_none_and_not_zero() -> None:
    labels, shares = np.array([0, 0]), np.array([[0.9, 0.1, 0.0], [0.2, 0.8, 0.0]])
    table = confusion(shares.argmax(axis=1), labels, classes_count=3)
    there, said, never = scores.class_scores(table, shares, labels, "xyz", np.arange(3))
    assert there.roc_area is None  # No other class to be told from
    assert said.recall is None
    assert said.precision is not None
    assert said.precision.value == 0.0
    assert never.precision is None
    assert never.f1 is None
    assert "roc_area" not in scores.class_metrics(table, shares, labels, (there, said, never))


def test_no_items_give_no_numbers() -> None:
    none = np.zeros((0, 2)), np.zeros(0, np.int64)
    assert scores.class_metrics(np.zeros((2, 2), np.int64), *none, ()) == {}
    assert anomalies.anomaly_metrics(np.zeros(0), np.zeros(0, bool), threshold=0.0) == {}
    assert numbers.number_metrics(np.zeros(0), np.zeros(0)) == {}
    assert reliability(np.zeros(0), np.zeros(0, bool)) == ()
    assert fit_temperature(*none) is None


def test_of_many_classes_those_with_the_most_items_are_shown() -> None:
    count = CLASSES_SHOWN_MAX + 50
    labels = np.repeat(np.arange(count), np.where(np.arange(count) < 50, 1, 2))
    shown = scores.shown_classes(labels, classes_count=count)
    assert shown.tolist() == list(range(50, count))


def test_curves_are_scikit_learns() -> None:
    shares, labels = _classes(4)
    is_of = labels == 1
    ours = curves.roc_curve(shares[:, 1], is_of)
    assert ours is not None
    false, true, _ = reference.roc_curve(is_of, shares[:, 1], drop_intermediate=False)
    np.testing.assert_allclose(ours.false_rates, false)
    np.testing.assert_allclose(ours.true_rates, true)
    assert ours.area == pytest.approx(reference.auc(false, true))
    curve = curves.precision_curve(shares[:, 1], is_of)
    assert curve is not None
    precisions, recalls, _ = reference.precision_recall_curve(is_of, shares[:, 1])
    np.testing.assert_allclose(curve.precisions, precisions[:-1][::-1])
    np.testing.assert_allclose(curve.recalls, recalls[:-1][::-1])


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=1, max_size=40))
def test_areas_of_tied_scores_are_scikit_learns(rows: list[tuple[int, bool]]) -> None:
    values = np.array([value for value, _ in rows], np.float64)
    is_positive = np.array([flag for _, flag in rows])
    area = curves.area_under_roc(values, is_positive)
    if is_positive.all() or not is_positive.any():
        assert area is None
    else:
        assert area == pytest.approx(reference.roc_auc_score(is_positive, values))
    if is_positive.any():
        wanted = reference.average_precision_score(is_positive, values)
        assert curves.average_precision(values, is_positive) == pytest.approx(wanted)


def test_a_false_rate_is_never_exceeded() -> None:
    values = np.array([0.1, 0.2, 0.3, 0.3, 0.5, 0.4, 0.9])
    is_anomalous = np.array([False] * 5 + [True] * 2)
    row = curves.at_false_rate(values, is_anomalous, false_rate=0.4)
    assert row is not None
    assert row.threshold == 0.3  # Two normal items tie there: only 0.5 lies above
    assert row.false_rate == pytest.approx(0.2)
    assert row.recall == 1.0
    assert row.precision == pytest.approx(2 / 3)


def test_anomalies_by_hand() -> None:
    values = np.array([0.0, 1.0, 2.0, 3.0])
    is_anomalous = np.array([False, True, False, True])
    found = anomalies.anomaly_metrics(values, is_anomalous, threshold=1.5)
    assert found["accuracy"] == 0.5
    assert found["recall"] == found["precision"] == found["false_rate"] == 0.5
    assert found["roc_area"] == 0.75
    assert not [name for name in found if "at_false_rate" in name]  # Two items show no 10 %
    losses = anomalies.anomaly_losses(values, is_anomalous, threshold=1.5)
    assert (losses > 0).tolist() == [False, True, True, False]


def test_numbers_by_hand() -> None:
    found = numbers.number_metrics(np.array([1.0, 2.5, 3.0]), np.array([1.0, 2.0, 5.0]))
    assert found["mae"] == pytest.approx(2.5 / 3)
    assert found["rmse"] == pytest.approx(np.sqrt(4.25 / 3))
    assert found["bias"] == pytest.approx(-0.5)
    assert found["within_tolerance"] == pytest.approx(2 / 3)
    wanted = reference.r2_score([1.0, 2.0, 5.0], [1.0, 2.5, 3.0])
    assert found["r_squared"] == pytest.approx(wanted)
    assert "r_squared" not in numbers.number_metrics(np.array([1.0]), np.array([2.0]))


def test_a_slice_is_worse_only_beyond_chance() -> None:
    names = {"device": ["good"] * 400 + ["bad"] * 60 + ["small"] * 3}
    right = np.concatenate(
        [np.ones(380), np.zeros(20), np.ones(40), np.zeros(20), [0.0], np.ones(2)]
    )
    found = {one.name: one for one in score_slices(names, right, np.ones_like(right))}
    assert found["bad"].is_worse
    assert not found["good"].is_worse
    assert not found["small"].is_worse  # Two of three: its interval reaches the whole
    assert found["small"].accuracy.high - found["small"].accuracy.low > 0.6


def test_a_slice_that_is_the_whole_is_left_out() -> None:
    right = np.ones(4)
    assert score_slices({"site": ["north"] * 4}, right, right) == ()
    assert len(score_slices({"site": ["north"] * 3 + [""]}, right, right)) == 1
    assert score_slices({"site": []}, np.zeros(0), np.zeros(0)) == ()


def test_bins_have_equal_mass_and_the_error_is_the_mean_gap() -> None:
    confidences = np.repeat([0.6, 0.9], [60, 60])
    is_right = np.concatenate([np.arange(60) < 30, np.arange(60) < 54])
    low, high = reliability(confidences, is_right)  # Equal confidences are one bin
    assert (low.count, low.accuracy) == (60, 0.5)
    assert (high.count, high.accuracy) == (60, 0.9)
    assert calibration_error((low, high)) == pytest.approx(0.05)
    many = reliability(np.linspace(0.3, 1.0, 240), np.ones(240, bool))
    assert {one.count for one in many} == {20}
    assert sum(one.count for one in many) == 240


def test_the_temperature_that_was_drawn_with_is_found_again() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(0.0, 2.0, (4000, 5))
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    labels = np.array([rng.choice(5, p=row) for row in shares])
    assert fit_temperature(logits * 3.0, labels) == pytest.approx(3.0, rel=0.08)


def test_worst_items_are_few_of_each_class_and_ties_keep_their_order() -> None:
    losses = np.array([5.0, 9.0, 9.0, 7.0, 1.0])
    labels = np.array([0, 0, 0, 0, 1])
    assert worst_items(losses, labels, per_class_max=2).tolist() == [1, 2, 4]
    assert worst_items(losses, labels, count_max=1).tolist() == [1]
    is_right = np.array([True, False, True, True, True])
    found = surest_right(losses, is_right, labels, count_max=9)
    assert found.tolist() == [2, 4]
