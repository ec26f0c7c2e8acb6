"""Box decoders: what the heads of detectors put out, as boxes in shares of the model's input.

What must not live here: suppression, where the frame lay within the input (postprocess.py).

1. A box whose score is below the threshold costs nothing but its score: the rest of it is decoded
   only for those above. Objectness, where there is one, is asked before classes.
2. `fits` says whether outputs have the shapes that follow from the spec; `expected` says them.
3. Sources: FastestDet, github.com/dog-qiuqiu/FastestDet example/onnx-runtime (class scores are
   softmaxed in the graph; score = objectness x best class). SSD corners,
   Ultra-Light-Fast-Generic-Face-Detector, class 0 background. YOLO as YOLOv5 exports it; YOLOX,
   Megvii-BaseDetection/YOLOX yolox/utils/demo_utils.py; YOLOv8, ultralytics (v8, v9, 11: no
   objectness). YuNet, opencv modules/objdetect/src/face_detect.cpp (score = square root of
   class x objectness). NanoDet, RangiLyu/nanodet nanodet_plus_head.py: sides are the mean of a
   distribution over 0..reg_max cells (Li et al. 2020, Generalized Focal Loss).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from shared.errors import RefusedError
from shared.model.spec import USUAL_STRIDES, Decoder, ImageInput, ModelSpec

EXPONENT_MAX = 60.0  # Of a side's logarithm: exp() of more is no side of a picture
YUNET_PARTS = 4  # Classes, objectness, boxes, landmarks
GRIDS_KEPT = 32  # Of different models: cells of their grids

Array = NDArray[np.generic]
Floats = NDArray[np.float32]
Numbers = NDArray[np.floating]
Indices = NDArray[np.int64]
Shapes = tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True)
class Boxes:
    """Objects in one frame, best first."""

    corners: Floats  # (n, 4) left, top, right, bottom
    scores: Floats  # (n,) 0..1
    classes: Indices  # (n,)

    def __len__(self) -> int:
        return int(self.scores.shape[0])


@dataclass(frozen=True, slots=True)
class Grid:
    """The cells of all strides of one model, row by row, stride after stride."""

    left: Floats  # (n,) where a cell begins, in input pixels
    top: Floats
    stride: Floats


def decode_boxes(outputs: tuple[Array, ...], spec: ModelSpec, confidence_min: float) -> Boxes:
    """Return boxes of at least this score, in no order, corners in shares of the model's input.

    Raises RefusedError `inference.output` for a number that is not finite in what is read.
    """
    return _DECODERS[spec.output.decoder](outputs, spec, confidence_min)


def finite(values: Array) -> Floats:
    """Return `values` as float32. Raises RefusedError `inference.output`: one is not finite."""
    floats = values.astype(np.float32, copy=False)
    # NaN goes through both; two passes without an array of answers.
    if floats.size and not (math.isfinite(floats.max()) and math.isfinite(floats.min())):
        raise RefusedError("inference.output", "The model's output is not a finite number.")
    return floats


def cells_counts(spec: ModelSpec) -> tuple[int, ...]:
    """Return how many cells the grid of each stride has."""
    width, height = _size(spec)
    return tuple(math.ceil(height / stride) * math.ceil(width / stride) for stride in strides(spec))


def strides(spec: ModelSpec) -> tuple[int, ...]:
    """Return the spec's strides, or the usual ones."""
    return spec.output.strides or USUAL_STRIDES


def fits(shapes: Shapes, spec: ModelSpec) -> bool:
    """Whether outputs of these shapes can be read as the spec's decoder of boxes says."""
    classes = len(spec.output.classes)
    match spec.output.decoder, shapes:
        case Decoder.FASTESTDET, ((1, depth, _, _),):
            return depth == 5 + classes
        case Decoder.SSD_CORNERS, ((1, n, depth), (1, m, 4)):
            return n == m and depth == 1 + classes
        case Decoder.YOLO, ((1, _, depth),):
            return depth == 5 + classes
        case Decoder.YOLOX, ((1, n, depth),):
            return n == sum(cells_counts(spec)) and depth == 5 + classes
        case Decoder.YOLO_V8, ((1, depth, n),):
            is_counted = not spec.output.strides or n == sum(cells_counts(spec))
            return is_counted and depth == 4 + classes
        case Decoder.NANODET, ((1, n, depth),):
            return n == sum(cells_counts(spec)) and depth == _nanodet_depth(spec)
        case Decoder.YUNET, _:
            return shapes == _yunet_shapes(spec)
        case Decoder.BOXES, ((1, _, 6),):
            return True
    return False


def expected(spec: ModelSpec) -> str:
    """Return the shapes that the decoder of boxes reads, for people."""
    classes = len(spec.output.classes)
    match spec.output.decoder:
        case Decoder.FASTESTDET:
            return f"(1, {5 + classes}, rows, columns)"
        case Decoder.SSD_CORNERS:
            return f"scores (1, n, {1 + classes}) and boxes (1, n, 4)"
        case Decoder.YOLO:
            return f"(1, n, {5 + classes})"
        case Decoder.YOLOX:
            return f"(1, {sum(cells_counts(spec))}, {5 + classes}){_of_strides(spec)}"
        case Decoder.YOLO_V8 if spec.output.strides:
            return f"(1, {4 + classes}, {sum(cells_counts(spec))}){_of_strides(spec)}"
        case Decoder.YOLO_V8:
            return f"(1, {4 + classes}, n)"
        case Decoder.NANODET:
            shape = (1, sum(cells_counts(spec)), _nanodet_depth(spec))
            return f"{shape}{_of_strides(spec)} and reg_max {spec.output.reg_max}"
        case Decoder.YUNET:
            names = ", ".join(str(shape) for shape in _yunet_shapes(spec))
            return f"{names}{_of_strides(spec)}"
        case _:
            return "(1, n, 6)"


def _fastestdet(outputs: tuple[Array, ...], _: ModelSpec, confidence_min: float) -> Boxes:
    _, depth, rows, columns = outputs[0].shape
    grid = outputs[0].reshape(depth, rows * columns)
    cell = np.flatnonzero(finite(grid[0]) >= confidence_min)
    if not cell.size:
        return NONE
    cells = finite(grid[:, cell])  # (5 + classes, n)
    scores = cells[0] * cells[5:].max(axis=0)
    chosen = np.flatnonzero(scores >= confidence_min)
    cells, (row, column) = cells[:, chosen], np.divmod(cell[chosen], columns)
    centre_x = (column + np.tanh(cells[1])) / columns
    centre_y = (row + np.tanh(cells[2])) / rows
    sizes = _sigmoid(cells[3:5])  # (2, n)
    corners = _corners(centre_x, centre_y, sizes[0], sizes[1])
    return _boxes(corners, scores[chosen], cells[5:].argmax(axis=0))


def _ssd_corners(outputs: tuple[Array, ...], _: ModelSpec, confidence_min: float) -> Boxes:
    by_class = finite(outputs[0][0][:, 1:])  # (n, classes), without background
    row, class_index = np.nonzero(by_class >= confidence_min)
    return _boxes(finite(outputs[1][0][row]), by_class[row, class_index], class_index)


def _yolo(outputs: tuple[Array, ...], spec: ModelSpec, confidence_min: float) -> Boxes:
    rows, scores, _ = _likely_rows(outputs[0][0], spec, confidence_min)
    corners = _corners(rows[:, 0], rows[:, 1], rows[:, 2], rows[:, 3])
    return _boxes(corners / _sides(spec), scores, rows[:, 5:].argmax(axis=1))


def _yolox(outputs: tuple[Array, ...], spec: ModelSpec, confidence_min: float) -> Boxes:
    rows, scores, cell = _likely_rows(outputs[0][0], spec, confidence_min)
    corners = _grid_corners(rows, _grid_of(spec), cell)
    return _boxes(corners / _sides(spec), scores, rows[:, 5:].argmax(axis=1))


def _likely_rows(
    rows: Array, spec: ModelSpec, confidence_min: float
) -> tuple[Floats, Floats, Indices]:
    """Return rows (k, 5 + classes), scores (k,) and indices (k,) of those above the threshold."""
    is_logits = spec.output.is_logits
    objectness = finite(rows[:, 4])  # (n,)
    likely = np.flatnonzero(objectness >= _bound(confidence_min, is_logits=is_logits))
    found = finite(rows[likely])
    best = found[:, 5:].max(axis=1)
    scores = _sigmoid(found[:, 4]) * _sigmoid(best) if is_logits else found[:, 4] * best
    chosen = np.flatnonzero(scores >= confidence_min)
    return found[chosen], scores[chosen], likely[chosen]


def _yolo_v8(outputs: tuple[Array, ...], spec: ModelSpec, confidence_min: float) -> Boxes:
    columns = outputs[0][0]  # (4 + classes, n)
    is_logits = spec.output.is_logits
    best = finite(columns[4:].max(axis=0))  # (n,): NaN goes through
    chosen = np.flatnonzero(best >= _bound(confidence_min, is_logits=is_logits))
    found = finite(columns[:, chosen])  # (4 + classes, k)
    corners = _corners(found[0], found[1], found[2], found[3])
    scores = _sigmoid(best[chosen]) if is_logits else best[chosen]
    return _boxes(corners / _sides(spec), scores, found[4:].argmax(axis=0))


def _yunet(outputs: tuple[Array, ...], spec: ModelSpec, confidence_min: float) -> Boxes:
    count = len(strides(spec))
    classes, objectness = (
        finite(np.concatenate([part.reshape(-1) for part in outputs[start : start + count]]))
        for start in (0, count)
    )  # (n,) each
    product = np.clip(classes, 0.0, 1.0) * np.clip(objectness, 0.0, 1.0)
    cell = np.flatnonzero(product >= confidence_min**2)
    if not cell.size:
        return NONE
    rows = np.concatenate([part[0] for part in outputs[2 * count : 3 * count]])[cell]  # (k, 4)
    corners = _grid_corners(finite(rows), _grid_of(spec), cell)
    return _boxes(corners / _sides(spec), np.sqrt(product[cell]), np.zeros(cell.size))


def _nanodet(outputs: tuple[Array, ...], spec: ModelSpec, confidence_min: float) -> Boxes:
    rows, classes = outputs[0][0], len(spec.output.classes)
    is_logits = spec.output.is_logits
    best = finite(rows[:, :classes].max(axis=1))  # (n,): NaN goes through
    cell = np.flatnonzero(best >= _bound(confidence_min, is_logits=is_logits))
    if not cell.size:
        return NONE
    found, grid = finite(rows[cell]), _grid_of(spec)
    bins = found[:, classes:].reshape(cell.size, 4, -1)  # (k, 4, reg_max + 1)
    weights = np.exp(bins - bins.max(axis=2, keepdims=True))
    places = np.arange(spec.output.reg_max + 1, dtype=np.float32)
    stride = grid.stride[cell]
    distances = weights @ places / weights.sum(axis=2) * stride[:, None]  # (k, 4) in pixels
    x = grid.left[cell] + spec.output.cell_centre * stride
    y = grid.top[cell] + spec.output.cell_centre * stride
    sides = (x - distances[:, 0], y - distances[:, 1], x + distances[:, 2], y + distances[:, 3])
    scores = _sigmoid(best[cell]) if is_logits else best[cell]
    # Cut at the input's edges here, before suppression, as its own get_bboxes does (`max_shape`).
    corners = np.clip(np.stack(sides, axis=1) / _sides(spec), 0.0, 1.0)
    return _boxes(corners, scores, found[:, :classes].argmax(axis=1))


def _ready_boxes(outputs: tuple[Array, ...], spec: ModelSpec, confidence_min: float) -> Boxes:
    rows = finite(outputs[0][0])  # (n, 6)
    known = (rows[:, 5] >= 0) & (rows[:, 5] < len(spec.output.classes))
    chosen = rows[(rows[:, 4] >= confidence_min) & known]
    return _boxes(chosen[:, :4] / _sides(spec), chosen[:, 4], chosen[:, 5])


_DECODERS: MappingProxyType[Decoder, Callable[[tuple[Array, ...], ModelSpec, float], Boxes]] = (
    MappingProxyType(
        {
            Decoder.FASTESTDET: _fastestdet,
            Decoder.SSD_CORNERS: _ssd_corners,
            Decoder.YOLO: _yolo,
            Decoder.YOLOX: _yolox,
            Decoder.YOLO_V8: _yolo_v8,
            Decoder.YUNET: _yunet,
            Decoder.NANODET: _nanodet,
            Decoder.BOXES: _ready_boxes,
        }
    )
)


def _bound(confidence_min: float, *, is_logits: bool) -> float:
    """Return the least output whose score is high enough: the logit of it where scores are."""
    if not is_logits:
        return confidence_min
    if not 0.0 < confidence_min < 1.0:
        return math.copysign(EXPONENT_MAX, confidence_min - 0.5)
    return math.log(confidence_min / (1.0 - confidence_min))


def _sigmoid(values: Floats) -> Floats:
    bounded = np.clip(values, -EXPONENT_MAX, EXPONENT_MAX)
    return np.asarray(1.0 / (1.0 + np.exp(-bounded)), np.float32)


def _grid_of(spec: ModelSpec) -> Grid:
    return _grid(*_size(spec), strides(spec))


@lru_cache(maxsize=GRIDS_KEPT)
def _grid(width: int, height: int, all_strides: tuple[int, ...]) -> Grid:
    lefts, tops, steps = [], [], []
    for stride in all_strides:
        rows, columns = math.ceil(height / stride), math.ceil(width / stride)
        row, column = np.divmod(np.arange(rows * columns), columns)
        lefts.append(column * stride)
        tops.append(row * stride)
        steps.append(np.full(rows * columns, stride))
    return Grid(*(np.concatenate(part).astype(np.float32) for part in (lefts, tops, steps)))


def _grid_corners(rows: Floats, grid: Grid, cell: Indices) -> Floats:
    """Return (k, 4) corners in input pixels of boxes relative to their cells.

    Args:
        rows: (k, 4 or more) centre x, y in cells, and logarithms of width, height in cells.
        grid: of the model.
        cell: (k,) which cell each belongs to.
    """
    stride = grid.stride[cell]
    sizes = np.exp(np.minimum(rows[:, 2:4], EXPONENT_MAX)) * stride[:, None]
    centre_x = grid.left[cell] + rows[:, 0] * stride
    centre_y = grid.top[cell] + rows[:, 1] * stride
    return _corners(centre_x, centre_y, sizes[:, 0], sizes[:, 1])


def _corners(centre_x: Numbers, centre_y: Numbers, width: Floats, height: Floats) -> Floats:
    """Return (n, 4) corners from centres and sizes, each (n,)."""
    half_w, half_h = width / 2, height / 2
    sides = (centre_x - half_w, centre_y - half_h, centre_x + half_w, centre_y + half_h)
    return np.stack(sides, axis=1).astype(np.float32, copy=False)


def _boxes(corners: Array, scores: Array, classes: Array) -> Boxes:
    return Boxes(
        corners=corners.astype(np.float32, copy=False),
        scores=np.clip(scores, 0.0, 1.0).astype(np.float32, copy=False),
        classes=classes.astype(np.int64),
    )


def _size(spec: ModelSpec) -> tuple[int, int]:
    """Return width and height of the model's input."""
    assert isinstance(spec.input, ImageInput), "boxes come from images"
    return spec.input.width, spec.input.height


def _sides(spec: ModelSpec) -> Floats:
    """Return width, height, width, height of the model's input."""
    return np.array(_size(spec) * 2, dtype=np.float32)


def _nanodet_depth(spec: ModelSpec) -> int:
    return len(spec.output.classes) + 4 * (spec.output.reg_max + 1)


def _yunet_shapes(spec: ModelSpec) -> Shapes:
    depths = (1, 1, 4, 10)
    return tuple((1, count, depth) for depth in depths for count in cells_counts(spec))


def _of_strides(spec: ModelSpec) -> str:
    width, height = _size(spec)
    named = ", ".join(str(stride) for stride in strides(spec))
    return f" for {width}x{height} and strides {named}"


NONE = Boxes(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64))
