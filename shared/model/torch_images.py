"""Image classifiers of the zoo: LeNet, ResNet, MobileNetV2, DS-CNN.

1. A classifier is `body`, which gives (N, features), and `head`, one linear layer.
2. They take pictures of any size: sides are halved less often where a picture is small, and what is
   left of them is averaged.
3. A convolution before a norm has no bias: the norm has one.
"""

from collections import OrderedDict

from torch import Tensor, nn
from torch.nn import functional

from shared.errors import ContractError
from shared.model.network import (
    DepthwiseNetwork,
    LenetNetwork,
    MobileNetwork,
    ResidualNetwork,
    Stem,
)

LARGE_SIDE_MIN = 96  # Shorter sides from here on are halved at once
LENET_SIDE = 5  # Rows and columns that LeNet's linear layers see
DEPTHWISE_SIDE_MAX = 28  # DS-CNN works on maps up to here: the paper's are 25 x 5
PICTURE_KERNEL = (5, 5)
WINDOW_KERNEL = (4, 10)  # Channels, samples
DIVISOR = 8  # MobileNetV2's channels are multiples of it
# Of MobileNetV2, table 2: expansion t, channels c, repeats n, stride s
MOBILE_STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
MOBILE_FEATURES = 1280

Shape = tuple[int, ...]  # Of one item: (C, H, W) or (C, T)


def classifier(body: nn.Module, features: int, outputs: int) -> nn.Module:
    """Return `body` with its head; see rule 1."""
    return nn.Sequential(OrderedDict(body=body, head=nn.Linear(features, outputs)))


def lenet(network: LenetNetwork, shape: Shape, outputs: int) -> nn.Module:
    """Return LeNet-5. The second pooling makes 5 x 5 of what it is given, whatever its size."""
    channels, height, width = shape
    first, second = network.channels
    if min(height, width) < 2:
        raise ContractError(
            "network.unfit",
            f"This network does not fit the model: LeNet cannot halve {height}x{width}.",
            remedy="Use pictures of at least 2 x 2 pixels.",
        )
    # 28 x 28 is padded to the paper's 32 x 32; no padding of the second layer, unless it must be.
    height, width = height // 2, width // 2
    padding = 0 if min(height, width) >= LENET_SIDE + 4 else 2
    height, width = height + 2 * padding - 4, width + 2 * padding - 4
    layers: list[nn.Module] = [
        nn.Conv2d(channels, first, 5, padding=2),  # (N, 6, H, W)
        nn.ReLU(),
        nn.MaxPool2d(2),  # (N, 6, H/2, W/2)
        nn.Conv2d(first, second, 5, padding=padding),
        nn.ReLU(),
        nn.MaxPool2d(*_pooled(height, width)),  # (N, 16, 5, 5)
        nn.Flatten(),
    ]
    features = second * min(height, LENET_SIDE) * min(width, LENET_SIDE)
    for hidden in network.hidden:
        layers += [nn.Linear(features, hidden), nn.ReLU()]
        features = hidden
    return classifier(nn.Sequential(*layers), features, outputs)


def resnet(network: ResidualNetwork, shape: Shape, outputs: int) -> nn.Module:
    """Return a ResNet of basic blocks."""
    channels = network.widths[0]
    layers: list[nn.Module] = []
    if is_large(network.stem, shape):
        layers += [*convolution(shape[0], channels, 7, stride=2), nn.ReLU()]  # (N, w, H/2, W/2)
        layers.append(nn.MaxPool2d(3, 2, padding=1))  # (N, w, H/4, W/4)
    else:
        layers += [*convolution(shape[0], channels, 3), nn.ReLU()]  # (N, w, H, W)
    for stage, (blocks, width) in enumerate(zip(network.blocks, network.widths, strict=True)):
        for block in range(blocks):
            stride = 2 if stage and not block else 1  # Each stage but the first halves the sides
            layers.append(ResidualBlock(channels, width, stride=stride))
            channels = width
    return classifier(nn.Sequential(*layers, *_averaged()), channels, outputs)


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut: relu(f(x) + x)."""

    def __init__(self, channels: int, width: int, *, stride: int) -> None:
        super().__init__()
        self.inner = nn.Sequential(
            *convolution(channels, width, 3, stride=stride),
            nn.ReLU(),
            *convolution(width, width, 3),
        )
        is_same = stride == 1 and channels == width
        # The paper's option B: a 1x1 convolution where the shapes differ.
        self.shortcut = (
            nn.Identity()
            if is_same
            else nn.Sequential(*convolution(channels, width, 1, stride=stride))
        )

    def forward(self, maps: Tensor) -> Tensor:
        """Return (N, width, H/stride, W/stride) of (N, channels, H, W)."""
        return functional.relu(self.inner(maps) + self.shortcut(maps))


def mobilenet(network: MobileNetwork, shape: Shape, outputs: int) -> nn.Module:
    """Return MobileNetV2. A small picture is halved three times instead of five."""
    is_halved = is_large(network.stem, shape)
    channels = divisible(32 * network.width)
    stem = convolution(shape[0], channels, 3, stride=2 if is_halved else 1)
    layers: list[nn.Module] = [*stem, nn.ReLU6()]
    for stage, (expansion, wanted, repeats, stage_stride) in enumerate(MOBILE_STAGES):
        width = divisible(wanted * network.width)
        for repeat in range(repeats):
            stride = 1 if repeat or (stage == 1 and not is_halved) else stage_stride
            layers.append(InvertedResidual(channels, width, stride=stride, expansion=expansion))
            channels = width
    # The paper keeps the last layer as wide as it is for multipliers below 1.
    features = divisible(MOBILE_FEATURES * max(1.0, network.width))
    layers += [*convolution(channels, features, 1), nn.ReLU6(), *_averaged()]
    return classifier(nn.Sequential(*layers), features, outputs)


class InvertedResidual(nn.Module):
    """Widen, filter each channel alone, narrow without a ReLU (Sandler et al. 2018, figure 4)."""

    def __init__(self, channels: int, width: int, *, stride: int, expansion: int) -> None:
        super().__init__()
        self.has_shortcut = stride == 1 and channels == width
        inner = channels * expansion
        layers: list[nn.Module] = []
        if expansion > 1:
            layers += [*convolution(channels, inner, 1), nn.ReLU6()]
        layers += [*convolution(inner, inner, 3, stride=stride, groups=inner), nn.ReLU6()]
        layers += convolution(inner, width, 1)
        self.inner = nn.Sequential(*layers)

    def forward(self, maps: Tensor) -> Tensor:
        """Return (N, width, H/stride, W/stride) of (N, channels, H, W)."""
        changed: Tensor = self.inner(maps)
        return maps + changed if self.has_shortcut else changed


def ds_cnn(network: DepthwiseNetwork, shape: Shape, outputs: int) -> nn.Module:
    """Return DS-CNN: one convolution, then depthwise separable ones of the same width."""
    is_window = len(shape) == 2
    channels, rows, columns = (1, *shape) if is_window else shape
    kernel = PICTURE_KERNEL
    if is_window:
        kernel = network.kernel[::-1] if network.kernel else WINDOW_KERNEL
    elif network.kernel:
        kernel = network.kernel
    width = network.channels
    padding = (kernel[0] // 2, kernel[1] // 2)
    layers: list[nn.Module] = [nn.Unflatten(1, (1, shape[0]))] if is_window else []  # (N, 1, C, T)
    layers += [
        nn.Conv2d(channels, width, kernel, stride=2, padding=padding, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
    ]
    side = -(-max(rows, columns) // 2)
    for _ in range(network.blocks):
        stride = 2 if side > DEPTHWISE_SIDE_MAX else 1
        layers += separable(width, width, stride=stride)
        side = -(-side // stride)
    return classifier(nn.Sequential(*layers, *_averaged()), width, outputs)


def separable(channels: int, width: int, *, stride: int = 1) -> list[nn.Module]:
    """Return a depthwise separable convolution: each channel alone, then 1x1 across them."""
    return [
        *convolution(channels, channels, 3, stride=stride, groups=channels),
        nn.ReLU(),
        *convolution(channels, width, 1),
        nn.ReLU(),
    ]


def is_large(stem: Stem, shape: Shape) -> bool:
    """Whether a picture is halved as it is taken in."""
    if stem is Stem.AUTO:
        return min(shape[1:]) >= LARGE_SIDE_MIN
    return stem is Stem.LARGE


def divisible(channels: float) -> int:
    """Return the nearest multiple of 8, at most a tenth below, as the paper's code does."""
    nearest = max(DIVISOR, int(channels + DIVISOR / 2) // DIVISOR * DIVISOR)
    return nearest if nearest >= 0.9 * channels else nearest + DIVISOR


def convolution(
    channels: int, width: int, kernel: int, *, stride: int = 1, groups: int = 1
) -> list[nn.Module]:
    """Return a convolution that keeps the sides (over the stride), and its norm."""
    padding = kernel // 2
    return [
        nn.Conv2d(channels, width, kernel, stride, padding, groups=groups, bias=False),
        nn.BatchNorm2d(width),
    ]


def _averaged() -> list[nn.Module]:
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten()]  # (N, C)


def _pooled(height: int, width: int) -> tuple[Shape, Shape]:
    """Return kernel and stride that make LENET_SIDE rows and columns of these, or leave fewer."""
    strides = tuple(max(1, side // LENET_SIDE) for side in (height, width))
    kept = tuple(min(side, LENET_SIDE) for side in (height, width))
    kernel = tuple(
        side - (count - 1) * stride
        for side, count, stride in zip((height, width), kept, strides, strict=True)
    )
    return kernel, strides
