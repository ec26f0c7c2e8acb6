"""SimCLR: features by which two views of one item are found again (Chen et al. 2020), no labels.

What must not live here: how views are made (torch_augment.py).

1. Features are what the head is given; a projection of two linear layers, trained beside the
   network and thrown away, carries them to where they are compared.
2. The loss is NT-Xent: the cross-entropy of finding the other view among all others of the batch,
   by cosine similarity over the temperature. It is fp32, also in autocast.
3. In a parallel run the others are those of the same process: the more processes share a batch,
   the fewer there are to be told apart.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from cloud_hub.training.trainer.spec import ContrastiveMethod
from cloud_hub.training.trainer.torch_features import Features
from cloud_hub.training.trainer.torch_objective import Targets


class Contrastive:
    """See the rules above."""

    views: int = 2
    takes_unlabelled: bool = True

    def __init__(
        self, method: ContrastiveMethod, features: Features, *, device: torch.device
    ) -> None:
        """Args: features: of the network that is trained."""
        self._features = features
        self._temperature = method.temperature
        width = features.width
        self._projection = nn.Sequential(
            nn.Linear(width, width), nn.ReLU(), nn.Linear(width, method.projection)
        ).to(device)
        self.extra: nn.Module = self._projection

    def loss(
        self, network: nn.Module, views: tuple[Tensor, ...], targets: Targets, *, epoch: float
    ) -> Tensor:
        """Return NT-Xent of the batch."""
        del targets, epoch
        return self._loss(network, views)

    def metrics(
        self, network: nn.Module, views: tuple[Tensor, ...], targets: Targets
    ) -> Mapping[str, Tensor]:
        """Return the batch's loss, times its items, and their count."""
        del targets
        count = torch.tensor(float(views[0].shape[0]), device=views[0].device)
        return {"loss": self._loss(network, views) * count, "count": count}

    def _loss(self, network: nn.Module, views: tuple[Tensor, ...]) -> Tensor:
        # One pass over both: batch normalisation sees them together.
        features, zero = self._features.of(network, torch.cat(views))  # (2 B, width)
        first, second = self._projection(features).chunk(2)  # (B, projection) each
        return contrast(first, second, temperature=self._temperature) + zero


def contrast(first: Tensor, second: Tensor, *, temperature: float) -> Tensor:
    """Return NT-Xent of (B, projection) pairs: row i of one belongs to row i of the other."""
    count = first.shape[0]
    with torch.autocast(first.device.type, enabled=False):
        points = functional.normalize(torch.cat((first, second)).float(), dim=1)
        likeness = points @ points.T / temperature  # (2 B, 2 B)
        oneself = torch.eye(2 * count, dtype=torch.bool, device=points.device)
        likeness = likeness.masked_fill(oneself, -torch.inf)
        partner = torch.arange(2 * count, device=points.device).roll(count)  # (2 B,)
        return functional.cross_entropy(likeness, partner)
