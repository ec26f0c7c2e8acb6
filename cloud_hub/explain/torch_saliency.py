"""Saliency: what of an item an answer rests on, by gradients and by hiding parts of it.

1. What is asked of: an answer's logit before softmax; an anomaly's score; a number. Networks that
   find boxes are not asked: their pictures show the boxes.
2. Integrated gradients (Sundararajan, Taly and Yan, ICML 2017): the mean gradient on the straight
   way from the baseline, midpoint rule, times the item's distance from it. They sum up to the
   output minus the baseline's output (completeness). The baseline is 0 after scaling: the mean item
   where the spec scales by a mean.
3. Occlusion (Zeiler and Fergus, ECCV 2014): how much lower the output is without a patch of the
   picture, a span of a channel, a span of a text (which has no gradients). Hidden is: the baseline.
4. Every attribution has the item's own axes: images (H, W), windows (T, C), texts (L,).
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cloud_hub.explain.torch_answers import as_tuple, batch_items, judged
from shared.model.spec import Decoder, ImageInput, Layout, ModelSpec, TextInput, WindowInput

STEPS = 48  # Of the way; the sum then misses rule 2 by less than 2 % of all attributions
PATCHES = 8  # A side of a picture
SPANS = 16  # Of a window
TEXT_SPANS = 48
CHANNELS_ALONE_MAX = 16  # More channels are hidden in neighbouring groups

Floats = NDArray[np.float32]
Ask = Callable[[Tensor], Tensor]  # Inputs (B, ...) -> (B,)


@dataclass(frozen=True, slots=True)
class Saliency:
    """What one answer rests on; see rule 4. Positive speaks for the answer."""

    gradient: Floats | None  # None for texts
    occlusion: Floats


def can_ask(spec: ModelSpec) -> bool:
    """Whether a model's answers can be asked for; see rule 1."""
    return spec.output.decoder in (
        Decoder.LOGITS,
        Decoder.PROBABILITIES,
        Decoder.SCORE,
        Decoder.RECONSTRUCTION,
    )


def saliency(
    network: nn.Module, spec: ModelSpec, item: Tensor, *, answer: int, device: torch.device
) -> Saliency:
    """Return what an answer rests on.

    Args:
        network: the model's.
        spec: the model's.
        item: (1, ...), as torch_answers.to_inputs makes it.
        answer: the class asked for; 0 where there is one number.
        device: where the network is.
    """
    ask = asked(network, spec, answer)
    item = item.to(device)
    # cuDNN's recurrent networks have no gradient in evaluation mode; the plain ones do.
    with judged(network), torch.backends.cudnn.flags(enabled=False):
        hidden = occlusion(ask, item, spec)
        if isinstance(spec.input, TextInput):
            return Saliency(None, hidden)
        gradient = integrated_gradients(ask, item, batch=batch_items(spec))
    return Saliency(_item_axes(gradient[0].cpu().numpy(), spec), hidden)


def asked(network: nn.Module, spec: ModelSpec, answer: int) -> Ask:
    """Return what is asked of the network; see rule 1."""

    def ask(inputs: Tensor) -> Tensor:
        outputs = as_tuple(network(inputs))[0].float()  # (B, ...)
        if spec.output.decoder is Decoder.RECONSTRUCTION:
            return (outputs - inputs).square().flatten(1).mean(dim=1)
        return outputs.flatten(1)[:, answer]

    return ask


def integrated_gradients(ask: Ask, item: Tensor, *, steps: int = STEPS, batch: int = 64) -> Tensor:
    """Return (1, ...) attributions of one item; see rule 2. The baseline is 0."""
    shares = (torch.arange(steps, device=item.device, dtype=item.dtype) + 0.5) / steps
    total = torch.zeros_like(item)
    for piece in torch.split(shares, max(1, batch)):
        way = item * piece.view(-1, *(1,) * (item.dim() - 1))  # (piece, ...)
        way.requires_grad_()
        with torch.enable_grad():
            (gradient,) = torch.autograd.grad(ask(way).sum(), way)
        total += gradient.sum(dim=0, keepdim=True)
    return total / steps * item


def occlusion(ask: Ask, item: Tensor, spec: ModelSpec) -> Floats:
    """Return how much lower the output is without each part; see rules 3 and 4.

    Parts may overlap: what lies in several has the mean of theirs.
    """
    masks = _masks(spec)  # (parts, ...) True: hidden
    shape = spec.input_shape[1:]
    drops: list[float] = []
    with torch.no_grad():
        whole = float(ask(item)[0])
        for start in range(0, len(masks), batch_items(spec)):
            hidden = torch.from_numpy(masks[start : start + batch_items(spec)]).to(item.device)
            inputs = torch.where(hidden, torch.zeros_like(item), item)  # (B, ...)
            drops += [whole - value for value in ask(inputs).tolist()]
    # Axes that a mask does not tell apart (colours) are spread over the item's shape.
    spread = np.broadcast_to(masks, (len(masks), *shape)).astype(np.float32)
    weights = np.tensordot(np.asarray(drops, np.float32), spread, axes=1)
    means = weights / np.maximum(spread.sum(axis=0), 1.0)
    match spec.input:
        case ImageInput(layout=Layout.CHANNELS_FIRST):
            return np.ascontiguousarray(means[0])
        case ImageInput():
            return np.ascontiguousarray(means[..., 0])
        case WindowInput(layout=Layout.CHANNELS_FIRST):
            return np.ascontiguousarray(means.T)
        case WindowInput() | TextInput():
            return np.ascontiguousarray(means)


def _masks(spec: ModelSpec) -> NDArray[np.bool_]:
    """Return which numbers each part hides, (parts, ...) in the order of the input's axes."""
    match spec.input:
        case ImageInput() as image:
            rows, columns = _spans(image.height, PATCHES), _spans(image.width, PATCHES)
            patches = (rows[:, None, :, None] & columns[None, :, None, :]).reshape(
                -1, image.height, image.width
            )
            is_first = image.layout is Layout.CHANNELS_FIRST
            return patches[:, None] if is_first else patches[..., None]
        case WindowInput() as window:
            times = _spans(window.samples, SPANS)
            channels = _spans(window.channels, CHANNELS_ALONE_MAX, is_overlapping=False)
            parts = (channels[:, None, :, None] & times[None, :, None, :]).reshape(
                -1, window.channels, window.samples
            )
            is_first = window.layout is Layout.CHANNELS_FIRST
            return parts if is_first else parts.transpose(0, 2, 1)
        case TextInput(length=length):
            return _spans(length, TEXT_SPANS)


def _spans(length: int, count: int, *, is_overlapping: bool = True) -> NDArray[np.bool_]:
    """Return about `count` spans of an axis, (spans, length); overlapping ones by half."""
    span = max(1, -(-length // count))
    if is_overlapping and span > 1:
        span = min(length, span + span % 2)
        starts = np.arange(0, max(1, length - span // 2), span // 2)
    else:
        starts = np.arange(0, length, span)
    places = np.arange(length)
    found: NDArray[np.bool_] = (places >= starts[:, None]) & (places < starts[:, None] + span)
    return found


def _item_axes(attribution: Floats, spec: ModelSpec) -> Floats:
    """Return one item's attribution by rule 4, of one in the order of the input's axes."""
    match spec.input:
        case ImageInput(layout=layout):
            # What the colours of a pixel say together; signs may cancel, as in the sum of rule 2.
            of_pixels: Floats = attribution.sum(axis=0 if layout is Layout.CHANNELS_FIRST else 2)
            return of_pixels
        case WindowInput(layout=Layout.CHANNELS_FIRST):
            return np.ascontiguousarray(attribution.T)
        case _:
            return attribution
