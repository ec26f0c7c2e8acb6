"""Parity: does an exported model compute what torch computed? Runs in the export process only."""

import numpy as np
from numpy.typing import NDArray

from cloud_hub.candidates.export_files import ParityFacts
from cloud_hub.candidates.onnx_evaluation import FOREIGN_ERRORS, draw_inputs, open_run
from cloud_hub.candidates.onnx_inspection import inspect_model
from shared.errors import RefusedError
from shared.model.preprocess import tensor_dtype
from shared.model.spec import ModelSpec, Tolerance
from shared.release.golden import compare

Array = NDArray[np.generic]
OPSET_MIN = 18


def strip(data: bytes) -> bytes:
    """Return a model without texts and paths. Raises RefusedError `export.unreadable`."""
    inspection = inspect_model(data, opset_min=OPSET_MIN)
    if not inspection.model_bytes:
        raise RefusedError("export.unreadable", f"The export failed: {inspection.facts.error}.")
    return inspection.model_bytes


def parity_inputs(spec: ModelSpec, given: Array | None, *, items: int) -> Array:
    """Return `items` drawn inputs, and as many of those given: (n, ...)."""
    drawn = draw_inputs(spec, dtype=tensor_dtype(spec).name, items=items)
    return drawn if given is None else np.concatenate([drawn, given[:items]])


def compare_with(
    data: bytes, inputs: Array, outputs: tuple[Array, ...], tolerance: Tolerance
) -> ParityFacts:
    """Return how far onnxruntime is from `outputs`, each (n, ...), on `inputs`, (n, ...).

    Each item is run alone, as on a device. Raises RefusedError `export.unreadable`.
    """
    try:
        run, _ = open_run(data)
        rows = [run(inputs[index : index + 1]) for index in range(inputs.shape[0])]
    except FOREIGN_ERRORS as error:
        text = f"onnxruntime cannot run the export: {error}."
        raise RefusedError("export.unreadable", text) from error
    got = tuple(np.concatenate(each) for each in zip(*rows, strict=True))
    result = compare(got, outputs, tolerance=tolerance)
    is_finite = bool(np.isfinite(result.error_max))
    return ParityFacts(
        items_count=result.items_count,
        error_max=result.error_max if is_finite else 0.0,
        is_within=is_finite and result.is_within,
        limit=f"{tolerance.absolute:g} + {tolerance.relative:g} x value",
    )
