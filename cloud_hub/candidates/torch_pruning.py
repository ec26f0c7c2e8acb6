"""Structured pruning: a smaller network of the same kind, from the channels that weigh most.

1. Of each hidden layer the channels or neurons whose weights have the largest L1 norm stay (Li et
   al., Pruning Filters for Efficient ConvNets, ICLR 2017); what read the others loses those inputs.
2. What comes out is a plain network of narrower layers: smaller and faster on any runtime. It is
   tuned afterwards (torch_tuning.py).
3. Only chains of layers are pruned: cnn, conv1d and mlp. Elsewhere channels are read by more than
   the next layer (shortcuts, depthwise filters, attention); such networks are made narrower by
   their spec (fewer channels, MobileNetV2's width) and distilled.
"""

import math
from typing import TypeVar

import torch
from msgspec.structs import replace
from torch import Tensor, nn

from shared.errors import RefusedError
from shared.model.network import (
    ConvolutionNetwork,
    DenseNetwork,
    NetworkSpec,
    WindowNetwork,
)
from shared.model.spec import ModelSpec
from shared.model.torch_networks import build_network

_LAYERS = (nn.Conv1d, nn.Conv2d, nn.Linear)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)
T = TypeVar("T")


def prune(module: nn.Module, network: NetworkSpec, spec: ModelSpec, share: float) -> nn.Module:
    """Return a network without `share` of each hidden layer. Raises `pruning.unsupported`."""
    pruned = build_network(_narrowed(network, share), spec).eval()
    alike = zip(_chain(module), _chain(pruned), strict=True)
    kept_in: Tensor | None = None  # Indices of the inputs that are left, None: all
    for old, new in alike:
        if isinstance(old, _NORMS):
            assert isinstance(new, _NORMS), "the narrower network has the same layers"
            assert kept_in is not None, "a norm follows a layer"
            _copy_norm(old, new, kept_in)
            continue
        assert isinstance(old, _LAYERS), "a chain holds layers and norms"
        assert isinstance(new, _LAYERS), "the narrower network has the same layers"
        weight = old.weight.detach()  # (outputs, inputs, ...)
        if kept_in is not None:
            weight = weight[:, _spread(kept_in, weight.shape[1], old, new)]
        kept_out = _strongest(weight, new.weight.shape[0])
        _fill(new.weight, weight[kept_out])
        if old.bias is not None and new.bias is not None:
            _fill(new.bias, old.bias.detach()[kept_out])
        kept_in = kept_out
    return pruned


def _narrowed(network: NetworkSpec, share: float) -> NetworkSpec:
    def less(width: int) -> int:
        return max(1, math.ceil(width * (1.0 - share)))

    match network.architecture:
        case ConvolutionNetwork() | WindowNetwork() as chain:
            channels = tuple(less(width) for width in chain.channels)
            narrow = replace(chain, channels=channels, hidden=less(chain.hidden))
            return replace(network, architecture=narrow)
        case DenseNetwork() as dense:
            narrow_dense = replace(dense, hidden=tuple(less(width) for width in dense.hidden))
            return replace(network, architecture=narrow_dense)
        case _:
            raise RefusedError(
                "pruning.unsupported",
                "Only networks of kind cnn, conv1d and mlp can be pruned.",
                remedy="Train a narrower network of this kind by distillation from this one.",
            )


def _chain(module: nn.Module) -> list[nn.Module]:
    return [m for m in module.modules() if isinstance(m, (*_LAYERS, *_NORMS))]


def _strongest(weight: Tensor, count: int) -> Tensor:
    norms = weight.flatten(1).abs().sum(1)  # (outputs,)
    return torch.sort(torch.topk(norms, count).indices).values


def _spread(kept: Tensor, inputs: int, old: nn.Module, new: nn.Module) -> Tensor:
    """Return the input columns that `kept` channels feed: each one, or a block after Flatten."""
    assert isinstance(new, _LAYERS)
    block = int(new.weight.shape[1]) // kept.numel()
    if not isinstance(old, nn.Linear) or block == 1:
        return kept
    assert inputs % block == 0, "Flatten gives each channel a block"
    return (kept[:, None] * block + torch.arange(block)).flatten()


def _copy_norm(old: nn.Module, new: nn.Module, kept: Tensor) -> None:
    state = {
        name: tensor[kept] if tensor.dim() else tensor for name, tensor in old.state_dict().items()
    }
    new.load_state_dict(state)


def _fill(target: Tensor, values: Tensor) -> None:
    with torch.no_grad():
        target.copy_(values)
