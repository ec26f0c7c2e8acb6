"""Model sessions for faults: what a broken model does, on demand. The shape is real."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_agent.inference.active_model import LoadedRelease
from shared.errors import RefusedError
from shared.model.spec import Decoder, ImageInput, ModelSpec, OutputSpec, Task
from tests.support.manual_clock import ManualClock

Array = NDArray[np.generic]
CLASSES = ("cat", "dog")
FAILED = RefusedError("inference.failed", "The model failed.")


def image_spec() -> ModelSpec:
    """Return a two-class model of 5 x 4 pixels."""
    return ModelSpec(
        model="pets",
        task=Task.CLASSIFICATION,
        input=ImageInput(width=5, height=4),
        output=OutputSpec(decoder=Decoder.PROBABILITIES, classes=CLASSES),
    )


class FaultSession:
    """Answers with what `answer` returns or raises, after turning the clock by `takes_ms`."""

    runtime = "fault"
    input_dtype: np.dtype[Any] = np.dtype(np.float32)

    def __init__(
        self, answer: Callable[[Array], Array], *, clock: ManualClock, takes_ms: float = 0.0
    ) -> None:
        self.spec = image_spec()
        self.runs_count = 0
        self._answer = answer
        self._clock = clock
        self._takes_ms = takes_ms

    def new_input(self) -> Array:
        return np.empty(self.spec.input_shape, self.input_dtype)

    def close(self) -> None:
        pass

    def run(self, batch: Array) -> tuple[Array, ...]:
        self.runs_count += 1
        self._clock.advance(self._takes_ms / 1000.0)
        return (self._answer(batch),)


def sure_of(label: str, share: float = 0.9) -> Callable[[Array], Array]:
    """Return an answer that gives `label` this probability whatever it sees."""
    scores = [share, 1.0 - share] if label == CLASSES[0] else [1.0 - share, share]
    return lambda _batch: np.array([scores], np.float32)


def failing(_batch: Array) -> Array:
    raise FAILED


def release(version: int, session: FaultSession) -> LoadedRelease:
    return LoadedRelease(
        model="pets",
        version=version,
        manifest_digest=f"{version:064x}",
        precision="fp32",
        session=session,
    )
