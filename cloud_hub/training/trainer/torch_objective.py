"""Objective: what is learned of a batch. The loop knows nothing of methods, methods nothing of it.

1. Items come scaled as the ModelSpec says and augmented, on the device that trains: images
   (B, C, H, W) float32, windows (B, C, T) float32, texts (B, L) int64.
2. The loop calls `loss` in autocast; what must be fp32 says so itself.
3. `extra` is trained beside the network, by the same optimiser, and thrown away; its parameters are
   saved in the run's state, so that a resumed run goes on the same.
4. An objective draws random numbers only from torch's generators, which the loop seeds and saves.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class Targets:
    """What is known of a batch's items."""

    labels: Tensor  # (B,) int64, -1: not labelled
    # Detection: (B, M, 5) float32 class, left, top, right, bottom in shares; class -1: no box there
    boxes: Tensor | None = None
    # (B,) bool: False where nobody has said what boxes there are
    is_boxed: Tensor | None = None


class Objective(Protocol):
    """See the rules above."""

    extra: nn.Module  # nn.Module() where there is nothing beside the network
    views: int  # How many independently augmented views of each item it takes: 1 or 2
    takes_unlabelled: bool  # Whether items without labels belong to its batches

    def loss(
        self, network: nn.Module, views: tuple[Tensor, ...], targets: Targets, *, epoch: float
    ) -> Tensor:
        """Return the mean loss of a batch, a scalar to go backward from."""
        ...

    def metrics(
        self, network: nn.Module, views: tuple[Tensor, ...], targets: Targets
    ) -> Mapping[str, Tensor] | None:
        """Return sums over an evaluated batch, or None: the task's own scores are what counts.

        Only for objectives whose network does not do its task yet (contrastive, masked): the sum of
        the losses under "loss" and the items' count under "count"; the run's value is -loss/count.
        """
        ...
