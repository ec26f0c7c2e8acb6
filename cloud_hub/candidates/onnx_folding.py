"""Puts preprocessing in front of a model: uint8 BGR frames (n, H, W, 3) go straight in.

1. As little as possible is added. Scale, and the order of channels, go into the weights of the
   first convolution where it alone takes the input; the mean goes into its bias where it pads
   nothing, else it is subtracted before, because padding is 0 after the mean is taken off.
2. What cannot go into weights becomes one node each, named PREFIX + what it does, which the
   quantizer leaves alone.
3. Gray is BT.601 rounded to whole numbers, as shared/model/preprocess.py has it.
4. In a quantized graph, "cast to float, perhaps subtract a whole number, quantize" says again what
   the bytes said already: they are taken as the quantized tensor with scale 1, which is exact and
   lets the first convolution read bytes.

Runs in the examining process only (onnx_examination.py).
"""

from dataclasses import dataclass, field

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from shared.errors import RefusedError
from shared.model.preprocess import GRAY_WEIGHTS_BGR
from shared.model.spec import Colour, ImageInput, Layout, ModelSpec

PREFIX = "isthmus_fold_"
FRAME = "frame"
BYTE_MAX = 255
TO_CHANNELS_FIRST = [0, 3, 1, 2]
AXES = 4

Floats = NDArray[np.float32]


@dataclass(slots=True)
class _Front:
    """Nodes that go before the model, the last of which puts out `tensor`."""

    tensor: str
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    weights: list[onnx.TensorProto] = field(default_factory=list)

    def add(
        self, kind: str, what: str, *constants: NDArray[np.generic], **attributes: int | list[int]
    ) -> None:
        """Add one node that takes the tensor so far, and constants after it."""
        names = [f"{PREFIX}{what}_{index}" for index in range(len(constants))]
        self.weights += [
            numpy_helper.from_array(value, name)
            for value, name in zip(constants, names, strict=True)
        ]
        output = PREFIX + what + "_out"
        node = helper.make_node(kind, [self.tensor, *names], [output], name=PREFIX + what)
        node.attribute.extend(helper.make_attribute(*pair) for pair in attributes.items())
        self.nodes.append(node)
        self.tensor = output


def fold(data: bytes, spec: ModelSpec) -> bytes:
    """Return a model of `spec` with its preprocessing in front; see rule 1.

    Args:
        data: a model that takes one float32 tensor of pixels.
        spec: as its own tensor is meant: colour, layout, mean and scale.

    Raises RefusedError `folding.failed`.
    """
    assert isinstance(spec.input, ImageInput), "only pictures are folded"
    model = onnx.load_from_string(data)
    graph = model.graph
    if len(graph.input) != 1:
        raise RefusedError("folding.failed", "The model has several inputs.")
    given = graph.input[0]
    if given.name != FRAME and _uses(graph, FRAME):
        raise RefusedError("folding.failed", f"A tensor within the model is named {FRAME!r}.")
    front = _front(graph, given.name, spec)
    _rename(graph, given.name, front.tensor)
    for output in graph.output:
        if output.name == given.name:
            raise RefusedError("folding.failed", "The model puts out its own input.")
    old = list(graph.node)
    del graph.node[:]
    graph.node.extend([*front.nodes, *old])
    graph.initializer.extend(front.weights)
    graph.input.remove(given)
    graph.input.append(_frame_input(given, spec.input))
    return bytes(model.SerializeToString(deterministic=True))


def _front(graph: onnx.GraphProto, name: str, spec: ModelSpec) -> _Front:
    """Return the nodes before the model; what can go into the first convolution went there."""
    image, channels = spec.input, spec.channels_count
    assert isinstance(image, ImageInput), "only pictures are folded"
    front = _Front(FRAME)
    is_first = image.layout is Layout.CHANNELS_FIRST
    if image.colour is not Colour.GRAY and is_first:
        front.add("Transpose", "order", perm=TO_CHANNELS_FIRST)  # Of bytes: a quarter of the work
    front.add("Cast", "cast", to=TensorProto.FLOAT)
    if image.colour is Colour.GRAY:
        front.add("MatMul", "gray", GRAY_WEIGHTS_BGR[:, None])  # (n, H, W, 1)
        front.add("Round", "round")
        if is_first:
            sizes = np.array([-1, 1, image.height, image.width], np.int64)
            front.add("Reshape", "order", sizes)
    # Per channel, in the order in which the model sees them
    mean: Floats = np.broadcast_to(np.asarray(image.mean, np.float32), channels).copy()
    scale: Floats = np.broadcast_to(np.asarray(image.scale, np.float32), channels).copy()
    is_turned = image.colour is Colour.RGB
    convolution = _only_convolution(graph, name, channels) if is_first else None
    if convolution is not None:
        is_mean_left = _into_weights(graph, convolution, mean, scale, is_turned=is_turned)
        mean = mean[::-1] if is_turned else mean
        scale, is_turned = np.ones_like(scale), False
        mean = mean if is_mean_left else np.zeros_like(mean)
    axis = 1 if is_first else AXES - 1
    shape = [1, -1, 1, 1] if is_first else [1, 1, 1, -1]
    if is_turned:
        front.add("Gather", "turn", np.array([2, 1, 0], np.int64), axis=axis)
    if mean.any():
        front.add("Sub", "mean", _least(mean, shape))
    if (scale != 1.0).any():
        front.add("Mul", "scale", _least(1.0 / scale, shape))
    return front


def _least(values: Floats, shape: list[int]) -> Floats:
    """Return one number where all are alike, else one for each channel."""
    alike = values[:1] if (values == values[0]).all() else values
    return np.ascontiguousarray(alike.reshape(shape if alike.size > 1 else ()), np.float32)


def _only_convolution(graph: onnx.GraphProto, name: str, channels: int) -> onnx.NodeProto | None:
    """Return the convolution that alone takes the input, if its weights can be rewritten."""
    takers = [node for node in graph.node if name in node.input]
    if len(takers) != 1 or _uses(graph, name) > 1 or takers[0].op_type != "Conv":
        return None
    node = takers[0]
    if node.domain not in ("", "ai.onnx") or node.input[0] != name:
        return None
    weights = {tensor.name: tensor for tensor in graph.initializer}
    parts = [part for part in node.input[1:] if part]
    if any(part not in weights or weights[part].data_type != TensorProto.FLOAT for part in parts):
        return None
    shape = tuple(weights[node.input[1]].dims)
    return node if len(shape) == AXES and shape[1] == channels else None


def _into_weights(
    graph: onnx.GraphProto, node: onnx.NodeProto, mean: Floats, scale: Floats, *, is_turned: bool
) -> bool:
    """Rewrite a convolution's weights for raw pixels; return whether the mean is still to go."""
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    weights = numpy_helper.to_array(tensors[node.input[1]])  # (O, C, h, w)
    divided = weights / scale[None, :, None, None]
    is_mean_left = bool(mean.any()) and _is_padded(node)
    if mean.any() and not is_mean_left:
        has_bias = len(node.input) > 2 and bool(node.input[2])
        shift = np.einsum("ochw,c->o", divided.astype(np.float64), mean.astype(np.float64))
        bias = numpy_helper.to_array(tensors[node.input[2]]) if has_bias else np.zeros_like(shift)
        name = PREFIX + "bias"
        moved = (bias - shift).astype(np.float32)
        graph.initializer.append(numpy_helper.from_array(moved, name))
        del node.input[2:]
        node.input.append(name)
    turned = np.ascontiguousarray(divided[:, ::-1] if is_turned else divided, np.float32)
    graph.initializer.append(numpy_helper.from_array(turned, PREFIX + "weights"))
    node.input[1] = PREFIX + "weights"
    _drop_unused(graph)
    return is_mean_left


def _is_padded(node: onnx.NodeProto) -> bool:
    for attribute in node.attribute:
        if attribute.name == "pads" and any(attribute.ints):
            return True
        if attribute.name == "auto_pad" and attribute.s not in (b"", b"NOTSET", b"VALID"):
            return True
    return False


def _rename(graph: onnx.GraphProto, name: str, new: str) -> None:
    """Have nodes take `new` in place of a tensor, those in graphs within the graph too."""
    for node in graph.node:
        for index, taken in enumerate(node.input):
            if taken == name:
                node.input[index] = new
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                _rename(inner, name, new)


def _uses(graph: onnx.GraphProto, name: str) -> int:
    """Return how often nodes take a tensor, those in graphs within the graph too."""
    count = 0
    for node in graph.node:
        count += sum(taken == name for taken in node.input)
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                count += _uses(inner, name)
    return count


def _drop_unused(graph: onnx.GraphProto) -> None:
    """Remove initializers that nothing takes any more."""
    outputs = {output.name for output in graph.output}
    kept = [
        tensor
        for tensor in graph.initializer
        if tensor.name in outputs or _uses(graph, tensor.name)
    ]
    del graph.initializer[:]
    graph.initializer.extend(kept)


def _frame_input(given: onnx.ValueInfoProto, image: ImageInput) -> onnx.ValueInfoProto:
    """Return the new input, (n, H, W, 3); n is as it was: 1, or open."""
    batch = given.type.tensor_type.shape.dim[0]
    first = batch.dim_value if batch.HasField("dim_value") else (batch.dim_param or "n")
    return helper.make_tensor_value_info(
        FRAME, TensorProto.UINT8, [first, image.height, image.width, 3]
    )


def take_bytes(data: bytes) -> bytes:
    """Return a quantized form of a folded model whose first convolution reads bytes; rule 4.

    A form in which nothing of the kind stands comes back as it is.
    """
    model = onnx.load_from_string(data)
    graph = model.graph
    cast = next((node for node in graph.node if node.name == PREFIX + "cast"), None)
    if cast is None or _uses(graph, cast.output[0]) != 1:
        return data
    tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    last, zero = cast, 0.0
    taker = _taker(graph, cast.output[0])
    if taker is not None and taker.name == PREFIX + "mean":
        offset = tensors.get(taker.input[1])
        if offset is None or offset.size != 1 or _uses(graph, taker.output[0]) != 1:
            return data
        last, zero = taker, float(offset.reshape(-1)[0])
    if zero != round(zero) or not 0 <= zero <= BYTE_MAX:
        return data
    quantize = _taker(graph, last.output[0])
    if quantize is None or quantize.op_type != "QuantizeLinear":
        return data
    point = tensors.get(quantize.input[2]) if len(quantize.input) > 2 else None
    takers = [node for node in graph.node if quantize.output[0] in node.input]
    if point is None or point.dtype != np.uint8 or point.size != 1:
        return data
    if any(node.op_type != "DequantizeLinear" for node in takers):
        return data
    for name, value in (("one", np.float32(1.0)), ("zero", np.uint8(zero))):
        graph.initializer.append(numpy_helper.from_array(np.array(value), PREFIX + name))
    for node in takers:
        del node.input[:]
        node.input.extend([cast.input[0], PREFIX + "one", PREFIX + "zero"])
    for node in {id(one): one for one in (cast, last, quantize)}.values():
        graph.node.remove(node)
    _drop_unused(graph)
    return bytes(model.SerializeToString(deterministic=True))


def _taker(graph: onnx.GraphProto, name: str) -> onnx.NodeProto | None:
    """Return the one node that takes a tensor."""
    takers = [node for node in graph.node if name in node.input]
    return takers[0] if len(takers) == 1 else None
