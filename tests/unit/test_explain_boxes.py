"""Detection scores of reports, by hand."""

import numpy as np
import pytest

from cloud_hub.explain import detections
from shared.model.postprocess import Boxes

A, B = (0.0, 0.0, 0.4, 0.4), (0.5, 0.5, 0.9, 0.9)


def boxes(*rows: tuple[float, float, float, float, float, int]) -> Boxes:
    return Boxes(
        corners=np.array([row[:4] for row in rows], np.float32).reshape(-1, 4),
        scores=np.array([row[4] for row in rows], np.float32),
        classes=np.array([row[5] for row in rows], np.int64),
    )


TRUE = [boxes((*A, 1.0, 0), (*B, 1.0, 1)), boxes((*A, 1.0, 0))]
FOUND = [boxes((*A, 0.9, 0), (*B, 0.4, 0)), boxes((*B, 0.8, 0))]


def test_classes_have_their_own_precision_and_recall() -> None:
    first, second, third = detections.detection_class_scores(
        FOUND, TRUE, ("near", "far", "none"), confidence_min=0.5
    )
    assert first.precision is not None
    assert first.recall is not None
    assert first.precision.value == 0.5  # 0.9 is right, 0.8 is not, 0.4 does not count
    assert first.recall.value == 0.5
    assert first.average_precision == pytest.approx(0.5)
    assert second.precision is None
    assert second.average_precision == 0.0
    assert third.support == 0
    assert third.average_precision is None
    metrics = detections.detection_metrics(
        FOUND, TRUE, (first, second, third), confidence_min=0.5, input_pixels=100.0 * 100.0
    )
    assert metrics["map"] == pytest.approx(0.25)
    assert metrics["f1"] == pytest.approx(2 / 5)
    assert metrics["false_boxes_medium"] == 1.0  # 40 x 40 pixels
    assert metrics["missed_boxes_per_item"] == 1.0


def test_f1_by_confidence_is_that_of_boxes_kept() -> None:
    for confidence, f1 in detections.f1_by_confidence(FOUND, TRUE):
        kept = [detections.confident(one, confidence) for one in FOUND]
        assert f1 == detections.count_boxes(kept, TRUE).f1


def test_pictures_without_any_box_have_no_f1() -> None:
    assert detections.count_boxes([boxes()], [boxes()]).f1 is None
    assert detections.f1_by_confidence([boxes()], [boxes()]) == ()
    assert detections.detection_metrics([], [], (), confidence_min=0.5, input_pixels=1.0) == {}
