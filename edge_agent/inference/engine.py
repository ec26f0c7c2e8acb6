"""Engine: a runtime with one model loaded in this process; arrays in, arrays out.

What must not live here: the model's spec, and anything that takes long to import: a worker process
is started anew after every crash, and this is among what it reads first.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.generic]


@dataclass(frozen=True, slots=True)
class Node:
    """One input or output of a graph as the runtime tells it."""

    name: str
    dtype: str  # numpy's name; what numpy has no name for is the runtime's word
    shape: tuple[int | str | None, ...]  # A name or None stands for any size


class Engine(Protocol):
    """Implementations: onnx_engine.OnnxEngine, openvino_engine.OpenvinoEngine."""

    @property
    def runtime(self) -> str:
        """Return what runs it: "onnxruntime 1.31.1 CPUExecutionProvider"."""
        ...

    @property
    def inputs(self) -> tuple[Node, ...]:
        """Return what the graph takes."""
        ...

    def run(self, batch: Array) -> Sequence[Array]:
        """Return the outputs for the graph's only input. Thread-safe.

        Raises RefusedError `inference.failed` or `worker.memory`.
        """
        ...


# A model's file and name to an engine. Raises RefusedError `model.unloadable`, `worker.memory` or
# `backend.missing`.
LoadEngine = Callable[[Path, str], Engine]
