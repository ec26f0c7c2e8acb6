"""Processes: several trainers as one, under torchrun; a single one is the same with nothing to do.

1. Gradients are averaged by one sum over each flat vector, weighted by how many of the batch's
   items each process had. No wrapper is put around the network: a method may use any part of it.
   (torch's DDP overlaps this with the backward pass, which pays for networks far larger than ours.)
2. BatchNorm sees a process's own share of a batch, and running statistics are averaged before they
   are used; on GPUs it is SyncBatchNorm, which sees the whole batch. Networks without BatchNorm go
   through the same numbers as one process, but for the order of sums.
3. A process whose torchrun is gone ends: nothing would end it otherwise, and another may follow.
4. What waits for a process that died fails after TIMEOUT_S at the latest; torchrun ends the others
   within seconds, and is started again by whoever started it.
"""

import os
from collections.abc import Mapping, Sequence
from datetime import timedelta

import torch
from torch import Tensor, distributed, nn

from cloud_hub.training.trainer.torch_flat import FlatGroup
from shared.errors import TransientError

TIMEOUT_S = 600.0  # An evaluation of rank 0 alone fits in


class Processes:
    """See the rules above."""

    def __init__(self, device: torch.device, environment: Mapping[str, str]) -> None:
        """Join the others, where torchrun's environment says that there are any.

        Raises TransientError `training.processes`.
        """
        self.count = int(environment.get("WORLD_SIZE", "1"))
        self.rank = int(environment.get("RANK", "0"))
        self._device = device
        self._parent = os.getppid()
        if self.count == 1:
            return
        backend = "nccl" if device.type == "cuda" else "gloo"
        try:
            distributed.init_process_group(
                backend,
                timeout=timedelta(seconds=TIMEOUT_S),
                device_id=device if device.type == "cuda" else None,
            )
        except (RuntimeError, ValueError) as error:
            raise TransientError(
                "training.processes",
                f"The {self.count} processes did not find each other: {error}.",
                remedy="Start the run again; on one machine set GLOO_SOCKET_IFNAME=lo.",
            ) from error

    @property
    def is_first(self) -> bool:
        """Whether this one writes the files."""
        return self.rank == 0

    @property
    def is_orphan(self) -> bool:
        """Whether torchrun is gone; see rule 3."""
        return self.count > 1 and os.getppid() != self._parent

    def average_gradients(
        self, groups: Sequence[FlatGroup], loss: Tensor, *, share: float
    ) -> Tensor:
        """Make gradients those of the whole batch, of which `share` was this process's.

        Returns the whole batch's loss, a scalar.
        """
        if self.count == 1:
            return loss
        spare = groups[0].spare
        spare.copy_(loss)
        for group in groups:
            group.gradients.mul_(share)
            distributed.all_reduce(group.gradients)
        whole = spare.clone().view(())
        spare.zero_()
        return whole

    @torch.no_grad()
    def average_statistics(self, network: nn.Module) -> None:
        """Make running statistics those of all processes; see rule 2."""
        if self.count == 1:
            return
        for buffer in network.buffers():
            if buffer.is_floating_point():
                distributed.all_reduce(buffer)
                buffer.div_(self.count)

    def summed(self, values: Tensor) -> Tensor:
        """Return the sum over processes, in place."""
        if self.count > 1:
            distributed.all_reduce(values)
        return values

    def agreed(self, value: float) -> float:
        """Return the first process's number."""
        if self.count == 1:
            return value
        told = torch.tensor([value], dtype=torch.float64, device=self._device)
        distributed.broadcast(told, 0)
        return float(told)

    def leave(self) -> None:
        """Leave the others in good order."""
        if self.count > 1 and distributed.is_initialized():
            distributed.destroy_process_group()
