"""Supervised learning: labels as classes or numbers, or the item itself as its own answer.

What must not live here: boxes (torch_detection.py), how answers are scored (shared/model/metrics).

1. Items labelled -1 never count. A batch without anything that counts has loss 0, with a gradient
   of zeros: every process of a parallel run goes the same steps.
2. Losses are fp32, also in autocast.
3. The loss of a class item is weight[class] * (1 - p)^gamma * cross-entropy, p the true class's
   probability (Lin et al. 2017, in its form for many classes); the mean is over labelled items.
   Class weights are scaled so that their mean over the training items is 1: changing them leaves
   the learning rate meaning what it meant.
4. A reconstructing network learns what is normal: items labelled anomalous (1 or more) never count.
"""

import torch
from torch import Tensor, nn
from torch.distributions import Beta
from torch.nn import functional

from cloud_hub.training.trainer.spec import ClassWeights, SupervisedMethod
from cloud_hub.training.trainer.torch_objective import Targets

EFFECTIVE_BETA = 0.999  # Cui et al. 2019


class Classification:
    """Classes from labels, with every option of SupervisedMethod that concerns them."""

    views: int = 1
    takes_unlabelled: bool = False

    def __init__(self, method: SupervisedMethod, class_counts: Tensor) -> None:
        """Args: class_counts: (classes,) labelled items of the training part, on the device."""
        self.extra: nn.Module = nn.Module()
        self._weights = class_weights(class_counts, method.class_weights)  # (classes,)
        self._method = method

    def loss(
        self, network: nn.Module, views: tuple[Tensor, ...], targets: Targets, *, epoch: float
    ) -> Tensor:
        """Return rule 3's mean; with mixup, that of two labels for each mixed item."""
        del epoch
        items, labels = views[0], targets.labels
        if not self._method.mixup_alpha:
            return self._of(network(items), labels)
        mixed, others, share = mix(items, self._method.mixup_alpha)
        logits = network(mixed)  # (B, classes)
        return share * self._of(logits, labels) + (1.0 - share) * self._of(logits, labels[others])

    def metrics(self, network: nn.Module, views: tuple[Tensor, ...], targets: Targets) -> None:
        """The task's own scores are what counts."""

    def _of(self, logits: Tensor, labels: Tensor) -> Tensor:
        return class_loss(
            logits,
            labels,
            weights=self._weights,
            label_smoothing=self._method.label_smoothing,
            focal_gamma=self._method.focal_gamma,
        )


class Score:
    """One number, from labels read as numbers, by the mean squared error."""

    views: int = 1
    takes_unlabelled: bool = False

    def __init__(self) -> None:
        self.extra: nn.Module = nn.Module()

    def loss(
        self, network: nn.Module, views: tuple[Tensor, ...], targets: Targets, *, epoch: float
    ) -> Tensor:
        """Return the mean squared error over labelled items."""
        del epoch
        scores = network(views[0]).float().flatten()  # (B,)
        errors = (scores - targets.labels.float()).square()
        return mean_where(errors, targets.labels >= 0)

    def metrics(self, network: nn.Module, views: tuple[Tensor, ...], targets: Targets) -> None:
        """The task's own scores are what counts."""


class Reconstruction:
    """The item itself, from a noisy copy of it (Vincent et al. 2008); see rule 4."""

    views: int = 1
    takes_unlabelled: bool = True

    def __init__(self, input_noise: float) -> None:
        """Args: input_noise: deviation, in the scaled input's unit."""
        self.extra: nn.Module = nn.Module()
        self._noise = input_noise

    def loss(
        self, network: nn.Module, views: tuple[Tensor, ...], targets: Targets, *, epoch: float
    ) -> Tensor:
        """Return the mean squared error against the clean items."""
        del epoch
        clean = views[0]
        noisy = clean + self._noise * torch.randn_like(clean) if self._noise else clean
        return mean_where(squared_errors(network(noisy), clean), targets.labels <= 0)

    def metrics(self, network: nn.Module, views: tuple[Tensor, ...], targets: Targets) -> None:
        """The task's own scores are what counts."""


def class_weights(counts: Tensor, kind: ClassWeights) -> Tensor:
    """Return (classes,) float32 how much an item of each class counts; 0 for a class without any.

    Args:
        counts: (classes,) items of the training part.
        kind: the rule.
    """
    number = counts.double()
    present = number > 0
    match kind:
        case ClassWeights.EQUAL:
            return torch.ones_like(number, dtype=torch.float32)
        case ClassWeights.BALANCED:
            raw = 1.0 / number.clamp(min=1.0)
        case ClassWeights.EFFECTIVE:
            raw = (1.0 - EFFECTIVE_BETA) / (1.0 - EFFECTIVE_BETA ** number.clamp(min=1.0))
    raw = torch.where(present, raw, torch.zeros_like(raw))
    total = (raw * number).sum()
    scaled = raw * (number.sum() / total) if present.any() else torch.ones_like(raw)
    return scaled.float()


def class_loss(
    logits: Tensor,
    labels: Tensor,
    *,
    weights: Tensor | None = None,
    label_smoothing: float = 0.0,
    focal_gamma: float = 0.0,
) -> Tensor:
    """Return rule 3's mean over labelled items.

    Args:
        logits: (B, classes).
        labels: (B,) int64, -1: not labelled.
        weights: (classes,), none: all count the same.
        label_smoothing: share of the target spread over all classes (Szegedy et al. 2016).
        focal_gamma: 0 is plain cross-entropy.
    """
    is_labelled = labels >= 0
    known = labels.clamp(min=0)  # (B,)
    log_shares = functional.log_softmax(logits.float(), dim=1)  # (B, classes)
    of_true = log_shares.gather(1, known[:, None])[:, 0]  # (B,)
    losses = -(1.0 - label_smoothing) * of_true - label_smoothing * log_shares.mean(dim=1)
    if focal_gamma:
        # Bounded away from 0: the gradient of 0 ** gamma is not finite for gamma below 1.
        losses = losses * (1.0 - of_true.exp()).clamp(min=1e-6) ** focal_gamma
    if weights is not None:
        losses = losses * weights[known]
    return mean_where(losses, is_labelled)


def squared_errors(answers: Tensor, clean: Tensor) -> Tensor:
    """Return (B,) float32: the mean squared error of each item."""
    return (answers.float() - clean.float()).square().flatten(1).mean(dim=1)


def mean_where(values: Tensor, counts: Tensor) -> Tensor:
    """Return the mean of (B,) values where (B,) bool says they count; see rule 1."""
    # Not a product with 0: what does not count may be infinite.
    kept = torch.where(counts, values, torch.zeros_like(values))
    return kept.sum() / counts.sum().clamp(min=1)


def mix(items: Tensor, alpha: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return items mixed with others of the batch (Zhang et al. 2018), which, and the own share.

    The share is at least 0.5: an item stays more itself than the other.
    """
    share = Beta(alpha, alpha).sample().to(items.device)
    share = torch.maximum(share, 1.0 - share)
    others = torch.randperm(items.shape[0], device=items.device)  # (B,)
    return share * items + (1.0 - share) * items[others], others, share
