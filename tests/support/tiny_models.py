"""Small real ONNX models, made on the spot, good ones and each kind of bad one."""

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

SIDE = 8
CLASSES = 3
SPEC = """
model = "digits"
task = "classification"
[input]
kind = "image"
width = 8
height = 8
colour = "gray"
scale = [255.0]
[output]
decoder = "logits"
classes = ["zero", "one", "two"]
"""
WINDOW_SPEC = """
model = "bearing"
task = "anomaly"
[input]
kind = "window"
samples = 64
channels = 3
[output]
decoder = "reconstruction"
"""


def classifier(
    seed: int = 0,
    *,
    hidden: int = 16,
    extra_nodes: tuple[onnx.NodeProto, ...] = (),
    opset: int = 17,
) -> onnx.ModelProto:
    """Return a two-layer classifier of 8 x 8 gray images; `hidden` makes it as large as wanted."""
    random = np.random.default_rng(seed)
    weights = {
        "w1": random.standard_normal((SIDE * SIDE, hidden)).astype(np.float32),
        "w2": random.standard_normal((hidden, CLASSES)).astype(np.float32),
    }
    nodes = [
        helper.make_node("Flatten", ["input"], ["flat"]),
        helper.make_node("MatMul", ["flat", "w1"], ["h1"], name="first"),
        helper.make_node("Relu", ["h1"], ["h2"]),
        helper.make_node("MatMul", ["h2", "w2"], ["logits" if not extra_nodes else "raw"]),
        *extra_nodes,
    ]
    return make(
        nodes,
        weights,
        shape=("batch", 1, SIDE, SIDE),
        outputs=[("logits", ("batch", CLASSES))],
        opset=opset,
    )


def convolutional(seed: int = 0) -> onnx.ModelProto:
    """Return a small convolutional classifier of 8 x 8 gray images: what is quantized best."""
    random = np.random.default_rng(seed)
    weights = {
        "k1": (random.standard_normal((8, 1, 3, 3)) * 0.3).astype(np.float32),
        "k2": (random.standard_normal((CLASSES, 8, 3, 3)) * 0.1).astype(np.float32),
    }
    nodes = [
        helper.make_node("Conv", ["input", "k1"], ["c1"], name="conv1", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c1"], ["r1"]),
        helper.make_node("Conv", ["r1", "k2"], ["c2"], name="conv2", pads=[1, 1, 1, 1]),
        helper.make_node("GlobalAveragePool", ["c2"], ["p"]),
        helper.make_node("Flatten", ["p"], ["logits"]),
    ]
    return make(nodes, weights, shape=(1, 1, SIDE, SIDE), outputs=[("logits", (1, CLASSES))])


def identity_window() -> onnx.ModelProto:
    """Return a model of windows that puts out what it gets: the simplest reconstruction."""
    node = helper.make_node("Identity", ["input"], ["output"])
    return make([node], {}, shape=(1, 3, 64), outputs=[("output", (1, 3, 64))])


def make(
    nodes: list[onnx.NodeProto],
    weights: dict[str, NDArray[np.float32]],
    *,
    shape: tuple[int | str, ...],
    outputs: list[tuple[str, tuple[int | str, ...]]],
    opset: int = 17,
    dtype: int = TensorProto.FLOAT,
) -> onnx.ModelProto:
    """Return a model with one input called "input"."""
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("input", dtype, shape)],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in outputs],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    model.ir_version = 8
    return model


def images(count: int, *, seed: int = 0) -> NDArray[np.float32]:
    """Return `count` inputs of the classifiers: (count, 1, 8, 8) in 0..1."""
    random = np.random.default_rng(seed)
    return random.random((count, 1, SIDE, SIDE)).astype(np.float32)
