"""A reconstructing network against a critic: sharper repair and anomaly scores.

What must not live here: networks that reconstruct (shared/model).

1. The network is given a damaged item (noise; of a picture a square, of a window a span erased to
   0) and learns the clean one: mean squared error + adversary_weight * what the critic thinks of it
   (after Akcay et al. 2018, GANomaly; Isola et al. 2017).
2. The critic, beside the network in `extra` and thrown away, is trained by the hinge loss to tell
   clean items from reconstructed ones (Lim & Ye 2017), its layers held by their spectral norm
   (Miyato et al. 2018).
3. One backward serves both: for the network's part the critic's parameters are taken as constants,
   for the critic's part the reconstruction is. Neither pulls at the other's parameters.
4. The critic is fp32, also in autocast. Items labelled anomalous never count.
"""

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional
from torch.nn.utils.parametrizations import spectral_norm

from cloud_hub.training.trainer.spec import GenerativeMethod
from cloud_hub.training.trainer.torch_objective import Targets
from cloud_hub.training.trainer.torch_supervised import mean_where, squared_errors

CRITIC_WIDTHS = (16, 32, 64)
LEAK = 0.2


class Generative:
    """See the rules above."""

    views: int = 1
    takes_unlabelled: bool = True

    def __init__(
        self, method: GenerativeMethod, shape: tuple[int, ...], *, device: torch.device
    ) -> None:
        """Args: shape: of one item, (C, H, W) or (C, T)."""
        self._method = method
        self._critic = build_critic(shape).to(device)
        self.extra: nn.Module = self._critic

    def loss(
        self, network: nn.Module, views: tuple[Tensor, ...], targets: Targets, *, epoch: float
    ) -> Tensor:
        """Return the network's loss and the critic's together; see rule 3."""
        del epoch
        clean, is_normal = views[0], targets.labels <= 0
        answers = network(damage(clean, self._method)).float()
        errors = squared_errors(answers, clean)  # (B,)
        with torch.autocast(clean.device.type, enabled=False):
            constants = {n: p.detach() for n, p in self._critic.named_parameters()}
            liked = functional_call(self._critic, constants, (answers,))[:, 0]  # (B,)
            of_clean = functional.relu(1.0 - self._critic(clean.float())[:, 0])
            of_made = functional.relu(1.0 + self._critic(answers.detach())[:, 0])
        made = errors - self._method.adversary_weight * liked
        return mean_where(made + of_clean + of_made, is_normal)

    def metrics(self, network: nn.Module, views: tuple[Tensor, ...], targets: Targets) -> None:
        """The task's own scores are what counts."""


def build_critic(shape: tuple[int, ...]) -> nn.Module:
    """Return a network from items of this shape to (B, 1): how real they look."""
    channels, *sides = shape
    layers: list[nn.Module] = []
    for width in CRITIC_WIDTHS:
        convolution = (
            nn.Conv2d(channels, width, 3, stride=2, padding=1)
            if len(sides) == 2
            else nn.Conv1d(channels, width, 5, stride=2, padding=2)
        )
        layers += [spectral_norm(convolution), nn.LeakyReLU(LEAK)]
        channels, sides = width, [(side + 1) // 2 for side in sides]
    size = channels
    for side in sides:
        size *= side
    return nn.Sequential(*layers, nn.Flatten(), spectral_norm(nn.Linear(size, 1)))


def damage(clean: Tensor, method: GenerativeMethod) -> Tensor:
    """Return items with noise and with a square (of windows: a span) erased to 0."""
    damaged = clean + method.input_noise * torch.randn_like(clean) if method.input_noise else clean
    if not method.erased_share:
        return damaged
    sides = clean.shape[2:]
    # The square's side is the same share of both sides; its area is `erased_share` of the picture.
    share = method.erased_share ** (1.0 / len(sides))
    erased = torch.ones(clean.shape[0], *([1] * (clean.dim() - 1)), device=clean.device).bool()
    for axis, side in enumerate(sides, start=2):
        length = max(1, round(share * side))
        start = torch.randint(side - length + 1, (clean.shape[0], 1), device=clean.device)
        place = torch.arange(side, device=clean.device)[None]  # (1, side)
        within = (place >= start) & (place < start + length)  # (B, side)
        shape = [clean.shape[0]] + [1] * (clean.dim() - 1)
        shape[axis] = side
        erased = erased & within.view(shape)
    return damaged.masked_fill(erased, 0.0)
