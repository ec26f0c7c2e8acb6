"""Networks whose output is their input, made anew: autoencoders, and the generator that repairs.

1. The output has the input's own shape and unit, for any size: the way back goes through the very
   sides of the way there.
2. Pictures grow by repeating pixels and a convolution, not by a transposed one, which leaves a
   checkerboard (Odena et al. 2016).
"""

import itertools
import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from shared.errors import ContractError
from shared.model.network import AutoencoderNetwork, RepairNetwork

Shape = tuple[int, ...]


def window_autoencoder(network: AutoencoderNetwork, shape: Shape) -> nn.Module:
    """Return an autoencoder of windows (N, C, T)."""
    channels, samples = shape
    layers: list[nn.Module] = []
    for wanted in network.channels:
        layers += [nn.Conv1d(channels, wanted, 5, stride=2, padding=2), nn.ReLU()]
        channels, samples = wanted, (samples + 1) // 2
    size = channels * samples
    return nn.Sequential(
        nn.Sequential(*layers),
        nn.Sequential(nn.Flatten(), nn.Linear(size, network.narrow)),
        nn.Sequential(
            nn.Linear(network.narrow, size),
            nn.ReLU(),
            nn.Linear(size, math.prod(shape)),
            nn.Unflatten(1, shape),
        ),
    )


def image_autoencoder(network: AutoencoderNetwork, shape: Shape) -> nn.Module:
    """Return an autoencoder of pictures (N, C, H, W)."""
    widths, sides = (shape[0], *network.channels), _halvings(shape, len(network.channels))
    there: list[nn.Module] = []
    for before, after in itertools.pairwise(widths):
        there += [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.ReLU()]
    small = (widths[-1], *sides[-1])
    back: list[nn.Module] = []
    for level in reversed(range(len(network.channels))):
        back += [nn.ReLU(), nn.Upsample(size=sides[level])]
        back.append(nn.Conv2d(widths[level + 1], widths[level], 3, padding=1))
    return nn.Sequential(
        nn.Sequential(*there),
        nn.Sequential(nn.Flatten(), nn.Linear(math.prod(small), network.narrow)),
        nn.Sequential(nn.Linear(network.narrow, math.prod(small)), nn.Unflatten(1, small), *back),
    )


class RepairGenerator(nn.Module):
    """Pictures to pictures: an encoder and a decoder, with or without skips between them."""

    def __init__(self, network: RepairNetwork, shape: Shape) -> None:
        super().__init__()
        widths, self.has_skips = network.channels, network.has_skips
        self._sides = _halvings(shape, len(widths) - 1)
        self.down = nn.ModuleList([_twice(shape[0], widths[0])])
        for before, after in itertools.pairwise(widths):
            self.down.append(_twice(before, after, stride=2))
        self.up = nn.ModuleList()
        for after, before in reversed(list(itertools.pairwise(widths))):
            self.up.append(_twice(before + after * self.has_skips, after))
        self.last = nn.Conv2d(widths[0], shape[0], 1)

    def forward(self, picture: Tensor) -> Tensor:
        """Return (N, C, H, W) of (N, C, H, W)."""
        maps, seen = picture, []
        for down in self.down:
            maps = down(maps)  # (N, widths[i], H / 2**i, W / 2**i)
            seen.append(maps)
        finer = list(zip(seen[:-1], self._sides[:-1], strict=True))
        for up, (skip, side) in zip(self.up, reversed(finer), strict=True):
            maps = functional.interpolate(maps, size=side)  # (N, widths[i + 1], H / 2**i, ...)
            maps = up(torch.cat([maps, skip], 1) if self.has_skips else maps)
        return self.last(maps)  # type: ignore[no-any-return]  # nn.Module.__call__ is untyped


def _twice(channels: int, width: int, *, stride: int = 1) -> nn.Module:
    """Return two 3x3 convolutions, the first of which halves the sides if `stride` says so."""
    return nn.Sequential(
        nn.Conv2d(channels, width, 3, stride, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.Conv2d(width, width, 3, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
    )


def _halvings(shape: Shape, count: int) -> list[tuple[int, int]]:
    """Return rows and columns before and after each of `count` halvings, the largest first.

    Raises ContractError `network.unfit` where there is nothing left to halve.
    """
    sides = [(shape[1], shape[2])]
    for _ in range(count):
        height, width = sides[-1]
        if min(height, width) < 2:
            raise ContractError(
                "network.unfit",
                f"This network does not fit the model: {count} halvings are too many for "
                f"{shape[1]}x{shape[2]}.",
                remedy="Give network.toml's architecture fewer channels.",
            )
        sides.append(((height + 1) // 2, (width + 1) // 2))
    return sides
