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


# Known answers: worked out by hand from the formulas of the heads' own repositories.


def test_yolox_of_a_known_cell() -> None:
    """(x, y) = (tx + column, ty + row) x stride, (w, h) = exp(tw, th) x stride.

    Megvii-BaseDetection/YOLOX, yolox/utils/demo_utils.py, demo_postprocess.
    """
    rows = np.zeros((CELLS, 8), np.float32)
    # Stride 16: its cells come after the 96 of stride 8; row 1, column 2 of 6.
    rows[96 + 1 * 6 + 2] = [0.25, 0.5, math.log(2.0), math.log(1.5), 0.9, 0.1, 0.8, 0.2]
    found = decode(spec_of(Decoder.YOLOX), rows[None])
    # Centre (2.25 x 16, 1.5 x 16) = (36, 24), size (32, 24): corners (20, 12, 52, 36).
    assert found.corners[0] * [WIDTH, HEIGHT, WIDTH, HEIGHT] == pytest.approx([20, 12, 52, 36])
    assert found.scores.tolist() == pytest.approx([0.72])
    assert found.classes.tolist() == [1]


@pytest.mark.parametrize(
    ("centre", "corners"),
    [(0.0, [12.0, 0.0, 56.0, 40.0]), (0.5, [20.0, 8.0, 64.0, 48.0])],
    ids=["plus", "before plus"],
)
def test_nanodet_of_a_known_cell(centre: float, corners: list[float]) -> None:
    """A side is the mean of its distribution, in strides, from the cell's point.

    RangiLyu/nanodet, nanodet_plus_head.py: get_single_level_center_priors (column x stride, row x
    stride), distribution_project (Integral: softmax, weighted by 0..reg_max), distance2bbox
    (x - left, y - top, x + right, y + bottom). gfl_head.py, before Plus: the middle of the cell.
    """
    log3, never = math.log(3.0), -80.0
    bins = [
        [never, log3, 0.0, never, never],  # 3/4 at 1, 1/4 at 2: 1.25 strides
        [never, 0.0, never, never, never],  # 1
        [never, 0.0, 0.0, never, never],  # 1.5
        [0.0, 0.0, 0.0, 0.0, never],  # (0 + 1 + 2 + 3) / 4 = 1.5
    ]
    rows = np.zeros((CELLS, 3 + 4 * (REG_MAX + 1)), np.float32)
    rows[96 + 1 * 6 + 2, :3] = [0.1, 0.2, 0.95]  # Stride 16; row 1, column 2: the point (32, 16)
    rows[96 + 1 * 6 + 2, 3:] = np.concatenate(bins)
    found = decode(spec_of(Decoder.NANODET, reg_max=REG_MAX, cell_centre=centre), rows[None])
    assert found.corners[0] * [WIDTH, HEIGHT, WIDTH, HEIGHT] == pytest.approx(corners, abs=1e-3)
    assert found.scores.tolist() == pytest.approx([0.95])
    assert found.classes.tolist() == [2]


def test_whole_boxes_are_thinned_and_cut_afterwards() -> None:
    """Two cars that stick out of the picture at one edge: what is left of them is alike.

    As ultralytics does it (non_max_suppression, then scale_boxes with clip_boxes).
    """
    columns = np.zeros((1, 7, 2), np.float32)
    columns[0, :4, 0] = [0.0, 32.0, 40.0, 30.0]  # 20 within the picture, 20 without
    columns[0, :4, 1] = [-30.0, 32.0, 100.0, 30.0]  # 20 within, 80 without: overlap 40 of 100
    columns[0, 4] = [0.9, 0.8]
    spec = spec_of(Decoder.YOLO_V8)
    placement = place(WIDTH, HEIGHT, IMAGE)
    found = detected_boxes((columns,), spec, placement=placement, overlap_max=0.45)
    assert len(found) == 2
    assert np.ptp(found.corners, axis=0).max() == pytest.approx(0.0, abs=1e-6)
