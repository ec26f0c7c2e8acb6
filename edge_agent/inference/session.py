"""ModelSession: a loaded model that turns one input tensor into raw outputs."""

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from shared.model.spec import ModelSpec

Array = NDArray[np.generic]


class ModelSession(Protocol):
    """Implementations: onnx_session.OnnxSession; the tests' own for faults."""

    @property
    def spec(self) -> ModelSpec:
        """Return what the model takes in and gives out."""
        ...

    @property
    def runtime(self) -> str:
        """Return what runs it, for the receipt: "onnxruntime 1.31.1 CPUExecutionProvider"."""
        ...

    @property
    def input_dtype(self) -> np.dtype[Any]:
        """Return float32, or uint8 for a model that scales pixels in its graph."""
        ...

    def run(self, batch: Array) -> tuple[Array, ...]:
        """Return raw outputs for one input tensor of `spec.input_shape`. Thread-safe.

        Raises RefusedError `inference.failed`.
        """
        ...
