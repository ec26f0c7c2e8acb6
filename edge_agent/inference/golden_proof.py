"""prove_golden: whether a session computes on this device what its release says it should."""

from collections.abc import Iterable, Iterator

from edge_agent.inference.session import Array, ModelSession
from shared.errors import RefusedError, TransientError
from shared.release.golden import GoldenResult, GoldenSet, compare, merge


def prove_golden(session: ModelSession, golden: Iterable[GoldenSet]) -> GoldenResult:
    """Return how close `session` comes to the golden outputs, item by item, by its own tolerance.

    Args: golden: sets that together are the release's; read one at a time.

    Raises RefusedError `golden.input` (the golden inputs are not this model's), `inference.failed`,
    or `worker.crashed`: its process was lost on the same input twice, which is no accident.
    """
    return merge(_prove_each(session, golden))


def _prove_each(session: ModelSession, golden: Iterable[GoldenSet]) -> Iterator[GoldenResult]:
    shape = session.spec.input_shape
    for items in golden:
        inputs = items.inputs
        if inputs.shape[1:] != shape[1:] or inputs.dtype != session.input_dtype:
            raise RefusedError(
                "golden.input",
                f"The model takes {session.input_dtype} {shape}; "
                f"the golden inputs are {inputs.dtype} {inputs.shape}.",
                remedy="Make the golden set from this model's own inputs.",
            )
        for i in range(items.items_count):
            expected = tuple(output[i : i + 1] for output in items.outputs)
            yield compare(
                _run(session, inputs[i : i + 1]), expected, tolerance=session.spec.tolerance
            )


def _run(session: ModelSession, batch: Array) -> tuple[Array, ...]:
    try:
        return session.run(batch)
    except TransientError:  # The kernel may have taken it for another's fault
        pass
    try:
        return session.run(batch)
    except TransientError as error:
        raise RefusedError(
            "worker.crashed", f"Its golden inputs ended its process twice: {error.message}"
        ) from error
