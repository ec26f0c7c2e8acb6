"""A model in onnxruntime, in this process."""

from pathlib import Path

from edge_agent.inference.engine_session import EngineSession, load_in_process
from edge_agent.inference.onnx_engine import load_onnx_engine
from shared.model.spec import ModelSpec


def load_onnx_session(path: Path, spec: ModelSpec) -> EngineSession:
    """Return the model at `path`, checked against `spec` and warm.

    Raises RefusedError `model.unloadable`, `model.input_mismatch`, `inference.failed`,
    `inference.output` or `worker.memory`.
    """
    return load_in_process(path, spec, load_onnx_engine)
