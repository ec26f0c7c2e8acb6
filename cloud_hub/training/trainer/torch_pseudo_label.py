"""Pseudo-labels: unlabelled items whose class is sure are learned as if they were labelled.

What must not live here: what an unlabelled item is (Targets says), how views are made.

1. Two views of each item: the class comes of the first, without a gradient, and is learned on the
   second (Sohn et al. 2020, FixMatch). Without augmentation both are the item: that is Lee 2013.
2. Only a class whose probability reaches the threshold counts. The mean is over all unlabelled
   items, sure or not: in the beginning, when few are sure, they weigh little.
3. The first `warm_epochs` learn from labels alone. Both views of labelled items are learned.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from cloud_hub.training.trainer.spec import PseudoLabelMethod
from cloud_hub.training.trainer.torch_objective import Targets
from cloud_hub.training.trainer.torch_supervised import class_loss


class PseudoLabel:
    """See the rules above."""

    views: int = 2
    takes_unlabelled: bool = True

    def __init__(self, method: PseudoLabelMethod) -> None:
        self.extra: nn.Module = nn.Module()
        self._method = method

    def loss(
        self, network: nn.Module, views: tuple[Tensor, ...], targets: Targets, *, epoch: float
    ) -> Tensor:
        """Return the labels' loss and, after the warm-up, that of sure classes."""
        first, second = network(torch.cat(views)).float().chunk(2)  # (B, classes) each
        smoothing = self._method.label_smoothing
        labelled = 0.5 * (
            class_loss(first, targets.labels, label_smoothing=smoothing)
            + class_loss(second, targets.labels, label_smoothing=smoothing)
        )
        if epoch < self._method.warm_epochs:
            return labelled
        is_unlabelled = targets.labels < 0
        classes = sure_classes(first.detach(), self._method.threshold)  # (B,), -1: not sure
        counts = is_unlabelled & (classes >= 0)
        losses = functional.cross_entropy(second, classes.clamp(min=0), reduction="none")
        sure = torch.where(counts, losses, 0.0).sum() / is_unlabelled.sum().clamp(min=1)
        return labelled + self._method.unlabelled_weight * sure

    def metrics(self, network: nn.Module, views: tuple[Tensor, ...], targets: Targets) -> None:
        """The task's own scores are what counts."""


def sure_classes(logits: Tensor, threshold: float) -> Tensor:
    """Return (B,) the class of each item where its probability reaches the threshold, else -1."""
    shares, classes = logits.softmax(dim=1).max(dim=1)
    return torch.where(shares >= threshold, classes, -1)
