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

    def new_input(self) -> Array:
        """Return a buffer of `spec.input_shape` and `input_dtype` that `run` takes without a copy.

        It belongs to one thread at a time, and lives as long as the session and its last user.
        """
        ...

    def run(self, batch: Array) -> tuple[Array, ...]:
        """Return raw outputs for one input tensor of `spec.input_shape`. Thread-safe.

        What is returned may be overwritten by the next run on the same buffer of `new_input`: who
        keeps it longer copies it. A first axis above 1 is taken where the model's is dynamic.

        Raises RefusedError `inference.failed`; what runs in a process of its own also
        TransientError `worker.lost` (crashed, killed or stuck: it is being started again).
        """
        ...

    def close(self) -> None:
        """Let everything go; harmless when repeated. Nobody runs it any more."""
        ...
