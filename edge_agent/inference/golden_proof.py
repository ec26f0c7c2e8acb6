"""prove_golden: whether a session computes on this device what its release says it should."""

import numpy as np

from edge_agent.inference.session import Array, ModelSession
from shared.errors import RefusedError
from shared.release.golden import GoldenResult, GoldenSet, compare


def prove_golden(session: ModelSession, golden: GoldenSet) -> GoldenResult:
    """Return how close `session` comes to the golden outputs, item by item, by its own tolerance.

    Raises RefusedError `golden.input` (the golden inputs are not this model's) or
    `inference.failed`.
    """
    shape = session.spec.input_shape
    inputs = golden.inputs
    if inputs.shape[1:] != shape[1:] or inputs.dtype != session.input_dtype:
        raise RefusedError(
            "golden.input",
            f"The model takes {session.input_dtype} {shape}; "
            f"the golden inputs are {inputs.dtype} {inputs.shape}.",
            remedy="Make the golden set from this model's own inputs.",
        )
    by_item = [session.run(inputs[i : i + 1]) for i in range(golden.items_count)]
    outputs: tuple[Array, ...] = tuple(
        np.concatenate(output, axis=0) for output in zip(*by_item, strict=True)
    )
    return compare(outputs, golden.outputs, tolerance=session.spec.tolerance)
