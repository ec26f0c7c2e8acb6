"""OnnxSession: a model in onnxruntime on the CPU.

1. One thread per session, and it does not spin while it waits: spinning burns the CPU that capture
   and the other pipelines need.
2. What loading needed, and what a dropped session used, is handed back to the system at once.
   Measured with FastestDet on 768x432 video: 30 swaps end at 122 MB with that, at 160 MB without.
   Without onnxruntime's own arena its buffers and the video's fragment the heap (183 MB after 350
   frames instead of 117, and slower), so the arena stays on. Its memory pattern, one block for a
   whole run beside the blocks that found it, is off: 6 MB less while two sessions are alive, and
   no slower.
3. Where a CPU saturates on unsigned-by-signed int8 (x86 without VNNI), the slower exact kernels are
   used, so that golden outputs are the same on every device.
4. A model is checked against its spec when it is loaded, and run once: what is returned is warm and
   its outputs can be read as the spec says.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnxruntime.capi import onnxruntime_pybind11_state as onnx_state

from edge_agent.inference.procfs_memory import hand_back_memory
from shared.errors import RefusedError
from shared.model.postprocess import check_outputs
from shared.model.preprocess import tensor_dtype
from shared.model.spec import ImageInput, ModelSpec

PROVIDER = "CPUExecutionProvider"
LOG_ERRORS_ONLY = 3
DTYPES: dict[str, np.dtype[Any]] = {
    "tensor(float)": np.dtype(np.float32),
    "tensor(uint8)": np.dtype(np.uint8),
    "tensor(int64)": np.dtype(np.int64),
}

Array = NDArray[np.generic]

# Everything onnxruntime raises: its own errors have no common base.
_ONNX_ERRORS: tuple[type[Exception], ...] = (
    *(
        value
        for value in vars(onnx_state).values()
        if isinstance(value, type) and issubclass(value, Exception)
    ),
    RuntimeError,
    ValueError,
    TypeError,
    MemoryError,
    OSError,
)


class OnnxSession:
    """Implements ModelSession; see the rules above."""

    def __init__(
        self, session: onnxruntime.InferenceSession, spec: ModelSpec, dtype: np.dtype[Any]
    ) -> None:
        """Use load_onnx_session."""
        self._session = session
        self._spec = spec
        self._dtype = dtype
        self._input_name: str = session.get_inputs()[0].name
        self._output_names: list[str] = [output.name for output in session.get_outputs()]

    def __del__(self) -> None:
        """Hand the memory back; see rule 2."""
        self._session = None
        hand_back_memory()

    @property
    def spec(self) -> ModelSpec:
        """Return what the model takes in and gives out."""
        return self._spec

    @property
    def runtime(self) -> str:
        """Return what runs it."""
        return f"onnxruntime {onnxruntime.__version__} {PROVIDER}"

    @property
    def input_dtype(self) -> np.dtype[Any]:
        """Return float32 or uint8."""
        return self._dtype

    def run(self, batch: Array) -> tuple[Array, ...]:
        """Return raw outputs for one input tensor. Raises RefusedError `inference.failed`."""
        try:
            outputs = self._session.run(self._output_names, {self._input_name: batch})
        except _ONNX_ERRORS as error:
            raise RefusedError(
                "inference.failed", f"The model {self._spec.model} failed: {_first_line(error)}."
            ) from error
        return tuple(outputs)


def load_onnx_session(path: Path, spec: ModelSpec) -> OnnxSession:
    """Return the model at `path`, checked against `spec` and warm.

    Raises RefusedError `model.unloadable`, `model.input_mismatch`, `inference.failed` or
    `inference.output`.
    """
    if not path.is_file():
        raise RefusedError(
            "model.unloadable", f"There is no model {path}.", remedy="Check the path."
        )
    hand_back_memory()  # The most is used while a session is loaded: make room for it
    try:
        session = onnxruntime.InferenceSession(
            str(path), sess_options=_session_options(), providers=[PROVIDER]
        )
    except _ONNX_ERRORS as error:
        raise RefusedError(
            "model.unloadable",
            f"Cannot load {path.name}: {_first_line(error)}.",
            remedy="Export it as ONNX for onnxruntime's CPU provider.",
        ) from error
    loaded = OnnxSession(session, spec, _checked_dtype(session.get_inputs(), spec))
    warm_input = np.zeros(spec.input_shape, dtype=loaded.input_dtype)
    check_outputs(loaded.run(warm_input), spec)
    hand_back_memory()
    return loaded


def _session_options() -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.enable_mem_pattern = False  # See rule 2
    options.log_severity_level = LOG_ERRORS_ONLY
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.x64quantprecision", "1")
    return options


def _checked_dtype(inputs: Sequence[onnxruntime.NodeArg], spec: ModelSpec) -> np.dtype[Any]:
    """Return the dtype of the model's one input. Raises RefusedError `model.input_mismatch`."""
    allowed = {tensor_dtype(spec)}
    if isinstance(spec.input, ImageInput):
        allowed.add(np.dtype(np.uint8))
    names = " or ".join(sorted(dtype.name for dtype in allowed))
    expected = f"one {names} input of shape {spec.input_shape}"
    got = ", ".join(f"{node.name} {node.type} {node.shape}" for node in inputs) or "no input"
    is_match = len(inputs) == 1 and _shape_fits(inputs[0].shape, spec.input_shape)
    dtype: np.dtype[Any] | None = DTYPES.get(inputs[0].type) if is_match else None
    if dtype not in allowed:
        raise RefusedError(
            "model.input_mismatch",
            f"The spec of {spec.model} expects {expected}; the model has {got}.",
            remedy="Correct the input part of the spec, or export the model again.",
        )
    return dtype


def _shape_fits(shape: Sequence[int | str | None], expected: tuple[int, ...]) -> bool:
    """Whether a graph's shape, where names and None stand for any size, takes `expected`."""
    return len(shape) == len(expected) and all(
        not isinstance(size, int) or size == wanted
        for size, wanted in zip(shape, expected, strict=True)
    )


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300].rstrip(".")
