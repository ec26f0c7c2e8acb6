"""Text models of several inputs, made to take one: the graph works out the others from the ids.

1. Encoders are exported with `input_ids`, `attention_mask`, and perhaps `token_type_ids`. A device
   gives ids only: the mask is where an id is not the padding, all tokens are of one sentence (0).
2. The ids' shape becomes (1, length); a model that was exported for any length is fixed to it.
3. A model of one input stays as it is.
"""

from pathlib import Path

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import TensorProto, helper, numpy_helper

from shared.errors import RefusedError
from shared.model.spec import ModelSpec, TextInput, Tokenizer
from shared.model.tokenizers_text import padding_id

IDS = "input_ids"
MASK = "attention_mask"
TYPES = "token_type_ids"
_PREFIX = "isthmus_text_"


def take_ids_only(data: bytes, spec: ModelSpec, tokenizer: Path) -> bytes:
    """Return a model file that takes ids only; unchanged where the spec names no tokenizer.json.

    Raises RefusedError `text.inputs`, ContractError `tokenizer.missing`, `.invalid` or `.padding`.
    """
    text = spec.input
    if not isinstance(text, TextInput) or text.tokenizer is Tokenizer.BYTES:
        return data
    padding = padding_id(tokenizer)
    try:
        model = onnx.load_from_string(data)
    except DecodeError:  # Said by who inspects it
        return data
    made = fold_text_inputs(model, length=text.length, padding=padding)
    return bytes(made.SerializeToString())


def fold_text_inputs(model: onnx.ModelProto, *, length: int, padding: int) -> onnx.ModelProto:
    """Return a model that takes ids (1, length) int64 only; see the rules above.

    Args:
        model: as exported; it is not changed.
        length: of the spec's input.
        padding: the tokenizer's padding id.

    Raises RefusedError `text.inputs` where there is an input that cannot be worked out.
    """
    made = onnx.ModelProto()
    made.CopyFrom(model)
    graph = made.graph
    constants = {one.name for one in graph.initializer}
    inputs = [one for one in graph.input if one.name not in constants]
    names = [one.name for one in inputs]
    if len(inputs) == 1:
        _fix_shape(inputs[0], length)
        return made
    unknown = sorted(set(names) - {IDS, MASK, TYPES})
    if IDS not in names or unknown:
        raise RefusedError(
            "text.inputs",
            f"The model's inputs are {', '.join(names)[:200]}; only {IDS}, {MASK} and {TYPES} are "
            "understood.",
            remedy="Export it with those inputs, or with one input: the ids.",
        )
    kinds = {one.name: one.type.tensor_type.elem_type for one in inputs}
    nodes = _worked_out(kinds)
    graph.initializer.append(
        numpy_helper.from_array(np.array(padding, np.int64), f"{_PREFIX}padding")
    )
    existing = list(graph.node)
    del graph.node[:]
    graph.node.extend([*nodes, *existing])
    ids = next(one for one in inputs if one.name == IDS)
    kept = [one for one in graph.input if one.name in constants or one.name == IDS]
    _fix_shape(ids, length)
    held = [onnx.ValueInfoProto.FromString(one.SerializeToString()) for one in kept]
    del graph.input[:]
    graph.input.extend(held)
    return made


def _worked_out(kinds: dict[str, int]) -> list[onnx.NodeProto]:
    """Return the nodes that give the other inputs, by the names they had."""
    nodes = [helper.make_node("Cast", [IDS], [f"{_PREFIX}ids"], to=TensorProto.INT64)]
    if MASK in kinds:
        nodes += [
            helper.make_node("Equal", [f"{_PREFIX}ids", f"{_PREFIX}padding"], [f"{_PREFIX}is_pad"]),
            helper.make_node("Not", [f"{_PREFIX}is_pad"], [f"{_PREFIX}is_text"]),
            helper.make_node("Cast", [f"{_PREFIX}is_text"], [MASK], to=kinds[MASK]),
        ]
    if TYPES in kinds:
        nodes += [
            helper.make_node("Sub", [f"{_PREFIX}ids", f"{_PREFIX}ids"], [f"{_PREFIX}zeros"]),
            helper.make_node("Cast", [f"{_PREFIX}zeros"], [TYPES], to=kinds[TYPES]),
        ]
    return nodes


def _fix_shape(ids: onnx.ValueInfoProto, length: int) -> None:
    shape = ids.type.tensor_type.shape
    if len(shape.dim) != 2:
        raise RefusedError("text.inputs", f"The ids have {len(shape.dim)} axes, not 2.")
    for axis, wanted in zip(shape.dim, (1, length), strict=True):
        if axis.HasField("dim_value") and axis.dim_value != wanted:
            raise RefusedError(
                "text.inputs",
                f"The model takes ids of {axis.dim_value} along an axis, the spec says {wanted}.",
                remedy="Set input.length to the model's, or export it for any length.",
            )
        axis.Clear()
        axis.dim_value = wanted
