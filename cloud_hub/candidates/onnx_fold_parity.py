"""Does a folded model compute what the model as it came does? Folds it where it does.

1. Compared are the golden inputs, and frames of the evaluation set: the model as it came through
   the device's own preprocess, the folded one straight. All must be within the spec's tolerance.
2. Golden inputs that were given come as tensors. They are turned back into frames; where they were
   no pixels there is nothing to compare, and the model stays as it came.
3. The folded model's golden outputs are those of the model as it came.

Runs in the examining process only (onnx_examination.py).
"""

from dataclasses import dataclass

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from cloud_hub.candidates import gate
from cloud_hub.candidates.folding import folded_spec
from cloud_hub.candidates.onnx_evaluation import (
    FOREIGN_ERRORS,
    Evaluation,
    draw_inputs,
    evaluate,
    open_run,
)
from cloud_hub.candidates.onnx_folding import fold
from cloud_hub.candidates.onnx_inspection import Inspection, inspect_model
from shared.errors import RefusedError
from shared.model.preprocess import to_tensor
from shared.model.spec import Colour, ImageInput, Layout, ModelSpec
from shared.release.golden import GoldenSet, compare

PARITY_FRAMES_MAX = 16  # Of the evaluation set
WHOLE_WITHIN = 1e-2  # How far from a whole number a golden input's pixel may be
BYTE_MAX = 255
OPSET_MIN = 13

Array = NDArray[np.generic]
Frames = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Folded:
    """A folded model, examined; `spec` is what it takes now."""

    inspection: Inspection
    evaluation: Evaluation
    spec: ModelSpec


def fold_examined(
    data: bytes,
    spec: ModelSpec,
    evaluation: Evaluation,
    *,
    golden: GoldenSet | None,
    items: Array | None,
) -> Folded:
    """Return the folded form of a model, proved to compute the same.

    Args:
        data: the model as it would be published.
        spec: of the model as it came.
        evaluation: what came of running that.
        golden: as given, or None where inputs were drawn.
        items: of the evaluation set, (n, H, W, 3), or None.

    Raises RefusedError `folding.failed`, saying why.
    """
    frames_spec = folded_spec(spec)
    try:
        frames = (
            draw_inputs(frames_spec, dtype="uint8", items=evaluation.facts.items_count)
            if golden is None
            else frames_of(golden.inputs, spec)
        )
        inspection = inspect_model(fold(data, spec), opset_min=OPSET_MIN)
        if inspection.facts.error or inspection.facts.checker_error:
            raise _failed(inspection.facts.error or inspection.facts.checker_error)
        outputs = _answers(data, frames, spec) if golden is None else golden.outputs
        _check_items(data, inspection.model_bytes, items, spec)
        ran = evaluate(
            data,
            inspection.model_bytes,
            frames_spec,
            golden=GoldenSet(frames, outputs),
            items=frames.shape[0],
        )
    except FOREIGN_ERRORS as error:
        raise _failed(str(error)) from error
    reasons = gate.run_reasons(ran.facts, frames_spec)
    if reasons:
        raise _failed(f"{reasons[0].text} {reasons[0].measured}".strip())
    facts = replace(ran.facts, is_golden_given=golden is not None)
    return Folded(inspection, Evaluation(facts, ran.golden_bytes), frames_spec)


def frames_of(tensors: Array, spec: ModelSpec) -> Frames:
    """Return the uint8 BGR frames, (n, H, W, 3), that tensors (n, ...) came from.

    Raises RefusedError `folding.failed` where they are no pixels.
    """
    image = spec.input
    assert isinstance(image, ImageInput), "only pictures are folded"
    planes = tensors if image.layout is Layout.CHANNELS_LAST else tensors.transpose(0, 2, 3, 1)
    values = planes.astype(np.float64) * np.asarray(image.scale) + np.asarray(image.mean)
    whole = np.rint(values)  # (n, H, W, C)
    if np.abs(values - whole).max() > WHOLE_WITHIN or whole.min() < 0 or whole.max() > BYTE_MAX:
        raise _failed("its golden inputs are no pixels from 0 to 255")
    pixels = whole.astype(np.uint8)
    if image.colour is Colour.GRAY:
        return np.repeat(pixels, 3, axis=3)
    return np.ascontiguousarray(pixels[..., ::-1] if image.colour is Colour.RGB else pixels)


def _answers(data: bytes, frames: Array, spec: ModelSpec) -> tuple[Array, ...]:
    """Return what the model as it came says of frames: each output (n, ...)."""
    run, _ = open_run(data)
    rows = [run(to_tensor(frame, spec)) for frame in frames]
    return tuple(np.concatenate(outputs) for outputs in zip(*rows, strict=True))


def _check_items(data: bytes, folded: bytes, items: Array | None, spec: ModelSpec) -> None:
    """Compare both on frames of the evaluation set. Raises RefusedError `folding.failed`."""
    if items is None or not items.shape[0]:
        return
    frames = items[:PARITY_FRAMES_MAX]
    run, _ = open_run(folded)
    rows = [run(frame[None]) for frame in frames]
    got = tuple(np.concatenate(outputs) for outputs in zip(*rows, strict=True))
    result = compare(got, _answers(data, frames, spec), tolerance=spec.tolerance)
    if not result.is_within:
        raise _failed(f"on frames of the evaluation set it is off by {result.error_max:.3g}")


def _failed(text: str) -> RefusedError:
    return RefusedError("folding.failed", f"Preprocessing stays out of the graph: {text}.")
