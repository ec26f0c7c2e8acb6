"""Postprocess: raw outputs to scores, boxes or one number, in numpy, the one copy of it.

What must not live here: thresholds of a device (they come in as arguments), labels of a Decision.

1. `check_outputs` says whether a model's outputs can be read as the spec says; asked once, when a
   model is loaded.
2. Boxes come out best first, each class thinned by non-maximum suppression, at most BOXES_MAX, in
   shares of the frame (0..1). A box without area is dropped.
3. A number that is not finite in what is read is a failed inference, never a decision.
4. Decoders: FastestDet as in github.com/dog-qiuqiu/FastestDet example/onnx-runtime (class scores
   already softmaxed in the graph; score = objectness x best class); YOLO as YOLOX and YOLOv5
   export it decoded; SSD corners as Ultra-Light-Fast-Generic-Face-Detector, class 0 background.
"""

from collections.abc import Callable
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from shared.errors import RefusedError
from shared.model.preprocess import Placement
from shared.model.spec import Decoder, ImageInput, ModelSpec
from shared.wire.records import BOXES_MAX

CANDIDATES_MAX = 1000  # Boxes that enter suppression: the best ones; a noise model gives thousands.

Array = NDArray[np.generic]
Floats = NDArray[np.float32]
Indices = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Boxes:
    """Objects in one frame, best first."""

    corners: Floats  # (n, 4) left, top, right, bottom
    scores: Floats  # (n,) 0..1
    classes: Indices  # (n,)

    def __len__(self) -> int:
        return int(self.scores.shape[0])


def class_scores(outputs: tuple[Array, ...], spec: ModelSpec) -> Floats:
    """Return the probability of each class, (classes,), summing to 1.

    Raises RefusedError `inference.output`.
    """
    check_outputs(outputs, spec)
    values = _finite(outputs[0].reshape(-1))
    if spec.output.decoder is Decoder.LOGITS:
        values = np.exp(values - values.max())
    values = np.clip(values, 0.0, None)
    total = values.sum()
    if total <= 0:
        raise RefusedError("inference.output", "No class has a probability above 0.")
    scores: Floats = values / total
    return scores


def detected_boxes(
    outputs: tuple[Array, ...],
    spec: ModelSpec,
    *,
    placement: Placement,
    confidence_min: float | None = None,
    overlap_max: float | None = None,
) -> Boxes:
    """Return the objects in one frame, corners in shares of the frame; see rule 2.

    Args:
        outputs: the model's, in its order.
        spec: the model's.
        placement: where the frame lay within the model's input.
        confidence_min: instead of the spec's.
        overlap_max: instead of the spec's.

    Raises:
        RefusedError: `inference.output`.
    """
    check_outputs(outputs, spec)
    confidence_min = spec.output.confidence_min if confidence_min is None else confidence_min
    overlap_max = spec.output.overlap_max if overlap_max is None else overlap_max
    found = _DECODERS[spec.output.decoder](outputs, spec, confidence_min)
    corners = placement.to_frame_shares(found.corners)
    has_area = (corners[:, 2] > corners[:, 0]) & (corners[:, 3] > corners[:, 1])
    best = np.flatnonzero(has_area)
    best = best[np.argsort(-found.scores[best], kind="stable")][:CANDIDATES_MAX]
    candidates = _pick(Boxes(corners, found.scores, found.classes), best)
    return _pick(candidates, suppress(candidates, overlap_max=overlap_max)[:BOXES_MAX])


def anomaly_score(outputs: tuple[Array, ...], batch: Array, spec: ModelSpec) -> float:
    """Return how unlike the normal the item is: the mean squared error, or the model's own number.

    Args:
        outputs: the model's.
        batch: the input tensor they came from.
        spec: the model's.

    Raises:
        RefusedError: `inference.output`.
    """
    check_outputs(outputs, spec)
    if spec.output.decoder is Decoder.SCORE:
        return float(_finite(outputs[0].reshape(-1))[0])
    error = _finite(outputs[0]) - batch.astype(np.float32, copy=False)
    return float(np.mean(np.square(error)))


def check_outputs(outputs: tuple[Array, ...], spec: ModelSpec) -> None:
    """Raise RefusedError `inference.output` if outputs cannot be read as the spec says; rule 1."""
    shapes = tuple(output.shape for output in outputs)
    if not _fits(shapes, spec):
        got = ", ".join(str(shape) for shape in shapes) or "nothing"
        raise RefusedError(
            "inference.output",
            f"The decoder {spec.output.decoder} expects {_expected(spec)}; the model gives {got}.",
            remedy="Name the decoder and classes in the spec that fit this model.",
        )


def suppress(boxes: Boxes, *, overlap_max: float) -> Indices:
    """Return the indices of boxes that stay: per class, none overlaps a better one by more.

    `boxes` are best first, and so is what stays. Greedy, as in Girshick et al., R-CNN, 2014.
    """
    corners = boxes.corners.astype(np.float64)
    # One pass for all classes: boxes of different classes are moved so that they cannot meet.
    shifted = corners + 2.0 * boxes.classes[:, None]
    alive = np.ones(len(boxes), dtype=bool)
    kept: list[int] = []
    for index in range(len(boxes)):
        if not alive[index]:
            continue
        kept.append(index)
        if len(kept) == BOXES_MAX:
            break
        later = np.flatnonzero(alive[index + 1 :]) + index + 1
        overlap = overlaps(shifted[index : index + 1], shifted[later])[0]
        alive[later[overlap > overlap_max]] = False
    return np.asarray(kept, dtype=np.int64)


def overlaps(corners: NDArray[np.floating], others: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the intersection over union of each of (n, 4) with each of (m, 4): (n, m)."""
    a, b = corners.astype(np.float64)[:, None], others.astype(np.float64)[None]
    size = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])  # (n, m, 2)
    both = np.prod(np.clip(size, 0.0, None), axis=-1)
    area_a = np.prod(a[..., 2:] - a[..., :2], axis=-1)
    area_b = np.prod(b[..., 2:] - b[..., :2], axis=-1)
    union = area_a + area_b - both
    shares: NDArray[np.float64] = np.divide(both, union, out=np.zeros_like(both), where=union > 0)
    return shares


def _decode_fastestdet(outputs: tuple[Array, ...], _: ModelSpec, confidence_min: float) -> Boxes:
    grid = _finite(outputs[0][0])  # (5 + classes, rows, columns)
    _, rows, columns = grid.shape
    scores = grid[0] * grid[5:].max(axis=0)  # (rows, columns)
    row, column = np.nonzero(scores >= confidence_min)
    cells = grid[:, row, column]  # (5 + classes, n)
    centre_x = (column + np.tanh(cells[1])) / columns
    centre_y = (row + np.tanh(cells[2])) / rows
    sizes = 1.0 / (1.0 + np.exp(-np.clip(cells[3:5], -60.0, 60.0)))  # (2, n)
    corners = _corners(centre_x, centre_y, sizes[0], sizes[1])
    return _boxes(corners, scores[row, column], cells[5:].argmax(axis=0))


def _decode_ssd_corners(outputs: tuple[Array, ...], _: ModelSpec, confidence_min: float) -> Boxes:
    by_class = _finite(outputs[0][0])[:, 1:]  # (n, classes), without background
    row, class_index = np.nonzero(by_class >= confidence_min)
    return _boxes(_finite(outputs[1][0])[row], by_class[row, class_index], class_index)


def _decode_yolo(outputs: tuple[Array, ...], spec: ModelSpec, confidence_min: float) -> Boxes:
    rows = _finite(outputs[0][0])  # (n, 5 + classes)
    scores = rows[:, 4] * rows[:, 5:].max(axis=1)
    chosen = rows[scores >= confidence_min]
    corners = _corners(chosen[:, 0], chosen[:, 1], chosen[:, 2], chosen[:, 3])
    classes = chosen[:, 5:].argmax(axis=1)
    return _boxes(corners / _input_size(spec), scores[scores >= confidence_min], classes)


def _decode_boxes(outputs: tuple[Array, ...], spec: ModelSpec, confidence_min: float) -> Boxes:
    rows = _finite(outputs[0][0])  # (n, 6)
    known = (rows[:, 5] >= 0) & (rows[:, 5] < len(spec.output.classes))
    chosen = rows[(rows[:, 4] >= confidence_min) & known]
    return _boxes(chosen[:, :4] / _input_size(spec), chosen[:, 4], chosen[:, 5])


_DECODERS: MappingProxyType[Decoder, Callable[[tuple[Array, ...], ModelSpec, float], Boxes]] = (
    MappingProxyType(
        {
            Decoder.FASTESTDET: _decode_fastestdet,
            Decoder.SSD_CORNERS: _decode_ssd_corners,
            Decoder.YOLO: _decode_yolo,
            Decoder.BOXES: _decode_boxes,
        }
    )
)


def _fits(shapes: tuple[tuple[int, ...], ...], spec: ModelSpec) -> bool:
    """Whether outputs of these shapes can be read as the spec says."""
    classes = len(spec.output.classes)
    match spec.output.decoder, shapes:
        case ((Decoder.LOGITS | Decoder.PROBABILITIES), ((1, *rest),)):
            return int(np.prod(rest)) == classes
        case Decoder.FASTESTDET, ((1, depth, _, _),):
            return depth == 5 + classes
        case Decoder.SSD_CORNERS, ((1, n, depth), (1, m, 4)):
            return n == m and depth == 1 + classes
        case Decoder.YOLO, ((1, _, depth),):
            return depth == 5 + classes
        case Decoder.BOXES, ((1, _, 6),):
            return True
        case Decoder.RECONSTRUCTION, (shape,):
            return shape == spec.input_shape
        case Decoder.SCORE, (shape,):
            return int(np.prod(shape)) == 1
    return False


def _expected(spec: ModelSpec) -> str:
    classes = len(spec.output.classes)
    return {
        Decoder.LOGITS: f"(1, {classes})",
        Decoder.PROBABILITIES: f"(1, {classes})",
        Decoder.FASTESTDET: f"(1, {5 + classes}, rows, columns)",
        Decoder.SSD_CORNERS: f"scores (1, n, {1 + classes}) and boxes (1, n, 4)",
        Decoder.YOLO: f"(1, n, {5 + classes})",
        Decoder.BOXES: "(1, n, 6)",
        Decoder.RECONSTRUCTION: f"{spec.input_shape}",
        Decoder.SCORE: "one number",
    }[spec.output.decoder]


def _finite(values: Array) -> Floats:
    """Return `values` as float32; see rule 3."""
    floats = values.astype(np.float32, copy=False)
    if not np.isfinite(floats).all():
        raise RefusedError("inference.output", "The model's output is not a finite number.")
    return floats


def _corners(centre_x: Floats, centre_y: Floats, width: Floats, height: Floats) -> Floats:
    """Return (n, 4) corners from centres and sizes, each (n,)."""
    half_w, half_h = width / 2, height / 2
    sides = (centre_x - half_w, centre_y - half_h, centre_x + half_w, centre_y + half_h)
    return np.stack(sides, axis=1).astype(np.float32)


def _input_size(spec: ModelSpec) -> Floats:
    """Return width, height, width, height of the model's input."""
    assert isinstance(spec.input, ImageInput), "boxes come from images"
    return np.array([spec.input.width, spec.input.height] * 2, dtype=np.float32)


def _boxes(corners: Array, scores: Array, classes: Array) -> Boxes:
    return Boxes(
        corners=corners.astype(np.float32, copy=False),
        scores=np.clip(scores, 0.0, 1.0).astype(np.float32, copy=False),
        classes=classes.astype(np.int64),
    )


def _pick(boxes: Boxes, chosen: Indices) -> Boxes:
    return Boxes(boxes.corners[chosen], boxes.scores[chosen], boxes.classes[chosen])
