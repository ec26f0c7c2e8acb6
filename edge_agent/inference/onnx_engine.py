"""OnnxEngine: a model in onnxruntime on the CPU.

1. One thread per run, and it does not spin while it waits: spinning burns the CPU that capture and
   the other pipelines need. Several threads may run one engine at the same time.
2. onnxruntime's arena stays on: without it its buffers and the video's fragment the heap (183 MB
   after 350 frames of FastestDet over 768x432 video instead of 117, and slower). Its memory
   pattern, one block for a whole run beside the blocks that found it, is off: 6 MB less while two
   sessions are alive, and no slower.
3. Where a CPU saturates on unsigned-by-signed int8 (x86 without VNNI), the slower exact kernels are
   used, so that golden outputs are the same on every device.
4. onnxruntime is imported when the first model is loaded: an agent whose models run in processes of
   their own never needs its 30 MB.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from edge_agent.inference.engine import Array, Node
from edge_agent.inference.foreign_errors import (
    first_line,
    is_out_of_memory,
    out_of_memory,
    why_unloadable,
)
from shared.errors import RefusedError
from shared.quiet_libraries import keep_libraries_quiet

if TYPE_CHECKING:
    import onnxruntime

PROVIDER = "CPUExecutionProvider"
LOG_ERRORS_ONLY = 3
DTYPES = {
    "tensor(float)": "float32",
    "tensor(uint8)": "uint8",
    "tensor(int64)": "int64",
}


class OnnxEngine:
    """Implements Engine; see the rules above."""

    def __init__(
        self,
        session: "onnxruntime.InferenceSession",
        model: str,
        *,
        runtime: str,
        errors: tuple[type[Exception], ...],
    ) -> None:
        """Use load_onnx_engine."""
        self._session = session
        self._model = model
        self._runtime = runtime
        self._errors = errors
        self._inputs = _nodes(session.get_inputs())
        self._outputs = _nodes(session.get_outputs())
        self._input_name = self._inputs[0].name if self._inputs else ""
        self._output_names = [output.name for output in self._outputs]

    @property
    def runtime(self) -> str:
        """Return the library, its version and its provider."""
        return self._runtime

    @property
    def inputs(self) -> tuple[Node, ...]:
        """Return what the graph takes."""
        return self._inputs

    @property
    def outputs(self) -> tuple[Node, ...]:
        """Return what the graph gives, as far as the file says."""
        return self._outputs

    @property
    def metadata(self) -> dict[str, str]:
        """Return the words that the exporter left in the file."""
        words: dict[str, str] = self._session.get_modelmeta().custom_metadata_map
        return words

    def run(self, batch: Array) -> Sequence[Array]:
        """Return the outputs. Raises RefusedError `inference.failed` or `worker.memory`."""
        try:
            outputs: Sequence[Array] = self._session.run(
                self._output_names, {self._input_name: batch}
            )
        except self._errors as error:
            if is_out_of_memory(error):
                raise out_of_memory(self._model, error) from error
            raise RefusedError(
                "inference.failed", f"The model {self._model} failed: {first_line(error)}."
            ) from error
        return outputs


def load_onnx_engine(path: Path, model: str) -> OnnxEngine:
    """Return the model in the file `path`. Raises RefusedError `model.unloadable`, `worker.memory`.

    Args: model: its name, for messages.
    """
    if not path.is_file():
        raise RefusedError(
            "model.unloadable", f"There is no model {path}.", remedy="Check the path."
        )
    keep_libraries_quiet()
    import onnxruntime  # See rule 4

    errors = _errors()
    try:
        session = onnxruntime.InferenceSession(
            str(path), sess_options=_session_options(), providers=[PROVIDER]
        )
    except errors as error:
        if is_out_of_memory(error):
            raise out_of_memory(model, error) from error
        raise RefusedError(
            "model.unloadable",
            f"Cannot load {path.name}: {why_unloadable(error)}.",
            remedy="Export it as ONNX for onnxruntime's CPU provider.",
        ) from error
    runtime = f"onnxruntime {onnxruntime.__version__} {PROVIDER}"
    return OnnxEngine(session, model, runtime=runtime, errors=errors)


def _nodes(told: Sequence["onnxruntime.NodeArg"]) -> tuple[Node, ...]:
    return tuple(
        Node(node.name, DTYPES.get(node.type, node.type), tuple(node.shape)) for node in told
    )


def _session_options() -> "onnxruntime.SessionOptions":
    import onnxruntime  # See rule 4

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.enable_mem_pattern = False  # See rule 2
    options.log_severity_level = LOG_ERRORS_ONLY
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.x64quantprecision", "1")
    return options


def _errors() -> tuple[type[Exception], ...]:
    """Return everything onnxruntime raises: its own errors have no common base."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state  # See rule 4

    own = (
        value
        for value in vars(state).values()
        if isinstance(value, type) and issubclass(value, Exception)
    )
    return (*own, RuntimeError, ValueError, TypeError, MemoryError, OSError)
