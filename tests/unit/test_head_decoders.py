"""Heads of detectors against naive loops over their cells."""

import math

import numpy as np
import pytest

from shared.errors import RefusedError
from shared.model.postprocess import Boxes, check_outputs, detected_boxes
from shared.model.preprocess import place
from shared.model.spec import Decoder, ImageInput, ModelSpec, OutputSpec, Task

WIDTH, HEIGHT = 96, 64
IMAGE = ImageInput(width=WIDTH, height=HEIGHT)
CLASSES = ("car", "dog", "cup")
STRIDES = (8, 16, 32)
CELLS = 96 + 24 + 6
REG_MAX = 4
LEAST = 0.55
Row = tuple[float, float, float, float, float, int]


def spec_of(decoder: Decoder, **options: object) -> ModelSpec:
    output = OutputSpec(
        decoder=decoder, classes=CLASSES, confidence_min=LEAST, overlap_max=1.0, **options
    )
    return ModelSpec(model="m", task=Task.DETECTION, input=IMAGE, output=output)


def decode(spec: ModelSpec, *outputs: np.ndarray) -> Boxes:
    return detected_boxes(outputs, spec, placement=place(WIDTH, HEIGHT, IMAGE))


def cells() -> list[tuple[int, int, int]]:
    return [
        (column, row, stride)
        for stride in STRIDES
        for row in range(HEIGHT // stride)
        for column in range(WIDTH // stride)
    ]


def assert_same(found: Boxes, rows: list[Row]) -> None:
    shares = np.array([WIDTH, HEIGHT, WIDTH, HEIGHT])
    wanted = [(np.clip(np.array(row[:4]) / shares, 0, 1), row[4], row[5]) for row in rows]
    wanted = [one for one in wanted if (one[0][2:] > one[0][:2]).all()]
    wanted.sort(key=lambda one: -one[1])
    assert len(found) == len(wanted) > 3
    np.testing.assert_allclose(found.corners, [one[0] for one in wanted], atol=1e-4)
    np.testing.assert_allclose(found.scores, [one[1] for one in wanted], atol=1e-5)
    assert found.classes.tolist() == [one[2] for one in wanted]


def around(x: float, y: float, width: float, height: float) -> tuple[float, float, float, float]:
    return x - width / 2, y - height / 2, x + width / 2, y + height / 2


def sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value))


@pytest.mark.parametrize("is_logits", [False, True])
def test_yolox_is_relative_to_its_cells(is_logits: bool) -> None:
    random = np.random.default_rng(1)
    rows = random.normal(0, 0.5, (CELLS, 8)).astype(np.float32)
    rows[:, 4:] = random.normal(1, 2, (CELLS, 4))
    if not is_logits:
        rows[:, 4:] = 1 / (1 + np.exp(-rows[:, 4:]))
    expected: list[Row] = []
    for (column, row, stride), values in zip(cells(), rows.astype(float), strict=True):
        x, y, width, height, *scores = values
        shares = [sigmoid(each) for each in scores] if is_logits else scores
        score = shares[0] * max(shares[1:])
        if score >= LEAST:
            size = math.exp(width) * stride, math.exp(height) * stride
            box = around((column + x) * stride, (row + y) * stride, *size)
            expected.append((*box, score, int(np.argmax(shares[1:]))))
    assert_same(decode(spec_of(Decoder.YOLOX, is_logits=is_logits), rows[None]), expected)


@pytest.mark.parametrize("is_logits", [False, True])
def test_yolov8_has_a_column_for_each_box_and_no_objectness(is_logits: bool) -> None:
    random = np.random.default_rng(2)
    columns = random.normal(0, 1, (7, 40)).astype(np.float32)
    columns[:4] = random.uniform(10, 50, (4, 40))
    if not is_logits:
        columns[4:] = 1 / (1 + np.exp(-columns[4:]))
    expected: list[Row] = []
    for x, y, width, height, *scores in columns.T.astype(float):
        score = sigmoid(max(scores)) if is_logits else max(scores)
        if score >= LEAST:
            box = around(x, y, width, height)
            expected.append((*box, score, int(np.argmax(scores))))
    assert_same(decode(spec_of(Decoder.YOLO_V8, is_logits=is_logits), columns[None]), expected)


@pytest.mark.parametrize("centre", [0.0, 0.5])
@pytest.mark.parametrize("is_logits", [False, True])
def test_a_side_of_nanodet_is_the_mean_of_its_distribution(centre: float, is_logits: bool) -> None:
    random = np.random.default_rng(3)
    rows = random.normal(0, 1, (CELLS, 3 + 4 * (REG_MAX + 1))).astype(np.float32)
    rows[:, :3] -= 1.0  # Fewer boxes than are told at most
    if not is_logits:
        rows[:, :3] = 1 / (1 + np.exp(-rows[:, :3]))
    expected: list[Row] = []
    for (column, row, stride), values in zip(cells(), rows.astype(float), strict=True):
        score = sigmoid(values[:3].max()) if is_logits else values[:3].max()
        if score < LEAST:
            continue
        sides = []
        for bins in values[3:].reshape(4, REG_MAX + 1):
            total = sum(math.exp(each) for each in bins)
            mean = sum(place * math.exp(each) / total for place, each in enumerate(bins))
            sides.append(mean * stride)
        x, y = (column + centre) * stride, (row + centre) * stride
        box = x - sides[0], y - sides[1], x + sides[2], y + sides[3]
        expected.append((*box, score, int(values[:3].argmax())))
    spec = spec_of(Decoder.NANODET, reg_max=REG_MAX, cell_centre=centre, is_logits=is_logits)
    assert_same(decode(spec, rows[None]), expected)


@pytest.mark.parametrize(
    ("decoder", "shape", "expected"),
    [
        (Decoder.YOLOX, (1, 100, 8), r"\(1, 126, 8\) for 96x64 and strides 8, 16, 32"),
        (Decoder.NANODET, (1, 126, 35), r"\(1, 126, 23\) .* and reg_max 4"),
        (Decoder.YOLO_V8, (1, 126, 7), r"\(1, 7, 126\) for 96x64"),
    ],
)
def test_a_wrong_shape_is_refused_with_the_right_one(
    decoder: Decoder, shape: tuple[int, ...], expected: str
) -> None:
    spec = spec_of(decoder, reg_max=REG_MAX, strides=STRIDES)
    with pytest.raises(RefusedError, match=expected):
        check_outputs((np.zeros(shape, np.float32),), spec)


def test_strides_that_do_not_divide_the_side_leave_a_part_of_a_cell() -> None:
    spec = spec_of(Decoder.NANODET, reg_max=REG_MAX, strides=(8, 16, 32, 64))
    check_outputs((np.zeros((1, CELLS + 2, 23), np.float32),), spec)


@pytest.mark.parametrize("decoder", [Decoder.YOLOX, Decoder.YOLO_V8, Decoder.NANODET])
def test_a_score_that_is_not_finite_is_a_failed_inference(decoder: Decoder) -> None:
    shapes = {
        Decoder.YOLOX: (1, CELLS, 8),
        Decoder.YOLO_V8: (1, 7, CELLS),
        Decoder.NANODET: (1, CELLS, 23),
    }
    outputs = np.full(shapes[decoder], math.nan, np.float32)
    with pytest.raises(RefusedError) as caught:
        decode(spec_of(decoder, reg_max=REG_MAX), outputs)
    assert caught.value.code == "inference.output"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"decoder": Decoder.YUNET}, "output.classes"),
        ({"decoder": Decoder.BOXES, "strides": (8,)}, "output.strides"),
        ({"decoder": Decoder.FASTESTDET, "is_logits": True}, "output.is_logits"),
        ({"decoder": Decoder.YOLO, "horizon": 2}, "output.horizon"),
    ],
)
def test_a_setting_that_a_head_does_not_have_is_named(
    options: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        ModelSpec(
            model="m",
            task=Task.DETECTION,
            input=IMAGE,
            output=OutputSpec(classes=CLASSES, **options),
        )
