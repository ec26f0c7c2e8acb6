"""Distillation: a teacher's soft answers (Hinton et al. 2015), beside the labels where there are.

What must not live here: where the teacher comes from.

1. The loss is soft_share * T^2 * KL(teacher || student), both softened by the temperature T, and
   (1 - soft_share) * the labels' cross-entropy. Unlabelled items learn from the teacher alone.
   T^2 keeps the soft gradients' size the same whatever T is.
2. The teacher is frozen and in evaluation mode; it sees the same augmented item as the student.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from cloud_hub.training.trainer.spec import DistillationMethod
from cloud_hub.training.trainer.torch_objective import Targets
from cloud_hub.training.trainer.torch_supervised import class_loss


class Distillation:
    """See the rules above."""

    views: int = 1
    takes_unlabelled: bool = True

    def __init__(self, method: DistillationMethod, teacher: nn.Module) -> None:
        """Args: teacher: on the device; it is frozen here."""
        self.extra: nn.Module = nn.Module()
        self._teacher = teacher.eval().requires_grad_(requires_grad=False)
        self._method = method

    def loss(
        self, network: nn.Module, views: tuple[Tensor, ...], targets: Targets, *, epoch: float
    ) -> Tensor:
        """Return rule 1's loss."""
        del epoch
        with torch.no_grad():
            taught = self._teacher(views[0])  # (B, classes)
        answers = network(views[0])
        soft = soft_loss(answers, taught, temperature=self._method.temperature)
        hard = class_loss(answers, targets.labels)
        return self._method.soft_share * soft + (1.0 - self._method.soft_share) * hard

    def metrics(self, network: nn.Module, views: tuple[Tensor, ...], targets: Targets) -> None:
        """The task's own scores are what counts."""


def soft_loss(answers: Tensor, taught: Tensor, *, temperature: float) -> Tensor:
    """Return T^2 * KL(teacher || student), the mean over (B, classes) logits."""
    ours = functional.log_softmax(answers.float() / temperature, dim=1)
    theirs = functional.log_softmax(taught.float() / temperature, dim=1)
    divergence = functional.kl_div(ours, theirs, reduction="batchmean", log_target=True)
    return divergence * temperature**2
