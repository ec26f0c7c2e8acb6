"""Runs a network over items of a dataset and brings its outputs back as numbers. Torch only here.

1. Inputs are made by shared/model/preprocess.py, a batch at a time: items may be memory-mapped.
2. A network is judged in evaluation mode and fp32, and left in the mode it came in.
3. An output that is not a finite number is no answer: the whole is refused.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from shared.errors import RefusedError
from shared.model.postprocess import Boxes, detected_boxes
from shared.model.preprocess import Placement, to_tensor
from shared.model.spec import Decoder, ImageInput, ModelSpec, TextInput

BATCH_ITEMS = 256
BATCH_NUMBERS_MAX = 1 << 24  # Of one batch's inputs: large pictures go in smaller batches
CONFIDENCE_LOW = 0.02  # Below it a box changes no curve that is drawn, and there are thousands

Array = NDArray[np.generic]
Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Outputs:
    """What a network put out, read as the spec's decoder says. One row an item."""

    logits: Floats | None = None  # (n, classes)
    probabilities: Floats | None = None  # (n, classes)
    scores: Floats | None = None  # (n,) an anomaly's, or a number
    boxes: tuple[Boxes, ...] | None = None  # In shares of the model's input


def to_inputs(items: Array, spec: ModelSpec) -> Array:
    """Return (B, ...) items as the network takes them: float32, texts int64."""
    if isinstance(spec.input, TextInput):
        return items.astype(np.int64, copy=False)  # (B, L): tokens already
    return np.concatenate([to_tensor(item, spec) for item in items])


@contextmanager
def judged(network: nn.Module) -> Iterator[None]:
    """Keep the network in evaluation mode; see rule 2."""
    was_training = network.training
    network.eval()
    try:
        yield
    finally:
        network.train(was_training)


def run_items(
    network: nn.Module,
    spec: ModelSpec,
    items: Array,
    chosen: NDArray[np.int64],
    device: torch.device,
) -> Outputs:
    """Return the network's answers to the chosen items, in their order.

    Raises RefusedError `explain.not_finite`, or `inference.output` for outputs of another shape.
    """
    pieces: list[tuple[Floats, ...]] = []
    scores: list[Floats] = []
    boxes: list[Boxes] = []
    with judged(network), torch.no_grad():
        for start in range(0, chosen.size, batch_items(spec)):
            inputs = to_inputs(items[chosen[start : start + batch_items(spec)]], spec)
            outputs = _forward(network, inputs, device)
            match spec.output.decoder:
                case Decoder.LOGITS | Decoder.PROBABILITIES:
                    pieces.append((outputs[0].reshape(len(inputs), -1),))
                case Decoder.SCORE:
                    scores.append(outputs[0].reshape(-1))
                case Decoder.RECONSTRUCTION:
                    errors = np.square(outputs[0] - inputs.astype(np.float32, copy=False)).reshape(
                        len(inputs), -1
                    )
                    scores.append(errors.mean(axis=1).astype(np.float32))
                case _:
                    boxes.extend(_boxes(outputs, spec, len(inputs)))
    match spec.output.decoder:
        case Decoder.LOGITS | Decoder.PROBABILITIES:
            return _class_outputs(pieces, spec)
        case Decoder.SCORE | Decoder.RECONSTRUCTION:
            return Outputs(scores=np.concatenate([np.zeros(0, np.float32), *scores]))
        case _:
            return Outputs(boxes=tuple(boxes))


def batch_items(spec: ModelSpec) -> int:
    """Return how many items go through a network at once."""
    numbers = int(np.prod(spec.input_shape))
    return max(1, min(BATCH_ITEMS, BATCH_NUMBERS_MAX // numbers))


def as_tuple(outputs: Tensor | tuple[Tensor, ...] | list[Tensor]) -> tuple[Tensor, ...]:
    """Return a network's outputs as a tuple, also where it has only one."""
    return (outputs,) if isinstance(outputs, Tensor) else tuple(outputs)


def _forward(network: nn.Module, inputs: Array, device: torch.device) -> tuple[Floats, ...]:
    outputs = as_tuple(network(torch.from_numpy(inputs).to(device)))
    arrays = tuple(output.float().cpu().numpy() for output in outputs)
    if not all(np.isfinite(array).all() for array in arrays):
        raise RefusedError(
            "explain.not_finite",
            "The model puts out NaN or infinity: there is nothing to judge.",
            remedy="Train it again with a lower learning rate or recipe.gradient_norm_max.",
        )
    return arrays


def _class_outputs(pieces: list[tuple[Floats, ...]], spec: ModelSpec) -> Outputs:
    empty = np.zeros((0, len(spec.output.classes)), np.float32)
    values = np.concatenate([piece[0] for piece in pieces] or [empty])  # (n, classes)
    if spec.output.decoder is Decoder.PROBABILITIES:
        logs = np.log(np.maximum(values, np.float32(1e-30)))
        return Outputs(logits=logs, probabilities=values)
    shifted = np.exp(values - values.max(axis=1, keepdims=True, initial=-np.inf))
    return Outputs(logits=values, probabilities=shifted / shifted.sum(axis=1, keepdims=True))


def _boxes(outputs: tuple[Floats, ...], spec: ModelSpec, count: int) -> Iterator[Boxes]:
    assert isinstance(spec.input, ImageInput), "boxes come from images"
    width, height = spec.input.width, spec.input.height
    whole = Placement(0, 0, width, height, width, height)  # Shares of the input stay what they are
    for index in range(count):
        one = tuple(output[index : index + 1] for output in outputs)
        yield detected_boxes(one, spec, placement=whole, confidence_min=CONFIDENCE_LOW)
