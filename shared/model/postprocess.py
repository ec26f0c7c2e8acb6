"""Postprocess: raw outputs to scores, boxes or one number, in numpy, the one copy of it.

What must not live here: thresholds of a device (they come in as arguments), labels of a Decision.

1. `check_outputs` says whether a model's outputs can be read as the spec says; asked once, when a
   model is loaded.
2. Boxes come out best first, each class thinned by non-maximum suppression, at most BOXES_MAX, in
   shares of the frame (0..1). A box without area is dropped.
3. A number that is not finite in what is read is a failed inference, never a decision.
4. A mask's class at a pixel is the strongest; only the frame's part of it counts, letterbox
   padding is left out.
5. Boxes are decoded in box_decoders.py.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from shared.errors import RefusedError
from shared.model.box_decoders import Boxes as Boxes
from shared.model.box_decoders import decode_boxes, expected, finite, fits
from shared.model.preprocess import Placement
from shared.model.spec import Decoder, Layout, ModelSpec, Task, WindowInput
from shared.wire.limits import NUMBER_MAX
from shared.wire.records import BOXES_MAX, VALUES_MAX

CANDIDATES_MAX = 1000  # Boxes that enter suppression: the best ones; a noise model gives thousands.
SHAPES_KEPT = 64  # Of outputs that were compared with a spec: the same come with every frame
SUPPRESSED_AT_ONCE = 128  # Boxes compared each with each in one pass
MASK_AXES = 4

Array = NDArray[np.generic]
Floats = NDArray[np.float32]
Indices = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Segments:
    """Which class each pixel of one frame is of."""

    mask: Indices  # (h, w) at the model's resolution, the frame's part of it
    shares: NDArray[np.float64]  # (classes,) of the frame's pixels; they sum to 1


def class_scores(outputs: tuple[Array, ...], spec: ModelSpec) -> Floats:
    """Return the probability of each class, (classes,), summing to 1.

    Raises RefusedError `inference.output`.
    """
    check_outputs(outputs, spec)
    values = finite(outputs[0].reshape(-1))
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
    found = decode_boxes(outputs, spec, confidence_min)
    if not len(found):
        return found
    corners = placement.to_frame_shares(found.corners)
    has_area = (corners[:, 2] > corners[:, 0]) & (corners[:, 3] > corners[:, 1])
    best = np.flatnonzero(has_area)
    best = best[np.argsort(-found.scores[best], kind="stable")][:CANDIDATES_MAX]
    # Cut at the frame's edges only what is told: cut boxes overlap others than whole ones do.
    stays = best[suppress(_pick(found, best), overlap_max=overlap_max)]
    return _pick(Boxes(corners, found.scores, found.classes), stays)


def anomaly_score(outputs: tuple[Array, ...], batch: Array, spec: ModelSpec) -> float:
    """Return how unlike the normal the item is: the mean squared error, or the model's own number.

    Args:
        outputs: the model's.
        batch: the input tensor they came from; where last rows are foretold, those rows
            (`compared_with`).
        spec: the model's.

    Raises:
        RefusedError: `inference.output`.
    """
    check_outputs(outputs, spec)
    if spec.output.decoder is Decoder.SCORE:
        return float(finite(outputs[0].reshape(-1))[0])
    error = finite(outputs[0]).reshape(batch.shape) - batch.astype(np.float32, copy=False)
    return float(np.mean(np.square(error)))


def estimated_values(outputs: tuple[Array, ...], spec: ModelSpec) -> tuple[float, ...]:
    """Return the numbers of a regression or a forecast, in the model's order.

    Raises RefusedError `inference.output`.
    """
    check_outputs(outputs, spec)
    values = finite(outputs[0].reshape(-1))
    if float(np.abs(values).max()) > NUMBER_MAX:
        raise RefusedError("inference.output", f"A value is beyond {NUMBER_MAX:g}.")
    return tuple(values.tolist())


def segmented(outputs: tuple[Array, ...], spec: ModelSpec, *, placement: Placement) -> Segments:
    """Return which class each pixel of a frame is of; see rule 4.

    Args:
        outputs: the model's: (1, classes, h, w) scores of any kind, the largest counts; or
            (1, 1, h, w): whole numbers are classes, floats above 0 are the second of two.
        spec: the model's.
        placement: where the frame lay within the model's input.

    Raises:
        RefusedError: `inference.output`.
    """
    check_outputs(outputs, spec)
    rows, columns = _frame_part(outputs[0].shape[2:], placement)
    scores = outputs[0][0][:, rows, columns]  # (classes or 1, h, w)
    classes = len(spec.output.classes)
    if scores.dtype.kind in "iub":
        mask = scores[0].astype(np.int64)
    elif scores.shape[0] == 1 and classes > 1:
        mask = (finite(scores[0]) > 0).astype(np.int64)
    else:
        mask = finite(scores).argmax(axis=0).astype(np.int64)
    if int(mask.min()) < 0 or int(mask.max()) >= classes:
        raise RefusedError("inference.output", "The mask names a class that the spec does not.")
    counts = np.bincount(mask.reshape(-1), minlength=classes)
    return Segments(mask, counts / mask.size)


def shares_by_name(segments: Segments, spec: ModelSpec) -> dict[str, float]:
    """Return the share of the frame of each class that has a pixel, by its name."""
    named = zip(spec.output.classes, segments.shares.tolist(), strict=True)
    return {name: min(1.0, share) for name, share in named if share > 0}


def check_outputs(outputs: tuple[Array, ...], spec: ModelSpec) -> None:
    """Raise RefusedError `inference.output` if outputs cannot be read as the spec says; rule 1."""
    shapes = tuple(output.shape for output in outputs)
    if not _fits(shapes, spec) or _is_unclear(outputs, spec):
        got = ", ".join(str(shape) for shape in shapes) or "nothing"
        raise RefusedError(
            "inference.output",
            f"The decoder {spec.output.decoder} expects {_expected(spec)}{_for_classes(spec)}; "
            f"the model gives {got}.",
            remedy="Correct decoder and classes in the spec; `edge-agent spec MODEL` drafts one "
            "that fits.",
        )


def _for_classes(spec: ModelSpec) -> str:
    count = len(spec.output.classes)
    return f" for {count} {'class' if count == 1 else 'classes'}" if count else ""


def suppress(boxes: Boxes, *, overlap_max: float) -> Indices:
    """Return the indices of boxes that stay: per class, none overlaps a better one by more.

    `boxes` are best first, and so is what stays. Greedy, as in Girshick et al., R-CNN, 2014; boxes
    are compared a block at a time, and what stays of a block thins all that come after it.
    """
    corners, classes = boxes.corners.astype(np.float64), boxes.classes
    left = np.arange(len(boxes))
    kept: list[int] = []
    while left.size and len(kept) < BOXES_MAX:
        block, left = left[:SUPPRESSED_AT_ONCE], left[SUPPRESSED_AT_ONCE:]
        is_close = overlaps(corners[block], corners[block]) > overlap_max
        is_close &= classes[block][:, None] == classes[block]
        is_out = np.zeros(block.size, dtype=bool)
        stays = []
        for index in range(block.size):
            if not is_out[index]:
                stays.append(index)
                is_out |= is_close[index]
        found = block[stays]
        kept += found.tolist()
        if left.size:
            is_met = overlaps(corners[found], corners[left]) > overlap_max
            is_met &= classes[found][:, None] == classes[left]
            left = left[~is_met.any(axis=0)]
    return np.asarray(kept[:BOXES_MAX], dtype=np.int64)


def overlaps(corners: NDArray[np.floating], others: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the intersection over union of each of (n, 4) with each of (m, 4): (n, m)."""
    a, b = corners.astype(np.float64)[:, None], others.astype(np.float64)[None]
    size = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])  # (n, m, 2)
    size = np.maximum(size, 0.0)
    both = size[..., 0] * size[..., 1]
    area_a = (a[..., 2] - a[..., 0]) * (a[..., 3] - a[..., 1])
    area_b = (b[..., 2] - b[..., 0]) * (b[..., 3] - b[..., 1])
    union = area_a + area_b - both
    shares: NDArray[np.float64] = np.divide(both, union, out=np.zeros_like(both), where=union > 0)
    return shares


@lru_cache(maxsize=SHAPES_KEPT)
def _fits(shapes: tuple[tuple[int, ...], ...], spec: ModelSpec) -> bool:
    """Whether outputs of these shapes can be read as the spec says."""
    classes = len(spec.output.classes)
    match spec.output.decoder, shapes:
        case ((Decoder.LOGITS | Decoder.PROBABILITIES), ((1, *rest),)):
            return math.prod(rest) == classes
        case Decoder.RECONSTRUCTION, (shape,):
            return shape == spec.input_shape
        case Decoder.FORECAST, ((1, *rest),):
            whole = _foretold_shape(spec)[1:]
            return tuple(rest) in (whole, (math.prod(whole),))
        case Decoder.SCORE, (shape,):
            return math.prod(shape) == 1
        case Decoder.VALUES, ((1, n),):
            return n == classes if classes else 1 <= n <= VALUES_MAX
        case Decoder.MASK, ((1, depth, height, width),):
            return depth in (1, classes) and height > 0 and width > 0
        case _ if spec.task is Task.DETECTION:
            return fits(shapes, spec)
    return False


def _is_unclear(outputs: tuple[Array, ...], spec: ModelSpec) -> bool:
    """Whether outputs are a mask of one plane of floats that is to tell more than two classes."""
    is_plane = spec.output.decoder is Decoder.MASK and outputs[0].shape[1] == 1
    return is_plane and len(spec.output.classes) > 2 and outputs[0].dtype.kind == "f"


def _expected(spec: ModelSpec) -> str:
    classes = len(spec.output.classes)
    match spec.output.decoder:
        case Decoder.LOGITS | Decoder.PROBABILITIES:
            return f"(1, {classes})"
        case Decoder.RECONSTRUCTION:
            return f"{spec.input_shape}"
        case Decoder.FORECAST:
            return f"{_foretold_shape(spec)}"
        case Decoder.SCORE:
            return "one number"
        case Decoder.VALUES:
            return f"(1, {classes})" if classes else f"(1, n), n at most {VALUES_MAX}"
        case Decoder.MASK:
            return f"(1, {classes}, h, w), or (1, 1, h, w) of whole numbers"
        case _:
            return expected(spec)


def _foretold_shape(spec: ModelSpec) -> tuple[int, ...]:
    """Return (1, C, horizon), or (1, horizon, C) where channels are last."""
    assert isinstance(spec.input, WindowInput), "only windows are foretold"
    horizon, channels = spec.output.horizon, spec.input.channels
    is_last = spec.input.layout is Layout.CHANNELS_LAST
    return (1, horizon, channels) if is_last else (1, channels, horizon)


def _frame_part(size: tuple[int, ...], placement: Placement) -> tuple[slice, slice]:
    """Return the rows and columns of a mask (h, w) that show the frame; one of each at least."""
    height, width = size
    return (
        _part(height, placement.top, placement.height, placement.input_height),
        _part(width, placement.left, placement.width, placement.input_width),
    )


def _part(cells: int, start: int, extent: int, whole: int) -> slice:
    first = min(cells - 1, round(start * cells / whole))
    return slice(first, max(first + 1, round((start + extent) * cells / whole)))


def _pick(boxes: Boxes, chosen: Indices) -> Boxes:
    return Boxes(boxes.corners[chosen], boxes.scores[chosen], boxes.classes[chosen])
