"""Stepper: one training step, from indices to changed weights. Knows no files and no time.

1. What a step draws follows from the seed and the step's number, so that a step is the same
   whichever process takes it up again: order by (seed, epoch), augmentation by (seed, step), the
   objective's own numbers by (seed, step, rank).
2. The backward pass runs outside autocast; gradients, weights and the optimiser are fp32.
"""

from dataclasses import replace

import torch
from torch import Tensor, nn

from cloud_hub.training.trainer.schedule import Plan, rate_factor, seed_of
from cloud_hub.training.trainer.spec import Precision, TrainSpec
from cloud_hub.training.trainer.torch_augment import Draw, augmented, flipped
from cloud_hub.training.trainer.torch_data import DeviceItems, epoch_order, share_of
from cloud_hub.training.trainer.torch_low_rank import training_mode
from cloud_hub.training.trainer.torch_objective import Objective
from cloud_hub.training.trainer.torch_optimisers import Optimiser
from cloud_hub.training.trainer.torch_processes import Processes

START, ORDER, AUGMENTATION, OBJECTIVE = range(4)  # Streams of random numbers; OBJECTIVE + rank


class Stepper:
    """See the rules above."""

    def __init__(
        self,
        spec: TrainSpec,
        network: nn.Module,
        objective: Objective,
        data: DeviceItems,
        chosen: Tensor,
        optimiser: Optimiser,
        plan: Plan,
        processes: Processes,
        precision: Precision,
    ) -> None:
        """Args: chosen: (n,) indices of the training part, as `data.indices` gives them."""
        self._spec = spec
        self._network = network
        self._objective = objective
        self._data = data
        self._chosen = chosen
        self._optimiser = optimiser
        self._plan = plan
        self._processes = processes
        self._is_bf16 = precision is Precision.BF16
        self._generator = torch.Generator(device=data.device)
        self._order: tuple[int, Tensor] | None = None

    def prepare(self) -> None:
        """Put the network into training mode: before the first step and after an evaluation."""
        training_mode(self._network)
        training_mode(self._objective.extra)

    def take(self, step: int) -> tuple[Tensor, int]:
        """Take the `step`-th step, from 0; return the batch's mean loss and its items' count."""
        batch = self._batch(step)
        whole = int(batch.shape[0])
        share = share_of(whole, rank=self._processes.rank, processes=self._processes.count)
        self._optimiser.zero()
        loss = torch.zeros((), device=self._data.device)
        if share.stop > share.start:
            loss = self._loss(step, batch, share)
            loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        groups = self._optimiser.groups
        part = (share.stop - share.start) / whole
        loss = self._processes.average_gradients(groups, loss.detach(), share=part)
        factor = rate_factor(step, self._plan.steps_total, self._spec.recipe)
        self._optimiser.step(factor)
        return loss, whole

    def _batch(self, step: int) -> Tensor:
        epoch, position = divmod(step, self._plan.steps_per_epoch)
        if self._order is None or self._order[0] != epoch:
            seed = seed_of(self._spec.seed, epoch, stream=ORDER)
            self._order = (epoch, epoch_order(self._chosen, seed=seed))
        size = self._plan.batch
        return self._order[1][position * size : (position + 1) * size]

    def _loss(self, step: int, batch: Tensor, share: slice) -> Tensor:
        seed = self._spec.seed
        self._generator.manual_seed(seed_of(seed, step, stream=AUGMENTATION))
        torch.manual_seed(seed_of(seed, step, stream=OBJECTIVE + self._processes.rank))
        targets = self._data.targets(batch[share])
        items = self._data.items(batch[share])
        draw = Draw(self._generator, int(batch.shape[0]), share, self._data.device)
        if targets.boxes is not None and self._spec.recipe.augmentation.has_flip:
            items, boxes = flipped(items, targets.boxes, draw)
            targets = replace(targets, boxes=boxes)
        views = tuple(self._view(items, draw) for _ in range(self._objective.views))
        device = self._data.device.type
        with torch.autocast(device, torch.bfloat16, enabled=self._is_bf16):
            return self._objective.loss(
                self._network, views, targets, epoch=self._plan.epoch_of(step)
            )

    def _view(self, items: Tensor, draw: Draw) -> Tensor:
        """Return this process's items as input, augmented anew at each call."""
        view = augmented(
            items, self._data, self._spec.recipe.augmentation, draw, has_boxes=self._data.has_boxes
        )
        if view.ndim == 4 and self._spec.recipe.has_channels_last:
            view = view.contiguous(memory_format=torch.channels_last)
        return view
