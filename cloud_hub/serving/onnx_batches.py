"""OnnxBatches: a released model that runs many items at once, where its graph allows it.

1. Set up as on a device: no spinning, exact int8. `threads` work on one batch.
2. A graph whose first axis is fixed at 1 runs its items one after another.
3. Outputs are handed back item by item, each with its batch axis of 1, as a device sees them.
"""

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from onnxruntime.capi import onnxruntime_pybind11_state as states

from shared.errors import RefusedError
from shared.model.postprocess import check_outputs
from shared.model.spec import ModelSpec

Array = NDArray[np.generic]
_LOG_ERRORS_ONLY = 3
_DTYPES: dict[str, np.dtype[Any]] = {
    "tensor(float)": np.dtype(np.float32),
    "tensor(uint8)": np.dtype(np.uint8),
    "tensor(int64)": np.dtype(np.int64),
}
# onnxruntime's own errors have no common base.
_ERRORS: tuple[type[Exception], ...] = (
    *(
        each
        for each in vars(states).values()
        if isinstance(each, type) and issubclass(each, Exception)
    ),
    RuntimeError,
    ValueError,
    MemoryError,
)


class OnnxBatches:
    """See the rules above. One thread."""

    def __init__(self, path: Path, spec: ModelSpec, *, threads: int) -> None:
        """Load a model and run it once. Raises RefusedError `serving.model`."""
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = _LOG_ERRORS_ONLY
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.add_session_config_entry("session.x64quantprecision", "1")
        try:
            self._session = ort.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"]
            )
        except _ERRORS as error:
            raise _failed(error) from error
        (entry,) = self._session.get_inputs()
        self._name = entry.name
        self.dtype = _DTYPES[entry.type]
        self.is_batched = not isinstance(entry.shape[0], int)
        warm = np.zeros(spec.input_shape, self.dtype)
        for outputs in self.run([warm, warm]):
            check_outputs(outputs, spec)

    def run(self, tensors: list[Array]) -> list[tuple[Array, ...]]:
        """Return each item's outputs, in order. Raises RefusedError `serving.model`."""
        try:
            if not self.is_batched or len(tensors) == 1:
                return [tuple(self._session.run(None, {self._name: each})) for each in tensors]
            outputs = self._session.run(
                None, {self._name: np.concatenate(tensors)}
            )  # (N, ...) each
        except _ERRORS as error:
            raise _failed(error) from error
        if any(output.shape[0] != len(tensors) for output in outputs):
            self.is_batched = False  # The graph takes many and mixes them: one by one, then
            return self.run(tensors)
        return [
            tuple(output[index : index + 1] for output in outputs) for index in range(len(tensors))
        ]


def _failed(error: Exception) -> RefusedError:
    first = (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
    return RefusedError("serving.model", f"The model cannot be run: {first}.")
