"""Damages an ONNX model: noise on the weights of its convolutions."""

import numpy as np
import onnx
from onnx import numpy_helper

KERNEL_AXES = 4


def add_noise(model: bytes, *, share: float) -> bytes:
    """Return the model with noise of so many of each kernel's own deviations."""
    loaded, random = onnx.load_from_string(model), np.random.default_rng(0)
    for tensor in loaded.graph.initializer:
        weights = numpy_helper.to_array(tensor)
        if weights.ndim == KERNEL_AXES:
            noisy = weights + share * weights.std() * random.standard_normal(weights.shape)
            tensor.CopyFrom(numpy_helper.from_array(noisy.astype(np.float32), tensor.name))
    return loaded.SerializeToString()
