"""OpenvinoEngine: a model in OpenVINO on the CPU; an option, chosen only where measured faster.

1. One thread per run and an infer request for each thread that runs, as the runtime wants it.
2. It is imported when a model is loaded; where it is missing the error names the extra.
3. Numbers as the runtime likes them: bf16 where the CPU has it. The release's golden outputs say
   whether that is near enough.
4. `import openvino` also imports a package that calls home when models are converted. It is kept
   from being imported at all; OpenVINO then takes a stub of its own.
"""

import importlib
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np

from edge_agent.inference.engine import Array, Node
from edge_agent.inference.foreign_errors import first_line, is_out_of_memory, out_of_memory
from shared.errors import RefusedError

if TYPE_CHECKING:
    import openvino  # type: ignore[import-untyped]  # It ships no types

DEVICE = "CPU"
TELEMETRY = "openvino_telemetry"


class OpenvinoEngine:
    """Implements Engine; see the rules above."""

    def __init__(self, compiled: "openvino.CompiledModel", model: str, *, runtime: str) -> None:
        """Use load_openvino_engine."""
        self._compiled = compiled
        self._model = model
        self._runtime = runtime
        self._own = threading.local()
        self._inputs = tuple(
            Node(
                port.get_any_name(),
                port.get_element_type().to_dtype().name,
                tuple(
                    axis.get_length() if axis.is_static else None
                    for axis in port.get_partial_shape()
                ),
            )
            for port in compiled.inputs
        )

    @property
    def runtime(self) -> str:
        """Return the library, its version and the device."""
        return self._runtime

    @property
    def inputs(self) -> tuple[Node, ...]:
        """Return what the graph takes."""
        return self._inputs

    def run(self, batch: Array) -> Sequence[Array]:
        """Return the outputs. Raises RefusedError `inference.failed` or `worker.memory`."""
        if batch.dtype.name != self._inputs[0].dtype:  # The runtime would convert it unasked
            raise RefusedError(
                "inference.failed",
                f"The model {self._model} takes {self._inputs[0].dtype}, not {batch.dtype}.",
            )
        request = getattr(self._own, "request", None)
        if request is None:
            request = self._own.request = self._compiled.create_infer_request()
        try:
            results = request.infer([batch], share_inputs=True, share_outputs=False)
        except (RuntimeError, ValueError, TypeError, MemoryError) as error:
            if is_out_of_memory(error):
                raise out_of_memory(self._model, error) from error
            raise RefusedError(
                "inference.failed", f"The model {self._model} failed: {first_line(error)}."
            ) from error
        return [np.asarray(results[port]) for port in self._compiled.outputs]


def load_openvino_engine(path: Path, model: str) -> OpenvinoEngine:
    """Return the model in the file `path`.

    Raises RefusedError `model.unloadable`, `worker.memory` or `backend.missing`.
    """
    try:
        openvino = import_openvino()
    except ImportError as error:
        raise RefusedError(
            "backend.missing",
            "OpenVINO is not installed here.",
            remedy="pip install 'isthmus[edge-openvino]', or leave the backend to onnxruntime.",
        ) from error
    if not path.is_file():
        raise RefusedError(
            "model.unloadable", f"There is no model {path}.", remedy="Check the path."
        )
    options = {
        "INFERENCE_NUM_THREADS": 1,
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
        # Else bf16 where the processor has it: FastestDet's golden outputs were off by 0.9 then.
        "INFERENCE_PRECISION_HINT": "f32",
    }
    try:
        core = openvino.Core()
        compiled = core.compile_model(str(path), DEVICE, options)
    except (RuntimeError, ValueError, TypeError, MemoryError) as error:
        if is_out_of_memory(error):
            raise out_of_memory(model, error) from error
        raise RefusedError(
            "model.unloadable",
            f"Cannot load {path.name}: {first_line(error)}.",
            remedy="Export it as ONNX that OpenVINO's CPU device takes.",
        ) from error
    return OpenvinoEngine(compiled, model, runtime=f"openvino {openvino.__version__} {DEVICE}")


def import_openvino() -> ModuleType:
    """Return the library, which calls nobody; see rule 4. Raises ImportError."""
    sys.modules.setdefault(TELEMETRY, None)  # type: ignore[arg-type]  # Documented: import fails
    return importlib.import_module("openvino")
