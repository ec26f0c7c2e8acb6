"""The gate's rules on numbers and masks: what is true, how close an answer is, what is said."""

import io
from typing import Any

import numpy as np
import pytest

from cloud_hub.api.verdict_bodies import SliceOut
from cloud_hub.api.verdict_words import compared_texts, slice_text
from cloud_hub.candidates.candidate import Answer, Measure
from cloud_hub.candidates.evaluation_data import check_fit, decode_evaluation, foretold, pick
from cloud_hub.candidates.evaluation_measures import Answers, agreement, count_slices, mark
from cloud_hub.candidates.evaluation_scores import (
    NOT_LABELLED,
    mask_score,
    usual_spans,
    value_scores,
)
from cloud_hub.candidates.gate_quality import QualitySettings, compare_slices, quality_reasons
from shared.errors import ContractError, RefusedError
from shared.model.spec import (
    Decoder,
    ImageInput,
    Layout,
    ModelSpec,
    OutputSpec,
    Task,
    WindowInput,
)

NUMBERS = ModelSpec(
    model="load",
    task=Task.REGRESSION,
    input=WindowInput(samples=4),
    output=OutputSpec(decoder=Decoder.VALUES),
)
COMING = ModelSpec(
    model="load",
    task=Task.FORECAST,
    input=WindowInput(samples=4, channels=2),
    output=OutputSpec(decoder=Decoder.VALUES),
)
GROUND = ModelSpec(
    model="ground",
    task=Task.SEGMENTATION,
    input=ImageInput(width=4, height=2),
    output=OutputSpec(decoder=Decoder.MASK, classes=("road", "grass")),
)


def saved(**arrays: Any) -> bytes:
    np.savez(file := io.BytesIO(), **arrays)
    return file.getvalue()


def windows(count: int = 6, samples: int = 4, channels: int = 1) -> np.ndarray:
    size = count * samples * channels
    return np.arange(size, dtype=np.float32).reshape(count, samples, channels)


def frames(count: int = 2) -> np.ndarray:
    return np.arange(count * 24, dtype=np.uint8).reshape(count, 2, 4, 3)


def test_an_error_counts_in_usual_spans_and_as_one_at_most() -> None:
    true = np.stack([np.linspace(0.0, 100.0, 101), np.full(101, 7.0)], axis=1)
    spans = usual_spans(true)
    assert spans.tolist() == pytest.approx([90.0, 7.0])
    assert usual_spans(np.zeros((3, 1))).tolist() == [1.0]
    off = true + np.array([9.0, 0.0])
    assert value_scores(off, true, spans).tolist() == pytest.approx([0.95] * 101)
    assert value_scores(true + 1e9, true, spans).tolist() == [0.0] * 101
    with pytest.raises(RefusedError, match="gives 1 values of an item; in the set 2"):
        value_scores(true[:, :1], true, spans)


def test_a_mask_is_compared_over_labelled_pixels_at_the_size_of_the_truth() -> None:
    true = np.array([[0, 0, 1, 1], [0, 0, 1, NOT_LABELLED]], np.uint8)
    assert mask_score(np.array([[0, 1]], np.uint8), true) == 1.0
    # Road: 2 of 5 told as grass; grass: 3 of what is told as 5.
    told = np.array([[0, 0, 1, 1], [1, 1, 1, 0]], np.uint8)
    assert mask_score(told, true) == pytest.approx((2 / 4 + 3 / 5) / 2)
    assert mask_score(np.full((2, 4), 2, np.uint8), true) == 0.0


def test_what_follows_a_window_is_what_a_forecaster_is_measured_by() -> None:
    data = decode_evaluation(saved(items=windows(3, 6, 2)))
    seen = foretold(data, COMING)
    check_fit(seen, COMING)
    assert seen.items.shape == (3, 4, 2)
    assert seen.values is not None
    assert seen.values[0].tolist() == [8.0, 10.0, 9.0, 11.0]  # Channel by channel
    window = WindowInput(samples=4, channels=2, layout=Layout.CHANNELS_LAST)
    last = foretold(data, ModelSpec(COMING.model, COMING.task, window, COMING.output))
    assert last.values is not None
    assert last.values[0].tolist() == [8.0, 9.0, 10.0, 11.0]
    assert pick(last, (2,)).values is not None


@pytest.mark.parametrize(
    ("arrays", "text"),
    [
        ({"labels": np.full((6, 2), np.nan)}, "`labels` hold NaN"),
        ({"labels": np.zeros((6, 65))}, "k 1 to 64"),
        ({"labels": np.zeros((5, 1))}, r"`labels` of numbers must be \(6, k\)"),
        ({"masks": np.zeros((6, 2, 2), np.uint8)}, "`masks` belong to"),
        ({"items": frames(), "masks": np.zeros((2, 2, 2), np.int64)}, "`masks` are int64"),
        ({"items": frames(), "masks": np.zeros((1, 2, 2), np.uint8)}, r"must be \(2, h, w\)"),
        ({"items": frames(), "masks": np.full((2, 2, 2), 255, np.uint8)}, "about picture 0"),
        (
            {"items": frames(), "masks": np.zeros((2, 2, 2), np.uint8), "labels": np.zeros(2)},
            "`masks` stand alone",
        ),
    ],
)
def test_a_wrong_array_is_named(arrays: dict[str, Any], text: str) -> None:
    with pytest.raises(ContractError, match=text) as raised:
        decode_evaluation(saved(**{"items": windows()} | arrays))
    assert raised.value.code == "evaluation.invalid"


def test_a_set_of_another_task_is_told_from_one_that_fits() -> None:
    numbers = decode_evaluation(saved(items=windows(), labels=np.zeros((6, 1))))
    check_fit(numbers, NUMBERS)
    masks = decode_evaluation(saved(items=frames(), masks=np.ones((2, 3, 3), np.uint8)))
    check_fit(masks, GROUND)
    beyond = decode_evaluation(saved(items=frames(), masks=np.full((2, 3, 3), 2, np.uint8)))
    classes = decode_evaluation(saved(items=frames(), labels=np.zeros(2, np.int64)))
    for data, spec, text in (
        (decode_evaluation(saved(items=windows())), NUMBERS, r"must be \(N, k\) floats"),
        (beyond, GROUND, "classes up to 2, the model knows 0 to 1"),
        (classes, GROUND, "`masks` are missing"),
    ):
        with pytest.raises(ContractError, match=text) as raised:
            check_fit(data, spec)
        assert raised.value.code == "evaluation.misfit"


def test_numbers_are_compared_pairwise_and_told_in_their_own_unit() -> None:
    count = 400
    true = np.linspace(0.0, 100.0, count)[:, None]
    data = decode_evaluation(saved(items=windows(count), labels=true))
    old, near, far = (mark(Answers(values=true + error), data) for error in (1.0, 1.5, 10.0))
    (row,) = compare_slices(count_slices(near, old, data, classes_count=0), QualitySettings())
    assert (row.answer, row.measure) == (Answer.NOT_WORSE, Measure.VALUES)
    assert row.scores_new is not None
    assert (row.scores_new.mae, row.scores_new.rmse) == pytest.approx((1.5, 1.5))
    assert compared_texts(row) == ("MAE 1.5, RMSE 1.5", "MAE 1, RMSE 1")
    (worse,) = compare_slices(count_slices(far, old, data, classes_count=0), QualitySettings())
    assert worse.answer is Answer.WORSE
    (reason,), _ = quality_reasons((worse,), QualitySettings())
    assert "mean absolute error 1 -> 10" in reason.text
    assert "Worse: with 95 % confidence" in slice_text(worse)
    assert SliceOut.of(worse).scores_old is not None
    floor = QualitySettings(score_min=0.99)
    assert [one.code for one in quality_reasons((row,), floor)[0]] == ["gate.score"]


def test_masks_are_compared_pairwise_and_agree_by_pixels() -> None:
    true = np.zeros((200, 2, 4), np.uint8)
    true[:, :, 2:] = 1
    items = np.random.default_rng(0).integers(0, 256, (200, 2, 4, 3), dtype=np.uint8)
    data = decode_evaluation(saved(items=items, masks=true))
    right, wrong = Answers(masks=tuple(true)), Answers(masks=tuple(np.zeros_like(true)))
    counts = count_slices(mark(wrong, data), mark(right, data), data, classes_count=2)
    (row,) = compare_slices(counts, QualitySettings())
    assert (row.answer, row.measure) == (Answer.WORSE, Measure.PICTURE_IOU)
    assert "mean IoU of a picture is 0.250, 1.000 before" in slice_text(row)
    (reason,), _ = quality_reasons((row,), QualitySettings())
    assert "IoU of a picture went 1.000 -> 0.250" in reason.text
    assert agreement(wrong, right) == (800, 1600)
    values = Answers(values=np.linspace(0.0, 1.0, 11)[:, None])
    moved = Answers(values=np.linspace(0.0, 1.2, 11)[:, None])
    assert agreement(values, values) == (11, 11)
    assert 0 < agreement(moved, values)[0] < 11
