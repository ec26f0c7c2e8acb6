"""Puts weights into their network, with errors that name the parameter; and takes them out."""

import numpy as np
import torch
from torch import nn

from shared.errors import ContractError
from shared.model.network import NetworkSpec
from shared.model.spec import ModelSpec
from shared.model.torch_networks import build_network
from shared.model.weights import Array, Weights


def load_network(
    network: NetworkSpec, spec: ModelSpec, weights: Weights | None, *, seed: int
) -> nn.Module:
    """Return a network with these weights, or fresh ones, in evaluation mode.

    Raises ContractError `network.unfit` or `weights.misfit`.
    """
    module = build_network(network, spec, seed=seed)
    if weights is not None:
        _check(weights, state_of(module))
        module.load_state_dict({n: torch.from_numpy(np.array(a)) for n, a in weights.items()})
    return module.eval()


def state_of(module: nn.Module) -> dict[str, Array]:
    """Return a network's arrays by name, in the order of its state."""
    return {name: tensor.detach().numpy() for name, tensor in module.state_dict().items()}


def _check(weights: Weights, wanted: Weights) -> None:
    for name, array in wanted.items():
        given = weights.get(name)
        if given is None:
            raise _misfit(f"there is no {name!r}, of shape {array.shape}")
        if given.shape != array.shape:
            raise _misfit(f"{name!r} has shape {given.shape}, the network has {array.shape}")
        if given.dtype != array.dtype:
            raise _misfit(f"{name!r} is {given.dtype}, the network has {array.dtype}")
    unknown = sorted(set(weights) - set(wanted))
    if unknown:
        raise _misfit(f"the network has no {unknown[0][:80]!r}")


def _misfit(text: str) -> ContractError:
    return ContractError(
        "weights.misfit",
        f"The weights do not fit the network: {text}.",
        remedy="Save network.state_dict() of exactly the architecture that network.toml names.",
    )
