"""Reads an uploaded ONNX file: facts about it, and the form of it that may be published.

1. Texts are removed before hashing: doc strings, metadata_props, producer names, the graph's name
   and what a trainer left carry paths of the machine that exported the model.
2. Initializers are removed from the graph's inputs: listed there they may be overridden at run
   time, so the runtime cannot fold them (2.9 x slower on one real detector).
3. An operator set older than the limit is raised by ONNX's own converter.
4. A tensor whose data lies in another file is counted, never opened.
5. Nodes are put in order: converters to float16 leave them out of it, which onnxruntime takes and
   ONNX's checker does not. A size of -1 on the batch axis, as some exporters write, is an open one.

Runs in the examining process only (onnx_examination.py): the file may be anything.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter

import onnx
from google.protobuf.message import DecodeError, Message
from onnx import TensorProto, checker, helper, version_converter

from cloud_hub.candidates.examination import ModelFacts, TensorFacts

IR_VERSION_MIN = 8  # The first that goes with every operator set from 13 to 15
GRAPH_NAME = "model"
BATCH_NAME = "batch"
DEPTH_MAX = 64  # Of graphs within graphs
_TEXT_FIELDS = frozenset({"doc_string", "metadata_props"})
_STATIC_INT8 = frozenset({"QuantizeLinear", "DequantizeLinear", "QLinearConv", "QLinearMatMul"})
_DYNAMIC_INT8 = frozenset(
    {"DynamicQuantizeLinear", "MatMulInteger", "ConvInteger", "DynamicQuantizeMatMul"}
)


@dataclass(frozen=True, slots=True)
class Inspection:
    """What the file says, and its publishable bytes (empty where it cannot be read)."""

    facts: ModelFacts
    model_bytes: bytes


def inspect_model(data: bytes, *, opset_min: int) -> Inspection:
    """Return facts about an ONNX file and its publishable form; never raises for a bad file."""
    model = onnx.ModelProto()
    try:
        model.ParseFromString(data)
    except (DecodeError, ValueError, RecursionError) as error:
        return Inspection(ModelFacts(error=str(error) or "it cannot be parsed"), b"")
    if not model.HasField("graph") or not model.graph.node:
        return Inspection(ModelFacts(error="it holds no graph"), b"")
    external_count = sum(_is_external(tensor) for tensor in _tensors(model))
    uploaded = _opset(model)
    if external_count:  # Nothing below may be tempted to open the other file.
        return Inspection(ModelFacts(external_count=external_count, opset=uploaded), b"")
    model, opset_error = _raise_opset(model, opset_min)
    removed = _prepare(model)
    facts = ModelFacts(
        checker_error=_checker_error(model),
        opset=_opset(model),
        opset_uploaded=uploaded,
        opset_error=opset_error,
        inputs=tuple(_tensor_facts(value) for value in model.graph.input),
        outputs=tuple(_tensor_facts(value) for value in model.graph.output),
        domains=_domains(model),
        precision=detect_precision(model),
        initializer_inputs_removed=removed,
    )
    return Inspection(facts, model.SerializeToString(deterministic=True))


def detect_precision(model: onnx.ModelProto) -> str:
    """Return "int8" (static), "int8-dynamic" or "fp32": what the operators say."""
    kinds = {node.op_type for node in _nodes(model)}
    if kinds & (_STATIC_INT8 - {"DequantizeLinear"}):
        return "int8"
    if kinds & _DYNAMIC_INT8:
        return "int8-dynamic"
    return "int8" if kinds & _STATIC_INT8 else "fp32"


def strip_texts(message: Message) -> None:
    """Remove every doc string and metadata property of `message` and all it holds."""
    for field, value in message.ListFields():
        if field.name in _TEXT_FIELDS:
            message.ClearField(field.name)
        elif field.message_type is not None:
            for child in value if field.is_repeated else (value,):
                strip_texts(child)


def _prepare(model: onnx.ModelProto) -> int:
    """Bring a model into its publishable form; return how many inputs were initializers."""
    strip_texts(model)
    for name in ("producer_name", "producer_version", "domain", "model_version", "training_info"):
        model.ClearField(name)
    model.graph.name = GRAPH_NAME
    initializers = {tensor.name for tensor in model.graph.initializer}
    kept = [value for value in model.graph.input if value.name not in initializers]
    removed = len(model.graph.input) - len(kept)
    del model.graph.input[:]
    model.graph.input.extend(kept)
    for value in (*model.graph.input, *model.graph.output):
        _open_batch(value)
    _order(model.graph)
    model.ir_version = max(model.ir_version, IR_VERSION_MIN)
    return removed


def _open_batch(value: onnx.ValueInfoProto) -> None:
    sizes = value.type.tensor_type.shape.dim
    if sizes and sizes[0].HasField("dim_value") and sizes[0].dim_value < 0:
        sizes[0].dim_param = BATCH_NAME  # They are one field: this clears the other


def _order(graph: onnx.GraphProto) -> None:
    """Put each node behind those whose outputs it takes; nodes that are in order stay as they are.

    A circle is left for the checker to name.
    """
    makers = {output: i for i, node in enumerate(graph.node) for output in node.output if output}
    waits_for = [
        {makers[name] for name in _taken(node) if name in makers} - {index}
        for index, node in enumerate(graph.node)
    ]
    if all(max(needed, default=-1) < index for index, needed in enumerate(waits_for)):
        return
    try:
        order = list(TopologicalSorter(dict(enumerate(waits_for))).static_order())
    except CycleError:
        return
    nodes = [graph.node[index] for index in order]
    del graph.node[:]
    graph.node.extend(nodes)


def _taken(node: onnx.NodeProto) -> Iterator[str]:
    """Yield names that a node takes, those that graphs within it take too."""
    yield from node.input
    for inner in _nodes_within(node):
        yield from inner.input


def _raise_opset(model: onnx.ModelProto, opset_min: int) -> tuple[onnx.ModelProto, str]:
    if not 0 < _opset(model) < opset_min:
        return model, ""
    try:
        return version_converter.convert_version(model, opset_min), ""
    # The converter is C++ and reports every failure as one of these.
    except (RuntimeError, ValueError, TypeError, AttributeError, onnx.checker.ValidationError) as e:
        return model, str(e) or type(e).__name__


def _checker_error(model: onnx.ModelProto) -> str:
    try:
        checker.check_model(model, full_check=True)
    except (
        checker.ValidationError,
        onnx.shape_inference.InferenceError,
        ValueError,
        RuntimeError,
    ) as error:
        return str(error) or type(error).__name__
    return ""


def _opset(model: onnx.ModelProto) -> int:
    versions = [entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")]
    return max(versions, default=0)


def _domains(model: onnx.ModelProto) -> tuple[str, ...]:
    own = {(function.domain, function.name) for function in model.functions}
    used = {n.domain for n in _nodes(model) if (n.domain, n.op_type) not in own}
    return tuple(sorted(used))


def _nodes(model: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    """Yield every node: of the graph, of graphs within it, of functions."""
    for node in (*model.graph.node, *(n for f in model.functions for n in f.node)):
        yield node
        yield from _nodes_within(node)


def _nodes_within(outer: onnx.NodeProto) -> Iterator[onnx.NodeProto]:
    """Yield every node of graphs within a node, however deep."""
    pending = [(outer, 0)]
    while pending:
        node, depth = pending.pop()
        if node is not outer:
            yield node
        if depth < DEPTH_MAX:
            for attribute in node.attribute:
                for graph in (attribute.g, *attribute.graphs):
                    pending += [(child, depth + 1) for child in graph.node]


def _tensors(message: Message) -> Iterator[onnx.TensorProto]:
    """Yield every tensor that `message` holds, wherever it hides."""
    for field, value in message.ListFields():
        if field.message_type is None:
            continue
        for child in value if field.is_repeated else (value,):
            if isinstance(child, onnx.TensorProto):
                yield child
            else:
                yield from _tensors(child)


def _is_external(tensor: onnx.TensorProto) -> bool:
    return tensor.data_location == TensorProto.EXTERNAL or bool(tensor.external_data)


def _tensor_facts(value: onnx.ValueInfoProto) -> TensorFacts:
    if not value.type.HasField("tensor_type"):
        return TensorFacts(value.name, "", ())
    tensor = value.type.tensor_type
    try:
        dtype = helper.tensor_dtype_to_np_dtype(tensor.elem_type).name
    except KeyError:
        dtype = ""
    sizes = (d.dim_value if d.HasField("dim_value") else None for d in tensor.shape.dim)
    return TensorFacts(value.name, dtype, tuple(sizes))
