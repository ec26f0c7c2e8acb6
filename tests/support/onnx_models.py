"""Small real ONNX files for sessions: what they compute is known in closed form."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from shared.model.spec import Decoder, ImageInput, ModelSpec, OutputSpec, Task, WindowInput

SIDE = 8
COLOURS = ("blue", "green", "red")


def colour_spec(side: int = SIDE) -> ModelSpec:
    """Return a model that names the strongest colour of a picture."""
    return ModelSpec(
        model="colours",
        task=Task.CLASSIFICATION,
        input=ImageInput(width=side, height=side, scale=(255.0,)),
        output=OutputSpec(decoder=Decoder.LOGITS, classes=COLOURS),
    )


def echo_spec(samples: int, channels: int = 1, threshold: float = 0.5) -> ModelSpec:
    """Return a model whose anomaly score is the mean square of the window."""
    return ModelSpec(
        model="echo",
        task=Task.ANOMALY,
        input=WindowInput(samples=samples, channels=channels),
        output=OutputSpec(decoder=Decoder.RECONSTRUCTION, threshold=threshold),
    )


def write_colour_model(
    path: Path,
    *,
    side: int | str = SIDE,
    dtype: int = TensorProto.FLOAT,
    gain: float = 8.0,
    outputs: Sequence[str] = ("logits",),
) -> Path:
    """Write a model: logits are `gain` times each colour plane's mean (of x / 255 if uint8)."""
    nodes = []
    value = "image"
    if dtype == TensorProto.UINT8:
        nodes.append(helper.make_node("Cast", ["image"], ["floats"], to=TensorProto.FLOAT))
        value = "floats"
    scale = gain / 255.0 if dtype == TensorProto.UINT8 else gain
    nodes += [
        helper.make_node("ReduceMean", [value], ["means"], axes=[2, 3], keepdims=0),
        helper.make_node("Mul", ["means", "gain"], ["logits"]),
    ]
    nodes += [helper.make_node("Identity", ["logits"], [name]) for name in outputs[1:]]
    return _write(
        path,
        nodes,
        inputs=[("image", dtype, [1, 3, side, side])],
        outputs=[(name, [1, 3]) for name in outputs],
        constants={"gain": np.array(scale, np.float32)},
    )


def write_zero_model(path: Path, *, samples: int, channels: int = 1) -> Path:
    """Write a reconstruction that is always 0: the score is the mean square of the input."""
    shape = [1, channels, samples]
    return _write(
        path,
        [helper.make_node("Mul", ["window", "zero"], ["again"])],
        inputs=[("window", TensorProto.FLOAT, shape)],
        outputs=[("again", shape)],
        constants={"zero": np.array(0.0, np.float32)},
    )


def write_two_input_model(path: Path) -> Path:
    """Write a model that needs two tensors."""
    shape = [1, 3, SIDE, SIDE]
    return _write(
        path,
        [helper.make_node("Add", ["one", "two"], ["sum"])],
        inputs=[("one", TensorProto.FLOAT, shape), ("two", TensorProto.FLOAT, shape)],
        outputs=[("sum", shape)],
        constants={},
    )


def write_picky_model(path: Path, *, samples: int) -> Path:
    """Write a score that fails in the middle of the graph where the first sample is above 0."""
    return _write(
        path,
        [
            helper.make_node("Flatten", ["window"], ["flat"]),
            helper.make_node("Slice", ["flat", "start", "end", "axis"], ["first"]),
            helper.make_node("Ceil", ["first"], ["up"]),
            helper.make_node("Cast", ["up"], ["index"], to=TensorProto.INT64),
            helper.make_node("Gather", ["table", "index"], ["score"]),  # A table of one entry
        ],
        inputs=[("window", TensorProto.FLOAT, [1, 1, samples])],
        outputs=[("score", [1, 1])],
        constants={
            "start": np.array([0], np.int64),
            "end": np.array([1], np.int64),
            "axis": np.array([1], np.int64),
            "table": np.array([0.25], np.float32),
        },
    )


def _write(
    path: Path,
    nodes: list[onnx.NodeProto],
    *,
    inputs: list[tuple[str, int, list[int | str]]],
    outputs: list[tuple[str, list[int]]],
    constants: dict[str, np.ndarray],
) -> Path:
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info(*one) for one in inputs],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(made)
    path.write_bytes(made.SerializeToString())
    return path


def write_endless_model(path: Path, *, samples: int, is_trap: bool = False) -> Path:
    """Write a score from a loop of 2**62 turns; a trap: of that many times the samples' mean."""
    nodes = [helper.make_node("ReduceMean", ["window"], ["mean"], axes=[2], keepdims=0)]
    if is_trap:
        nodes += [
            helper.make_node("Mul", ["mean", "many"], ["wanted"]),
            helper.make_node("Cast", ["wanted"], ["counts"], to=TensorProto.INT64),
            helper.make_node("Squeeze", ["counts"], ["turns"]),
        ]
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go"], ["go_on"]),
            helper.make_node("Add", ["carried", "carried"], ["next"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("turn", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("carried", TensorProto.FLOAT, [1, 1]),
        ],
        [
            helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("next", TensorProto.FLOAT, [1, 1]),
        ],
    )
    return _write(
        path,
        [
            *nodes,
            helper.make_node("Loop", ["turns", "go", "mean"], ["score"], body=body),
        ],
        inputs=[("window", TensorProto.FLOAT, [1, 1, samples])],
        outputs=[("score", [1, 1])],
        constants={
            **({} if is_trap else {"turns": np.array(2**62, np.int64)}),
            "many": np.array(2.0**62, np.float32),
            "go": np.array(True),
        },
    )


def write_greedy_model(path: Path, *, samples: int) -> Path:
    """Write a score that takes 64 GB (2**34 float32) on its way."""
    return _write(
        path,
        [
            helper.make_node("ReduceMean", ["window"], ["mean"], axes=[2], keepdims=0),
            helper.make_node("Expand", ["mean", "shape"], ["wide"]),
            helper.make_node("Exp", ["wide"], ["wider"]),
            helper.make_node("ReduceMax", ["wider"], ["score"], axes=[1], keepdims=1),
        ],
        inputs=[("window", TensorProto.FLOAT, [1, 1, samples])],
        outputs=[("score", [1, 1])],
        constants={"shape": np.array([1, 2**34], np.int64)},
    )


def write_batch_model(path: Path, *, samples: int) -> Path:
    """Write a reconstruction, twice its input, that takes any number of windows at a time."""
    shape: list[int | str] = ["n", 1, samples]
    return _write(
        path,
        [helper.make_node("Add", ["window", "window"], ["again"])],
        inputs=[("window", TensorProto.FLOAT, shape)],
        outputs=[("again", shape)],  # type: ignore[list-item]
        constants={},
    )


def write_growing_model(path: Path) -> Path:
    """Write a detector that finds as many boxes of zeros as the picture's largest value says."""
    return _write(
        path,
        [
            helper.make_node("ReduceMax", ["image"], ["largest"], keepdims=0),
            helper.make_node("Cast", ["largest"], ["number"], to=TensorProto.INT64),
            helper.make_node("Reshape", ["number", "one"], ["count"]),
            helper.make_node("Concat", ["one", "count", "six"], ["shape"], axis=0),
            helper.make_node("ConstantOfShape", ["shape"], ["boxes"]),
        ],
        inputs=[("image", TensorProto.FLOAT, [1, 3, SIDE, SIDE])],
        outputs=[("boxes", [1, "n", 6])],  # type: ignore[list-item]
        constants={"one": np.array([1], np.int64), "six": np.array([6], np.int64)},
    )


def boxes_spec() -> ModelSpec:
    """Return the spec of that detector."""
    return ModelSpec(
        model="boxes",
        task=Task.DETECTION,
        input=ImageInput(width=SIDE, height=SIDE),
        output=OutputSpec(decoder=Decoder.BOXES, classes=("thing",)),
    )
