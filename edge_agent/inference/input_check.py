"""Whether a graph takes what its model's spec says. Pure."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from edge_agent.inference.engine import Node
from shared.errors import RefusedError
from shared.model.preprocess import tensor_dtype
from shared.model.spec import ImageInput, ModelSpec


def checked_dtype(inputs: Sequence[Node], spec: ModelSpec) -> np.dtype[Any]:
    """Return the dtype of the graph's one input. Raises RefusedError `model.input_mismatch`."""
    allowed = {tensor_dtype(spec)}
    if isinstance(spec.input, ImageInput):
        allowed.add(np.dtype(np.uint8))
    if len(inputs) == 1 and _shape_fits(inputs[0].shape, spec.input_shape):
        for dtype in allowed:
            if dtype.name == inputs[0].dtype:
                return dtype
    names = " or ".join(sorted(dtype.name for dtype in allowed))
    got = ", ".join(f"{node.name} {node.dtype} {list(node.shape)}" for node in inputs)
    raise RefusedError(
        "model.input_mismatch",
        f"The spec of {spec.model} expects one {names} input of shape {spec.input_shape}; "
        f"the model has {got or 'no input'}.",
        remedy="Correct the input part of the spec, or export the model again.",
    )


def is_batch_fixed(inputs: Sequence[Node]) -> bool:
    """Whether a graph says how many items it takes at a time, rather than any number of them."""
    return isinstance(inputs[0].shape[0], int)


def check_rows(rows: int, spec: ModelSpec, *, is_fixed: bool) -> None:
    """Raise RefusedError `inference.failed` for more rows than a graph takes.

    The runtime would refuse them as well, and write a line to standard error.

    Args: is_fixed: see is_batch_fixed.
    """
    if is_fixed and rows > spec.input_shape[0]:
        raise RefusedError(
            "inference.failed",
            f"The model {spec.model} takes {spec.input_shape[0]} at a time; the batch has {rows}.",
            remedy="Export it with an open batch axis.",
        )


def _shape_fits(shape: Sequence[int | str | None], expected: tuple[int, ...]) -> bool:
    """Whether a graph's shape, where names and None stand for any size, takes `expected`."""
    return len(shape) == len(expected) and all(
        not isinstance(size, int) or size == wanted
        for size, wanted in zip(shape, expected, strict=True)
    )
