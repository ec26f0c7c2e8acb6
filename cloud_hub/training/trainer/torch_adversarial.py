"""Adversarial training: learning on items changed as little as misleads the network most.

What must not live here: attacks on a finished model for a report.

1. FGSM goes once by epsilon along the sign of the gradient (Goodfellow et al. 2015). PGD begins
   anywhere within epsilon and goes `steps` times by `step`, held within it (Madry et al. 2018).
2. For images epsilon and step are pixel levels, divided by the spec's scale channel by channel, and
   no attacked pixel leaves 0..255. For windows they are in the scaled input's unit, without bounds.
3. While attacked, normalisation and dropout layers are in evaluation mode: attacks leave no trace
   in running statistics and all aim at the network that is deployed. The other layers keep their
   mode (a recurrent layer on a GPU has a gradient only in training mode).
4. The gradient is of the items alone: no parameter's gradient changes. The network attacked is the
   bare one, whatever `loss` is given it wrapped in.
5. The first `share` of the batch is attacked, the rest learned as it is.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from cloud_hub.training.trainer.spec import AdversarialMethod
from cloud_hub.training.trainer.torch_objective import Targets
from cloud_hub.training.trainer.torch_supervised import class_loss
from shared.model.spec import ImageInput, ModelSpec

PIXEL_MAX = 255.0


class Attack:
    """Changes items against a network; see rules 1 to 4."""

    def __init__(self, method: AdversarialMethod, spec: ModelSpec, *, device: torch.device) -> None:
        """Args: spec: tells what a pixel level is in the input's unit."""
        self._method = method
        self._is_single = method.attack == "fgsm"
        self._unit: Tensor | float = 1.0
        self._bounds: tuple[Tensor, Tensor] | None = None
        if isinstance(spec.input, ImageInput):
            mean = _by_channel(spec.input.mean, spec.channels_count, device)  # (C, 1, 1)
            scale = _by_channel(spec.input.scale, spec.channels_count, device)
            ends = torch.stack(((0.0 - mean) / scale, (PIXEL_MAX - mean) / scale))
            self._bounds = (ends.amin(dim=0), ends.amax(dim=0))
            self._unit = 1.0 / scale.abs()

    def on(self, network: nn.Module, items: Tensor, labels: Tensor) -> Tensor:
        """Return the attacked items; unlabelled ones are returned as random neighbours at most.

        Args:
            network: the bare one.
            items: (B, ...) scaled.
            labels: (B,) int64, the classes to be led away from.
        """
        reach = self._method.epsilon * self._unit
        step = reach if self._is_single else self._method.step * self._unit
        start = torch.zeros_like(items) if self._is_single else 2.0 * torch.rand_like(items) - 1.0
        attacked = self._held(items + start * reach, items)
        with _as_deployed(network), torch.enable_grad():
            for _ in range(1 if self._is_single else self._method.steps):
                point = attacked.detach().requires_grad_()
                loss = class_loss(network(point), labels)
                (slope,) = torch.autograd.grad(loss, point)
                moved = point.detach() + step * slope.sign()
                moved = torch.minimum(torch.maximum(moved, items - reach), items + reach)
                attacked = self._held(moved, items)
        return attacked

    def _held(self, attacked: Tensor, items: Tensor) -> Tensor:
        """Return the items within the pixels' range, or where augmentation had brought them."""
        if self._bounds is None:
            return attacked
        low, high = self._bounds
        low, high = torch.minimum(low, items), torch.maximum(high, items)
        return torch.minimum(torch.maximum(attacked, low), high)


class Adversarial:
    """See the rules above."""

    views: int = 1
    takes_unlabelled: bool = False

    def __init__(self, method: AdversarialMethod, attack: Attack, bare: nn.Module) -> None:
        """Args: bare: the network itself, which `loss` may be given wrapped."""
        self.extra: nn.Module = nn.Module()
        self._method = method
        self._attack = attack
        self._bare = bare

    def loss(
        self, network: nn.Module, views: tuple[Tensor, ...], targets: Targets, *, epoch: float
    ) -> Tensor:
        """Return the cross-entropy of the batch, a share of it attacked."""
        del epoch
        items, labels = views[0], targets.labels
        count = round(self._method.share * items.shape[0])
        if count:
            attacked = self._attack.on(self._bare, items[:count], labels[:count])
            items = torch.cat((attacked, items[count:]))
        return class_loss(network(items), labels, label_smoothing=self._method.label_smoothing)

    def metrics(self, network: nn.Module, views: tuple[Tensor, ...], targets: Targets) -> None:
        """The task's own scores are what counts."""


@contextmanager
def _as_deployed(network: nn.Module) -> Iterator[None]:
    """Put normalisation and dropout into evaluation mode for a while; see rule 3."""
    kinds = (_BatchNorm, _DropoutNd)
    changed = [m for m in network.modules() if isinstance(m, kinds) and m.training]
    for module in changed:
        module.eval()
    try:
        yield
    finally:
        for module in changed:
            module.train()


def _by_channel(values: tuple[float, ...], channels: int, device: torch.device) -> Tensor:
    """Return (C, 1, 1) of one number or one for each channel."""
    return torch.tensor(values, device=device).expand(channels)[:, None, None]
