"""Metrics against hand-counted cases and naive pair counting."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.model.metrics import (
    accuracy,
    confusion,
    f1_anomalies,
    f1_boxes,
    f1_macro,
    match_boxes,
    mean_average_precision,
    roc_area,
)
from shared.model.postprocess import Boxes


def boxes(*rows: tuple[float, float, float, float, float, int]) -> Boxes:
    return Boxes(
        corners=np.array([row[:4] for row in rows], np.float32).reshape(-1, 4),
        scores=np.array([row[4] for row in rows], np.float32),
        classes=np.array([row[5] for row in rows], np.int64),
    )


A = (0.0, 0.0, 0.4, 0.4)
B = (0.5, 0.5, 0.9, 0.9)


def test_accuracy_and_confusion_of_known_labels() -> None:
    predicted, true = np.array([0, 1, 1, 2]), np.array([0, 1, 2, 2])
    table = confusion(predicted, true, classes_count=3)
    assert accuracy(predicted, true) == 0.75
    assert table.tolist() == [[1, 0, 0], [0, 1, 0], [0, 1, 1]]
    assert f1_macro(table) == pytest.approx((1.0 + 2 / 3 + 2 / 3) / 3)


def test_a_class_that_never_occurs_does_not_count() -> None:
    labels = np.array([0, 0])
    assert f1_macro(confusion(labels, labels, classes_count=5)) == 1.0


def test_nothing_to_count_is_zero() -> None:
    assert accuracy(np.array([], int), np.array([], int)) == 0.0


def test_each_true_box_is_found_once() -> None:
    found = boxes((*A, 0.9, 0), (*A, 0.8, 0), (*B, 0.7, 1))
    true = boxes((*A, 1.0, 0), (*B, 1.0, 0))
    matches = match_boxes(found, true)
    assert matches.is_right.tolist() == [True, False, False]  # The last is of another class
    assert matches.f1 == pytest.approx(2 / 5)


def test_nothing_found_where_nothing_is_counts_as_right() -> None:
    assert match_boxes(boxes(), boxes()).f1 == 1.0
    assert match_boxes(boxes((*A, 0.9, 0)), boxes()).f1 == 0.0
    assert match_boxes(boxes(), boxes((*A, 0.9, 0))).f1 == 0.0


def test_f1_counts_over_all_frames() -> None:
    found = [boxes((*A, 0.9, 0)), boxes((*B, 0.9, 0))]
    true = [boxes((*A, 1.0, 0)), boxes((*A, 1.0, 0))]
    assert f1_boxes(found, true) == 0.5


def test_average_precision_of_a_hand_counted_case() -> None:
    # By score: right (precision 1, recall 1/2), wrong, right (precision 2/3, recall 1).
    found = [boxes((*A, 0.9, 0), (*B, 0.5, 0)), boxes((*B, 0.7, 0))]
    true = [boxes((*A, 1.0, 0), (*B, 1.0, 0)), boxes()]
    value = mean_average_precision(found, true, classes_count=2)
    assert value == pytest.approx((1.0 + 2 / 3) / 2)


def test_average_precision_is_one_when_all_is_right_and_zero_when_nothing_is_found() -> None:
    true = [boxes((*A, 1.0, 0), (*B, 1.0, 1))]
    assert mean_average_precision(true, true, classes_count=2) == 1.0
    assert mean_average_precision([boxes()], true, classes_count=2) == 0.0


@given(
    scores=st.lists(st.integers(0, 5), min_size=1, max_size=20),
    flags=st.lists(st.booleans(), min_size=20, max_size=20),
)
def test_roc_area_equals_counting_pairs(scores: list[int], flags: list[bool]) -> None:
    values, truth = np.array(scores, float), np.array(flags[: len(scores)])
    pairs = [(p, n) for p in values[truth] for n in values[~truth]]
    expected = np.mean([(p > n) + 0.5 * (p == n) for p, n in pairs]) if pairs else 0.5
    assert roc_area(values, truth) == pytest.approx(expected)


def test_f1_of_flags() -> None:
    flagged, truth = np.array([True, True, False]), np.array([True, False, True])
    assert f1_anomalies(flagged, truth) == 0.5
    assert f1_anomalies(np.array([False]), np.array([False])) == 1.0
