"""FlatGroup: parameters that are stepped alike, as one vector; their gradients as another.

1. Parameters become views of the vector, with the strides they had (channels last stays so); what
   is loaded into them, or averaged between processes, is loaded into it.
2. So a step, a clipping, an averaging of weights and one between processes are a few operations
   on one vector each, however many parameters there are.
3. A parameter that a loss does not reach has a gradient of 0.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

ALIGNED = 32  # Numbers: kernels like what begins at a whole cache line


class FlatGroup:
    """See the rules above."""

    def __init__(self, parameters: Sequence[nn.Parameter], *, has_decay: bool) -> None:
        """Take the parameters over. At least one; of one device and float32."""
        self.parameters = tuple(parameters)
        self.has_decay = has_decay
        self._starts: list[int] = []
        size = 0
        for parameter in self.parameters:
            self._starts.append(size)
            size += -(-parameter.numel() // ALIGNED) * ALIGNED
        first = self.parameters[0]
        # One place more, always 0 between steps: a number that is to be averaged with gradients.
        self.values = torch.zeros(size + ALIGNED, device=first.device)
        self.gradients = torch.zeros_like(self.values)
        for index, parameter in enumerate(self.parameters):
            with torch.no_grad():
                view = self.view(self.values, index)
                view.copy_(parameter)
                parameter.data = view
        self.zero()

    def view(self, vector: Tensor, index: int) -> Tensor:
        """Return a parameter's numbers in a vector like `values`, in its shape and strides."""
        parameter = self.parameters[index]
        strides = parameter.stride()
        if not _is_dense(parameter):
            strides = torch.empty(parameter.shape).stride()
        return vector.as_strided(parameter.shape, strides, self._starts[index])

    @property
    def spare(self) -> Tensor:
        """Return a place of `gradients` that belongs to no parameter, (1,)."""
        return self.gradients[-1:]

    def zero(self) -> None:
        """Begin a step: gradients are added up from 0."""
        self.gradients.zero_()
        for index, parameter in enumerate(self.parameters):
            if parameter.grad is None:
                parameter.grad = self.view(self.gradients, index)


def gradient_norm(groups: Sequence[FlatGroup]) -> Tensor:
    """Return the norm of all gradients together, a scalar on their device."""
    norms = [torch.linalg.vector_norm(group.gradients) for group in groups]
    whole: Tensor = torch.linalg.vector_norm(torch.stack(norms))
    return whole


def clip(groups: Sequence[FlatGroup], norm_max: float) -> None:
    """Make the norm of all gradients together at most `norm_max` (Pascanu et al. 2013)."""
    factor = (norm_max / (gradient_norm(groups) + 1e-6)).clamp(max=1.0)
    for group in groups:
        group.gradients.mul_(factor)


def _is_dense(parameter: Tensor) -> bool:
    """Whether a tensor fills its memory without gaps, in whatever order of axes."""
    expected = 1
    for size, stride in sorted(
        zip(parameter.shape, parameter.stride(), strict=True), key=lambda axis: axis[1]
    ):
        if size != 1 and stride != expected:
            return False
        expected *= size
    return True
