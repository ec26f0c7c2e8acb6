"""A model in OpenVINO, in this process."""

from pathlib import Path

from edge_agent.inference.engine_session import EngineSession, load_in_process
from edge_agent.inference.openvino_engine import load_openvino_engine
from shared.model.spec import ModelSpec


def load_openvino_session(path: Path, spec: ModelSpec) -> EngineSession:
    """Return the model at `path`, checked against `spec` and warm.

    Raises RefusedError as load_onnx_session, and `backend.missing`.
    """
    return load_in_process(path, spec, load_openvino_engine)
