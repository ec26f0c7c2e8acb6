"""Which parameters are trained: all, some by name, or a low-rank change of the large ones.

What must not live here: optimisers, what is learned.

1. Partial: a parameter is trained where its name begins with one of the prefixes; the rest is
   frozen. A prefix that fits nothing is refused.
2. LoRA (Hu et al. 2021): the weight of each linear layer and each convolution becomes
   W + (alpha / rank) B A, A drawn and B zero, so that it starts as exactly W. A convolution's
   weight is the matrix (out, in * kernel). No rank is larger than the matrix allows. Where training
   is not `full` by prefix, everything but A and B is frozen. Recurrent layers have no low-rank
   form here: they stay frozen unless they are `full`.
3. A frozen normalisation layer keeps its running statistics: `training_mode` leaves it in eval
   mode. Whoever calls `train()` on the network calls `training_mode` instead.
4. Merged, the network has its own names again, in their own order (a digest of weights covers it).
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import parametrize

from cloud_hub.training.trainer.spec import AllTrained, LowRankTrained, PartTrained, Trained
from shared.errors import ContractError

PREFIXES_SHOWN = 40
_WEIGHT = "weight"
_PARAMETRIZATIONS = "parametrizations"  # torch's own name for where they are kept
_FITTING = (nn.Linear, nn.Conv1d, nn.Conv2d)


class LowRank(nn.Module):
    """W to W + (alpha / rank) B A; see rule 2."""

    def __init__(self, weight: Tensor, *, rank: int, alpha: float, luck: torch.Generator) -> None:
        """Args: weight: (out, in, ...), for its shape, device and dtype; luck: on the CPU."""
        super().__init__()
        rows, columns = weight.shape[0], weight[0].numel()
        rank = min(rank, rows, columns)
        self.scale = alpha / rank
        drawn = torch.empty(rank, columns)
        nn.init.kaiming_uniform_(drawn, a=math.sqrt(5.0), generator=luck)
        self.a = nn.Parameter(drawn.to(weight))
        self.b = nn.Parameter(weight.new_zeros(rows, rank))

    def forward(self, weight: Tensor) -> Tensor:
        """Return the changed weight, of the same shape."""
        return weight + self.scale * (self.b @ self.a).view(weight.shape)


def prepare_trained(network: nn.Module, trained: Trained, *, seed: int = 0) -> Callable[[], None]:
    """Freeze what is not trained and put low-rank changes in; return what merges them back.

    To be called once the start's weights are loaded, before an optimiser or DDP sees the network.
    The same seed draws the same changes, on every device and in every process.

    Raises:
        ContractError: `training.prefix`, a prefix fits no parameter.
    """
    match trained:
        case AllTrained():
            return _nothing
        case PartTrained(prefixes=prefixes):
            return _freeze(network, prefixes)
        case LowRankTrained():
            return _add_low_rank(network, trained, seed)


def training_mode(network: nn.Module) -> None:
    """Put the network into training mode but for frozen normalisation layers; see rule 3."""
    network.train()
    for module in network.modules():
        if isinstance(module, _BatchNorm) and _is_frozen(module):
            module.eval()


def own_state(network: nn.Module) -> dict[str, Tensor]:
    """Return the network's state by its own names, changes merged, without ending training."""
    state = network.state_dict()
    own: dict[str, Tensor] = {}
    for path, module in network.named_modules():
        if _PARAMETRIZATIONS in path.split("."):
            continue
        start = f"{path}." if path else ""
        if parametrize.is_parametrized(module, _WEIGHT):
            own[start + _WEIGHT] = getattr(module, _WEIGHT).detach()
        names = [name for name, _ in module.named_parameters(recurse=False)]
        names += [name for name, _ in module.named_buffers(recurse=False)]
        own |= {start + name: state[start + name] for name in names if start + name in state}
    return own


def _freeze(network: nn.Module, prefixes: tuple[str, ...]) -> Callable[[], None]:
    """Freeze all but what begins with a prefix (no prefix: everything); return what undoes it."""
    _check_prefixes(network, prefixes)
    before = [(parameter, parameter.requires_grad) for parameter in network.parameters()]
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(bool(prefixes) and name.startswith(prefixes))

    def thaw() -> None:
        for parameter, was_trained in before:
            parameter.requires_grad_(was_trained)

    return thaw


def _add_low_rank(network: nn.Module, trained: LowRankTrained, seed: int) -> Callable[[], None]:
    changed: list[nn.Module] = []
    for path, module in list(network.named_modules()):
        is_full = bool(trained.full) and f"{path}.{_WEIGHT}".lstrip(".").startswith(trained.full)
        if isinstance(module, _FITTING) and not is_full:
            changed.append(module)
    thaw = _freeze(network, trained.full)
    luck = torch.Generator().manual_seed(seed)
    for module in changed:
        weight = module.get_parameter(_WEIGHT)
        change = LowRank(weight.detach(), rank=trained.rank, alpha=trained.alpha, luck=luck)
        parametrize.register_parametrization(module, _WEIGHT, change)

    def merge() -> None:
        for module in changed:
            _merge(module)
        thaw()

    return merge


def _merge(module: nn.Module) -> None:
    """Make the changed weight the module's own again, before its bias as it was."""
    parametrize.remove_parametrizations(module, _WEIGHT, leave_parametrized=True)
    others = [(n, p) for n, p in module.named_parameters(recurse=False) if n != _WEIGHT]
    for name, parameter in others:
        # Taken out and put back: a module keeps its parameters in the order they came.
        delattr(module, name)
        module.register_parameter(name, parameter)


def _is_frozen(module: nn.Module) -> bool:
    parameters = list(module.parameters())
    return bool(parameters) and not any(parameter.requires_grad for parameter in parameters)


def _check_prefixes(network: nn.Module, prefixes: tuple[str, ...]) -> None:
    names = [name for name, _ in network.named_parameters()]
    for prefix in prefixes:
        if any(name.startswith(prefix) for name in names):
            continue
        available = list(dict.fromkeys(f"{name.rpartition('.')[0]}." for name in names))
        shown = ", ".join(available[:PREFIXES_SHOWN])
        raise ContractError(
            "training.prefix",
            f"No parameter of this network begins with {prefix!r}.",
            remedy=f"Name one of {shown}{', ...' if len(available) > PREFIXES_SHOWN else ''}.",
        )


def _nothing() -> None:
    """Everything was trained as it is: there is nothing to merge."""
