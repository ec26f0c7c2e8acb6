"""A light SSD detector: maps at several scales, anchors on them, a class and a box for each.

1. Training reads `raw`: logits (N, n, 1 + classes), class 0 is background, and offsets (N, n, 4) of
   each anchor. In evaluation mode, and so exported, it gives what decoder ssd-corners reads.
2. Boxes are shares of the model's input. Anchors are centre x, y, width, height; boxes are left,
   top, right, bottom.
3. Offsets are those of SSD (Liu et al. 2016, equation 2) over `variances`, as in its code: centres
   in anchor sizes, sizes as logarithms.
4. Anchors follow from the network's spec; they are no part of its weights.
"""

import itertools
import math

import torch
from torch import Tensor, nn

from shared.errors import ContractError
from shared.model.network import SsdNetwork
from shared.model.torch_images import convolution, separable

VARIANCES = (0.1, 0.2)  # Of centres, of sizes
GROWTH_MAX = math.log(1000.0 / 16.0)  # A box is at most so many times its anchor: exp() is finite


class DetectorNetwork(nn.Module):
    """See the rules above."""

    anchors: Tensor  # (n, 4)

    def __init__(self, network: SsdNetwork, shape: tuple[int, ...], classes_count: int) -> None:
        super().__init__()
        self.depth = 1 + classes_count
        self.variances = VARIANCES
        each = len(network.ratios) + 1  # Anchors of one cell
        self.stages = nn.ModuleList()
        for index, (before, after) in enumerate(itertools.pairwise((shape[0], *network.channels))):
            if index:
                layers = separable(before, after, stride=2) + separable(after, after)
            else:
                layers = [*convolution(before, after, 3, stride=2), nn.ReLU()]
            self.stages.append(nn.Sequential(*layers))
        self.maps_from = len(network.channels) - network.maps
        looked_at = network.channels[self.maps_from :]
        self.scores = nn.ModuleList(_looks(width, each * self.depth) for width in looked_at)
        self.offsets = nn.ModuleList(_looks(width, each * 4) for width in looked_at)
        sides = map_sides(network, shape)
        # Not persistent: see rule 4.
        self.register_buffer("anchors", make_anchors(network, sides, shape), persistent=False)

    def raw(self, picture: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits (N, n, 1 + classes) and offsets (N, n, 4) of pictures (N, C, H, W)."""
        maps, seen = picture, []
        for stage in self.stages:
            maps = stage(maps)  # (N, channels[i], H / 2**(i + 1), W / 2**(i + 1))
            seen.append(maps)
        logits, offsets = [], []
        looked_at = zip(seen[self.maps_from :], self.scores, self.offsets, strict=True)
        for maps, scores_of, offsets_of in looked_at:
            logits.append(_rows(scores_of(maps), self.depth))
            offsets.append(_rows(offsets_of(maps), 4))
        return torch.cat(logits, 1), torch.cat(offsets, 1)

    def forward(self, picture: Tensor) -> tuple[Tensor, Tensor]:
        """Return scores (N, n, 1 + classes), each row's sum 1, and corners (N, n, 4) in shares.

        In training mode it returns `raw`: what trains it in parallel sees only this function.
        """
        logits, offsets = self.raw(picture)
        if self.training:
            return logits, offsets
        corners = decode_boxes(offsets, self.anchors, self.variances)
        return logits.softmax(2), corners


def encode_boxes(corners: Tensor, anchors: Tensor, variances: tuple[float, float]) -> Tensor:
    """Return the offsets (..., n, 4) that make of each anchor the box beside it; see rule 3.

    Args:
        corners: (..., n, 4), each with an area.
        anchors: (n, 4).
        variances: of centres, of sizes.
    """
    centres = (corners[..., :2] + corners[..., 2:]) / 2
    sizes = (corners[..., 2:] - corners[..., :2]).clamp(min=1e-6)
    moved = (centres - anchors[..., :2]) / anchors[..., 2:] / variances[0]
    grown = torch.log(sizes / anchors[..., 2:]) / variances[1]
    return torch.cat([moved, grown], -1)


def decode_boxes(offsets: Tensor, anchors: Tensor, variances: tuple[float, float]) -> Tensor:
    """Return corners (..., n, 4) of offsets (..., n, 4) from anchors (n, 4); see rule 3."""
    centres = anchors[..., :2] + offsets[..., :2] * variances[0] * anchors[..., 2:]
    growth = (offsets[..., 2:] * variances[1]).clamp(max=GROWTH_MAX)
    halves = anchors[..., 2:] * torch.exp(growth) / 2
    return torch.cat([centres - halves, centres + halves], -1)


def map_sides(network: SsdNetwork, shape: tuple[int, ...]) -> list[tuple[int, int]]:
    """Return rows and columns of each map that is looked at, the finest first.

    Raises ContractError `network.unfit` where the picture is too small to be halved so often.
    """
    height, width = shape[1], shape[2]
    sides = []
    for _ in network.channels:
        if min(height, width) < 2:
            raise ContractError(
                "network.unfit",
                f"This network does not fit the model: {len(network.channels)} halvings are too "
                f"many for {shape[1]}x{shape[2]}.",
                remedy="Give network.toml's architecture fewer channels.",
            )
        height, width = (height + 1) // 2, (width + 1) // 2
        sides.append((height, width))
    return sides[-network.maps :]


def make_anchors(
    network: SsdNetwork, sides: list[tuple[int, int]], shape: tuple[int, ...]
) -> Tensor:
    """Return anchors (n, 4) map by map, row by row, cell by cell; see rule 2.

    Scales are of the shorter side of the picture, evenly spaced (Liu et al. 2016, equation 4).
    """
    low, high = network.scales
    step = (high - low) / max(1, len(sides) - 1)
    scales = [low + step * index for index in range(len(sides) + 1)]
    short = min(shape[1:])
    rows = []
    for (height, width), scale, coarser in zip(sides, scales, scales[1:], strict=False):
        sizes = [(scale * math.sqrt(r), scale / math.sqrt(r)) for r in network.ratios]
        between = math.sqrt(scale * coarser)
        sizes.append((between, between))
        for row, column in itertools.product(range(height), range(width)):
            for wide, high_share in sizes:
                # Of the shorter side, to shares of each side: a square stays a square.
                size = (wide * short / shape[2], high_share * short / shape[1])
                rows.append(((column + 0.5) / width, (row + 0.5) / height, *size))
    return torch.tensor(rows, dtype=torch.float32)


def _looks(channels: int, outputs: int) -> nn.Module:
    """Return what reads each cell's anchors off a map (SSDLite): 3x3 depthwise, then 1x1."""
    depthwise = [*convolution(channels, channels, 3, groups=channels), nn.ReLU()]
    return nn.Sequential(*depthwise, nn.Conv2d(channels, outputs, 1))


def _rows(maps: Tensor, depth: int) -> Tensor:
    """Return (N, anchors * depth, H, W) as (N, H * W * anchors, depth)."""
    return torch.unflatten(maps.permute(0, 2, 3, 1).flatten(1), 1, (-1, depth))
