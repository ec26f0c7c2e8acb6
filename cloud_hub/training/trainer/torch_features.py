"""Features: what a network's head is given, for methods that learn without the head.

What must not live here: losses.

1. The head is the one layer that `shared.model.torch_networks.head_prefix` names. What comes into
   it is taken by a hook, put there once for each network, before anything compiles it.
2. A head over places (a 1x1 convolution) is given maps; its features are their means.
"""

import torch
from torch import Tensor, nn

from shared.model.network import NetworkSpec
from shared.model.spec import ModelSpec
from shared.model.torch_networks import head_prefix


class Features:
    """A network's features and, beside them, its answers."""

    def __init__(self, network: nn.Module, network_spec: NetworkSpec, spec: ModelSpec) -> None:
        """Args: network: on its device, not yet compiled.

        Raises:
            ContractError: `network.headless`, the network has no head.
        """
        self._taken: Tensor | None = None
        self._path = head_prefix(network_spec, spec).rstrip(".")
        self._heads: set[nn.Module] = set()
        self.width = self._measure(network, spec)

    def of(self, network: nn.Module, items: Tensor) -> tuple[Tensor, Tensor]:
        """Return (B, width) float32 features, and a zero that depends on the answers.

        Added to a loss, the zero gives the head's parameters gradients of zeros, so that it makes
        no difference to optimisers and wrappers that a method does not use them.

        Args:
            network: the one this was made for, compiled or not, or another of the same spec.
            items: (B, ...) scaled.
        """
        head = network.get_submodule(self._path)
        if head not in self._heads:
            head.register_forward_pre_hook(self._take)
            self._heads.add(head)
        answers = network(items)
        taken = self._taken
        assert taken is not None, "the head was not run"
        self._taken = None  # Else the batch's graph lives until the next one
        maps = taken.float()
        features = maps.mean(dim=(2, 3)) if maps.dim() == 4 else maps.flatten(1)  # (B, width)
        return features, 0.0 * answers.float().sum()

    def _take(self, _: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self._taken = inputs[0]

    def _measure(self, network: nn.Module, spec: ModelSpec) -> int:
        """Return the features' width, by one item of zeros that leaves no trace in the network."""
        device = next(network.parameters()).device
        modes = [(module, module.training) for module in network.modules()]
        network.eval()
        with torch.no_grad():
            features, _ = self.of(network, torch.zeros(spec.input_shape, device=device))
        for module, was_training in modes:
            module.training = was_training
        return int(features.shape[1])
