"""Optimiser: one step of SGD, AdamW or Muon on flat groups of parameters.

1. Weight decay is on matrices and filters only, not on norms, biases and embeddings' like: one
   axis or none. For SGD it is an L2 term, for AdamW and Muon decoupled (Loshchilov & Hutter 2019).
2. Muon (Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks") steps hidden
   matrices, and filters seen as matrices (out, in * kernel), along their orthogonalised Nesterov
   momentum; everything else, the last layer and embeddings too, goes by SGD.
3. Written out here: torch.optim imports torch's compiler at its first step (0.8 s and 70 MB in each
   process), torch.optim.Muon takes 2-D parameters only, and a vector for all parameters needs a
   few operations where theirs need some for each. Tests compare them step for step.
4. The state is tensors by name, saved with the run; without gradients nothing is divided by 0.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from cloud_hub.training.trainer.spec import OptimiserName, Recipe
from cloud_hub.training.trainer.torch_flat import FlatGroup, clip

BETAS = (0.9, 0.999)
EPSILON = 1e-8
# Quintic Newton-Schulz iteration of Jordan et al.: singular values end between 0.7 and 1.2.
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
NEWTON_SCHULZ_STEPS = 5
NORM_EPSILON = 1e-7
_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.ConvTranspose2d, nn.GRU)


class Optimiser:
    """See the rules above."""

    def __init__(
        self, modules: Sequence[nn.Module], recipe: Recipe, *, head_prefix: str = ""
    ) -> None:
        """Take over the parameters that are trained, at least one; the others are left alone.

        Args: head_prefix: of the first module's last layer; "": there is none.
        """
        self._recipe = recipe
        self._is_adam = recipe.optimiser is OptimiserName.ADAMW
        # Once each: a module may be reached by two ways.
        every = {id(p): p for module in modules for p in module.parameters() if p.requires_grad}
        by_muon: set[int] = set()
        if recipe.optimiser is OptimiserName.MUON:
            by_muon = _hidden(modules, head_prefix)
        matrices = [p for key, p in every.items() if key in by_muon]
        rest = [p for key, p in every.items() if key not in by_muon]
        decayed = [p for p in rest if p.ndim > 1]
        others = [p for p in rest if p.ndim <= 1]
        self._matrices = FlatGroup(matrices, has_decay=True) if matrices else None
        self._groups = [
            FlatGroup(parameters, has_decay=has_decay)
            for parameters, has_decay in ((decayed, True), (others, False))
            if parameters
        ]
        self._batches = [] if self._matrices is None else _by_shape(self._matrices)
        self._momenta = [torch.zeros_like(group.values) for group in self.groups]
        self._squares = [torch.zeros_like(group.values) for group in self.groups if self._is_adam]
        self._taken = 0
        self._average: list[Tensor] = []
        if recipe.average_decay:
            self._average = [group.values.clone() for group in self.groups]

    @property
    def groups(self) -> list[FlatGroup]:
        """Return every group of parameters."""
        return [*self._groups, self._matrices] if self._matrices is not None else self._groups

    def zero(self) -> None:
        """Begin a step."""
        for group in self.groups:
            group.zero()

    @torch.no_grad()
    def step(self, factor: float) -> None:
        """Go one step; `factor` multiplies the recipe's learning rates."""
        if self._recipe.gradient_norm_max is not None:
            clip(self.groups, self._recipe.gradient_norm_max)
        self._taken += 1
        for index, group in enumerate(self._groups):
            if self._is_adam:
                self._step_adam(index, group, self._recipe.learning_rate * factor)
            else:
                self._step_sgd(index, group, self._recipe.learning_rate * factor)
        if self._matrices is not None:
            self._step_muon(self._matrices, self._recipe.matrix_learning_rate * factor)
        for average, group in zip(self._average, self.groups, strict=bool(self._average)):
            # Early on a plain mean, so that the first weights do not stay in it for long.
            decay = min(self._recipe.average_decay, (1 + self._taken) / (10 + self._taken))
            average.lerp_(group.values, 1.0 - decay)

    @torch.no_grad()
    def swap_average(self) -> None:
        """Exchange the weights and their moving average, where there is one; twice undoes it."""
        for average, group in zip(self._average, self.groups, strict=bool(self._average)):
            kept = group.values.clone()
            group.values.copy_(average)
            average.copy_(kept)

    def state(self) -> dict[str, Tensor]:
        """Return what a resumed run needs beside the weights."""
        lists = {"momentum": self._momenta, "square": self._squares, "average": self._average}
        state = {f"{name}.{i}": v for name, values in lists.items() for i, v in enumerate(values)}
        return state | {"taken": torch.tensor(self._taken)}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Go on from a state. Raises KeyError or RuntimeError where it is another optimiser's."""
        for name, own in self.state().items():
            if name != "taken":
                own.copy_(state[name])
        self._taken = int(state["taken"])

    def _step_sgd(self, index: int, group: FlatGroup, rate: float) -> None:
        """Step as torch.optim.SGD(nesterov=True); gradients are used up."""
        gradient, momentum = group.gradients, self._momenta[index]
        if group.has_decay and self._recipe.weight_decay:
            gradient.add_(group.values, alpha=self._recipe.weight_decay)
        if self._recipe.momentum:
            momentum.mul_(self._recipe.momentum).add_(gradient)
            gradient.add_(momentum, alpha=self._recipe.momentum)
        group.values.add_(gradient, alpha=-rate)

    def _step_adam(self, index: int, group: FlatGroup, rate: float) -> None:
        """Step as torch.optim.AdamW."""
        mean, square = self._momenta[index], self._squares[index]
        if group.has_decay:
            group.values.mul_(1.0 - rate * self._recipe.weight_decay)
        mean.lerp_(group.gradients, 1.0 - BETAS[0])
        square.mul_(BETAS[1]).addcmul_(group.gradients, group.gradients, value=1.0 - BETAS[1])
        divisor = (square.sqrt() / (1.0 - BETAS[1] ** self._taken) ** 0.5).add_(EPSILON)
        group.values.addcdiv_(mean, divisor, value=-rate / (1.0 - BETAS[0] ** self._taken))

    def _step_muon(self, group: FlatGroup, rate: float) -> None:
        momentum = self._momenta[-1]
        momentum.lerp_(group.gradients, 1.0 - self._recipe.momentum)
        update = group.gradients.lerp_(momentum, self._recipe.momentum)
        group.values.mul_(1.0 - rate * self._recipe.weight_decay)
        for indices in self._batches:
            stack = torch.stack([group.view(update, i).flatten(1) for i in indices])  # (n, r, c)
            rows, columns = stack.shape[1:]
            scale = rate * max(1.0, rows / columns) ** 0.5
            for index, change in zip(indices, orthogonalised(stack), strict=True):
                values = group.view(group.values, index)
                values.sub_(change.view(values.shape), alpha=scale)


def orthogonalised(matrices: Tensor) -> Tensor:
    """Return (n, rows, columns) matrices whose singular values were brought near 1; rule 2.

    In bf16 on a GPU, as the authors do; in fp32 on a CPU, where small products gain nothing by it.
    """
    a, b, c = NEWTON_SCHULZ
    x = matrices.bfloat16() if matrices.is_cuda else matrices.float()
    is_tall = x.shape[1] > x.shape[2]
    if is_tall:
        x = x.mT  # The smaller side's product with itself is the cheaper one
    norms = torch.linalg.vector_norm(x, dim=(1, 2), keepdim=True)  # (n, 1, 1)
    x = x / (norms + NORM_EPSILON)
    for _ in range(NEWTON_SCHULZ_STEPS):
        gram = x @ x.mT  # (n, side, side)
        x = a * x + (b * gram + c * gram @ gram) @ x
    result: Tensor = (x.mT if is_tall else x).to(matrices.dtype)
    return result


def _hidden(modules: Sequence[nn.Module], head_prefix: str) -> set[int]:
    """Return which parameters Muon steps: weights of layers, but for the last one's."""
    found = set()
    for module in modules:
        for path, layer in module.named_modules():
            is_head = (
                module is modules[0] and bool(head_prefix) and (f"{path}.".startswith(head_prefix))
            )
            if is_head or not isinstance(layer, _LAYERS):
                continue
            own = layer.named_parameters(recurse=False)
            found |= {id(p) for name, p in own if name.startswith("weight") and _is_matrix(p)}
    return found


def _is_matrix(parameter: nn.Parameter) -> bool:
    return parameter.ndim > 1 and min(parameter.shape[0], parameter[0].numel()) > 1


def _by_shape(group: FlatGroup) -> Sequence[Sequence[int]]:
    """Return indices of matrices of one shape together: they are orthogonalised in one batch."""
    found: dict[tuple[int, int], list[int]] = defaultdict(list)
    for index, parameter in enumerate(group.parameters):
        found[parameter.shape[0], parameter[0].numel()].append(index)
    return list(found.values())
