"""Postprocess: every decoder and suppression against a naive loop."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import RefusedError
from shared.model.postprocess import (
    Boxes,
    anomaly_score,
    check_outputs,
    class_scores,
    detected_boxes,
    overlaps,
    suppress,
)
from shared.model.preprocess import place
from shared.model.spec import (
    Decoder,
    ImageInput,
    ModelSpec,
    OutputSpec,
    Resize,
    Task,
    WindowInput,
)
from shared.wire.records import BOXES_MAX

CLASSES = ("car", "dog", "cup")
IMAGE = ImageInput(width=100, height=50)


def spec_of(decoder: Decoder, **options: object) -> ModelSpec:
    task = Task.DETECTION
    if decoder in (Decoder.LOGITS, Decoder.PROBABILITIES):
        task = Task.CLASSIFICATION
    if decoder in (Decoder.SCORE, Decoder.RECONSTRUCTION):
        task = Task.ANOMALY
        options.setdefault("input", WindowInput(samples=4, channels=2))
    return ModelSpec(
        model="m",
        task=task,
        input=options.pop("input", IMAGE),
        output=OutputSpec(decoder=decoder, classes=CLASSES, **options),
    )


def decode(decoder: Decoder, *outputs: np.ndarray, **options: object) -> Boxes:
    spec = spec_of(decoder, **options)
    assert isinstance(spec.input, ImageInput)
    return detected_boxes(outputs, spec, placement=place(200, 100, spec.input))


def test_logits_become_a_softmax() -> None:
    logits = np.array([[1.0, 2.0, 3.0]], np.float32)
    scores = class_scores((logits,), spec_of(Decoder.LOGITS))
    total = sum(math.exp(value) for value in (1.0, 2.0, 3.0))
    np.testing.assert_allclose(scores, [math.exp(v) / total for v in (1.0, 2.0, 3.0)], rtol=1e-6)


def test_huge_logits_do_not_overflow() -> None:
    logits = np.array([[1e4, 0.0, -1e4]], np.float32)
    np.testing.assert_allclose(class_scores((logits,), spec_of(Decoder.LOGITS)), [1.0, 0.0, 0.0])


def test_probabilities_are_taken_and_made_to_sum_to_one() -> None:
    values = np.array([[0.2, 0.2, -0.0001]], np.float32)
    scores = class_scores((values,), spec_of(Decoder.PROBABILITIES))
    np.testing.assert_allclose(scores, [0.5, 0.5, 0.0], atol=1e-6)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_an_output_that_is_not_finite_is_a_failed_inference(value: float) -> None:
    with pytest.raises(RefusedError) as caught:
        class_scores((np.array([[1.0, value, 0.0]], np.float32),), spec_of(Decoder.LOGITS))
    assert caught.value.code == "inference.output"


def test_fastestdet_equals_the_loop_of_its_authors() -> None:
    random = np.random.default_rng(3)
    grid = np.concatenate(
        [
            random.uniform(0, 1, (1, 1, 4, 6)),
            random.normal(0, 1, (1, 4, 4, 6)),
            random.dirichlet(np.ones(3), (1, 4, 6)).transpose(0, 3, 1, 2),
        ],
        axis=1,
    ).astype(np.float32)
    found = decode(Decoder.FASTESTDET, grid, confidence_min=0.3, overlap_max=1.0)
    expected = sorted(naive_fastestdet(grid[0], 0.3), key=lambda row: -row[4])
    assert len(found) == len(expected) > 3
    for index, (*corners, score, label) in enumerate(expected):
        np.testing.assert_allclose(found.corners[index], np.clip(corners, 0, 1), atol=1e-5)
        assert found.scores[index] == pytest.approx(score, abs=1e-6)
        assert found.classes[index] == label


def naive_fastestdet(grid: np.ndarray, threshold: float) -> list[tuple[float, ...]]:
    _, rows, columns = grid.shape
    found = []
    for row in range(rows):
        for column in range(columns):
            cell = grid[:, row, column].astype(float)
            score = cell[0] * cell[5:].max()
            if score < threshold:
                continue
            x = (column + math.tanh(cell[1])) / columns
            y = (row + math.tanh(cell[2])) / rows
            w, h = (1 / (1 + math.exp(-cell[i])) for i in (3, 4))
            box = (x - w / 2, y - h / 2, x + w / 2, y + h / 2)
            found.append((*box, score, int(cell[5:].argmax())))
    return found


def test_yolo_reads_centres_and_sizes_in_input_pixels() -> None:
    rows = np.array(
        [
            [
                [50, 25, 20, 10, 0.9, 0.1, 0.8, 0.1],
                [50, 25, 20, 10, 0.2, 0.1, 0.8, 0.1],
            ]
        ],
        np.float32,
    )
    found = decode(Decoder.YOLO, rows, confidence_min=0.5)
    np.testing.assert_allclose(found.corners, [[0.4, 0.4, 0.6, 0.6]], atol=1e-6)
    assert found.scores[0] == pytest.approx(0.72)
    assert found.classes.tolist() == [1]


def test_boxes_reads_corners_and_drops_unknown_classes() -> None:
    rows = np.array(
        [
            [
                [10, 10, 60, 40, 0.9, 2],
                [10, 10, 60, 40, 0.8, 3],
                [10, 10, 60, 40, 0.8, -1],
            ]
        ],
        np.float32,
    )
    found = decode(Decoder.BOXES, rows)
    np.testing.assert_allclose(found.corners, [[0.1, 0.2, 0.6, 0.8]], atol=1e-6)
    assert found.classes.tolist() == [2]


def test_ssd_corners_leaves_the_background_out_and_keeps_each_class() -> None:
    scores = np.array([[[0.9, 0.1, 0.0, 0.0], [0.1, 0.6, 0.5, 0.0]]], np.float32)
    corners = np.array([[[0, 0, 1, 1], [0.1, 0.2, 0.3, 0.4]]], np.float32)
    found = decode(Decoder.SSD_CORNERS, scores, corners, confidence_min=0.4)
    assert found.classes.tolist() == [0, 1]
    np.testing.assert_allclose(found.corners, [[0.1, 0.2, 0.3, 0.4]] * 2, atol=1e-6)


def test_letterboxed_boxes_come_back_in_shares_of_the_frame() -> None:
    image = ImageInput(width=100, height=100, resize=Resize.LETTERBOX)
    rows = np.array([[[0, 25, 50, 75, 0.9, 0]]], np.float32)
    found = decode(Decoder.BOXES, rows, input=image)  # The frame is 200 x 100: 25 above and below
    np.testing.assert_allclose(found.corners, [[0.0, 0.0, 0.5, 1.0]], atol=1e-6)


def test_a_box_outside_the_frame_is_dropped() -> None:
    rows = np.array([[[-20, 0, -10, 10, 0.9, 0], [5, 5, 5, 20, 0.9, 0]]], np.float32)
    assert len(decode(Decoder.BOXES, rows)) == 0


def test_thresholds_of_the_device_replace_those_of_the_spec() -> None:
    rows = np.array([[[0, 0, 10, 10, 0.4, 0], [0, 0, 10, 9, 0.39, 0]]], np.float32)
    spec, placement = spec_of(Decoder.BOXES), place(10, 10, IMAGE)
    assert len(detected_boxes((rows,), spec, placement=placement)) == 1
    assert len(detected_boxes((rows,), spec, placement=placement, confidence_min=0.5)) == 0
    assert len(detected_boxes((rows,), spec, placement=placement, overlap_max=1.0)) == 2


def test_a_flood_of_boxes_is_bounded() -> None:
    random = np.random.default_rng(1)
    corners = random.uniform(0, 40, (5000, 2))
    rows = np.concatenate(
        [
            corners,
            corners + 0.5,
            random.uniform(0.5, 1, (5000, 1)),
            np.zeros((5000, 1)),
        ],
        axis=1,
    ).astype(np.float32)[None]
    found = decode(Decoder.BOXES, rows)
    assert len(found) == BOXES_MAX
    assert (np.diff(found.scores) <= 0).all()


def test_reconstruction_is_the_mean_squared_error() -> None:
    batch = np.zeros((1, 2, 4), np.float32)
    output = np.full((1, 2, 4), 3.0, np.float32)
    assert anomaly_score((output,), batch, spec_of(Decoder.RECONSTRUCTION)) == pytest.approx(9.0)


def test_a_score_is_the_models_number() -> None:
    score = anomaly_score((np.array([[2.5]], np.float32),), np.zeros(1), spec_of(Decoder.SCORE))
    assert score == pytest.approx(2.5)


@pytest.mark.parametrize(
    ("decoder", "shapes"),
    [
        (Decoder.LOGITS, [(1, 4)]),
        (Decoder.LOGITS, [(1, 3), (1, 3)]),
        (Decoder.LOGITS, []),
        (Decoder.LOGITS, [(2, 3)]),
        (Decoder.FASTESTDET, [(1, 7, 4, 4)]),
        (Decoder.FASTESTDET, [(1, 8, 4)]),
        (Decoder.SSD_CORNERS, [(1, 5, 4)]),
        (Decoder.SSD_CORNERS, [(1, 5, 4), (1, 6, 4)]),
        (Decoder.SSD_CORNERS, [(1, 5, 3), (1, 5, 4)]),
        (Decoder.YOLO, [(1, 10, 7)]),
        (Decoder.BOXES, [(1, 10, 5)]),
        (Decoder.RECONSTRUCTION, [(1, 4, 2)]),
        (Decoder.SCORE, [(1, 2)]),
    ],
)
def test_outputs_that_do_not_fit_the_decoder_are_refused(
    decoder: Decoder, shapes: list[tuple[int, ...]]
) -> None:
    outputs = tuple(np.zeros(shape, np.float32) for shape in shapes)
    with pytest.raises(RefusedError, match=f"decoder {decoder} expects"):
        check_outputs(outputs, spec_of(decoder))


@pytest.mark.parametrize(
    ("decoder", "shapes"),
    [
        (Decoder.LOGITS, [(1, 3)]),
        (Decoder.PROBABILITIES, [(1, 3, 1, 1)]),
        (Decoder.FASTESTDET, [(1, 8, 4, 6)]),
        (Decoder.SSD_CORNERS, [(1, 5, 4), (1, 5, 4)]),
        (Decoder.YOLO, [(1, 10, 8)]),
        (Decoder.BOXES, [(1, 0, 6)]),
        (Decoder.RECONSTRUCTION, [(1, 2, 4)]),
        (Decoder.SCORE, [(1, 1)]),
        (Decoder.SCORE, [()]),
    ],
)
def test_outputs_that_fit_are_taken(decoder: Decoder, shapes: list[tuple[int, ...]]) -> None:
    check_outputs(tuple(np.zeros(shape, np.float32) for shape in shapes), spec_of(decoder))


corner_lists = st.lists(
    st.tuples(
        st.floats(0, 0.9),
        st.floats(0, 0.9),
        st.floats(0.01, 1),
        st.floats(0.01, 1),
        st.floats(0, 1),
        st.integers(0, 2),
    ),
    max_size=30,
)


@given(rows=corner_lists, overlap_max=st.floats(0, 1))
def test_suppression_equals_the_naive_one(
    rows: list[tuple[float, ...]], overlap_max: float
) -> None:
    rows = sorted(rows, key=lambda row: -row[4])
    corners = np.array([(x, y, x + w, y + h) for x, y, w, h, _, _ in rows], np.float64)
    boxes = Boxes(
        corners=corners.reshape(-1, 4).astype(np.float32),
        scores=np.array([row[4] for row in rows], np.float32),
        classes=np.array([row[5] for row in rows], np.int64),
    )
    assert suppress(boxes, overlap_max=overlap_max).tolist() == naive_suppress(boxes, overlap_max)


def naive_suppress(boxes: Boxes, overlap_max: float) -> list[int]:
    kept: list[int] = []
    for index in range(len(boxes)):
        rivals = [k for k in kept if boxes.classes[k] == boxes.classes[index]]
        if all(naive_overlap(boxes, k, index) <= overlap_max for k in rivals):
            kept.append(index)
    return kept


def naive_overlap(boxes: Boxes, one: int, other: int) -> float:
    # With the class's shift, as rounding at exactly `overlap_max` would otherwise differ.
    a = boxes.corners[one].astype(np.float64) + 2.0 * boxes.classes[one]
    b = boxes.corners[other].astype(np.float64) + 2.0 * boxes.classes[other]
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    both = width * height
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both
    return both / union if union > 0 else 0.0


def test_overlap_of_known_boxes() -> None:
    one = np.array([[0, 0, 2, 2]], np.float32)
    others = np.array([[0, 0, 2, 2], [1, 1, 3, 3], [5, 5, 6, 6], [1, 1, 1, 1]], np.float32)
    np.testing.assert_allclose(overlaps(one, others), [[1.0, 1 / 7, 0.0, 0.0]])
