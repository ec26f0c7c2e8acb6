"""ModelFacts: what an ONNX file says of itself: inputs, outputs, metadata. Nothing is run."""

from dataclasses import dataclass
from pathlib import Path

from edge_agent.inference.engine import Node
from edge_agent.inference.onnx_engine import load_onnx_engine


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """Inputs and outputs in the graph's order; metadata: words that the exporter left."""

    inputs: tuple[Node, ...]
    outputs: tuple[Node, ...]
    metadata: dict[str, str]


def read_facts(path: Path) -> ModelFacts:
    """Return the facts of the file `path`. Raises RefusedError `model.unloadable`."""
    engine = load_onnx_engine(path, path.stem)
    return ModelFacts(engine.inputs, engine.outputs, engine.metadata)
