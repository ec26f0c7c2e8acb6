"""NetworkSpec: which architecture a model's weights belong to. A name and numbers, never code.

1. A hub sends a device a NetworkSpec and weights; the network itself is built from what is
   installed there (torch_networks.py). Nothing that a hub sends is ever executed.
2. Input and output shapes follow from the ModelSpec; a NetworkSpec only says what lies between.
3. A parameter whose name begins with one of `personal` stays on its device: it is trained there
   and never sent (Arivazhagan et al. 2019, FedPer; Li et al. 2021, FedBN).
4. Defaults are small enough for the devices this is for; each docstring says what else is usual.
"""

from enum import StrEnum
from typing import Annotated

from msgspec import Meta

from shared.settings import Settings, parse_toml

Width = Annotated[int, Meta(ge=1, le=4096)]
Widths = Annotated[tuple[Width, ...], Meta(min_length=1, max_length=16)]
Prefix = Annotated[str, Meta(min_length=1, max_length=120)]
PERSONAL_MAX = 32
MEMBERS_MAX = 8

Count = Annotated[int, Meta(ge=1, le=64)]
Kernel = Annotated[int, Meta(ge=1, le=31)]
Ratio = Annotated[float, Meta(gt=0.0, le=20.0)]
PartOfSide = Annotated[float, Meta(gt=0.0, le=1.0)]


class Stem(StrEnum):
    """How a picture is taken in."""

    AUTO = "auto"  # Large where the shorter side has 96 pixels or more
    SMALL = "small"  # At full size, as for CIFAR
    LARGE = "large"  # Halved at once, as for ImageNet


class ConvolutionNetwork(Settings, frozen=True, tag="cnn", tag_field="kind"):
    """Images: 3x3 convolutions, each halving the sides, then one hidden linear layer."""

    channels: Widths = (16, 32)
    hidden: Width = 64
    has_batch_norm: bool = False


class DenseNetwork(Settings, frozen=True, tag="mlp", tag_field="kind"):
    """Any input, flattened: linear layers with ReLU between."""

    hidden: Widths = (64,)


class WindowNetwork(Settings, frozen=True, tag="conv1d", tag_field="kind"):
    """Sensor windows: strided 1-D convolutions, then one hidden linear layer."""

    channels: Widths = (16, 32)
    hidden: Width = 32
    has_batch_norm: bool = False


class RecurrentNetwork(Settings, frozen=True, tag="gru", tag_field="kind"):
    """Sensor windows: a GRU over time, and one linear layer on its last state."""

    hidden: Width = 32
    layers: Annotated[int, Meta(ge=1, le=4)] = 1


class LenetNetwork(Settings, frozen=True, tag="lenet", tag_field="kind"):
    """Images: LeNet-5 (LeCun et al. 1998), with ReLU and maximum pooling."""

    channels: tuple[Width, Width] = (6, 16)
    hidden: Widths = (120, 84)


class ResidualNetwork(Settings, frozen=True, tag="resnet", tag_field="kind"):
    """Images: residual blocks (He et al. 2016), `blocks[i]` of them `widths[i]` channels wide.

    The default is ResNet-8 as in MLPerf Tiny. ResNet-18: blocks = [2, 2, 2, 2],
    widths = [64, 128, 256, 512].
    """

    blocks: Annotated[tuple[Count, ...], Meta(min_length=1, max_length=6)] = (1, 1, 1)
    widths: Annotated[tuple[Width, ...], Meta(min_length=1, max_length=6)] = (16, 32, 64)
    stem: Stem = Stem.AUTO

    def __post_init__(self) -> None:
        """Refuse what the types cannot."""
        if len(self.blocks) != len(self.widths):
            raise ValueError("blocks and widths must be equally many")


class MobileNetwork(Settings, frozen=True, tag="mobilenet-v2", tag_field="kind"):
    """Images: MobileNetV2 (Sandler et al. 2018). Usual widths: 0.35, 0.5, 0.75, 1.0."""

    width: Annotated[float, Meta(ge=0.1, le=2.0)] = 0.35
    stem: Stem = Stem.AUTO


class DepthwiseNetwork(Settings, frozen=True, tag="ds-cnn", tag_field="kind"):
    """Images, or windows seen as pictures of time by channel: DS-CNN (Zhang et al. 2017).

    `kernel` is the first convolution's: rows and columns of a picture, samples and channels of a
    window. None: 5 x 5 for pictures, the paper's 10 x 4 for windows.
    """

    channels: Width = 64
    blocks: Count = 4
    kernel: tuple[Kernel, Kernel] | None = None


class SsdNetwork(Settings, frozen=True, tag="ssd", tag_field="kind"):
    """Images to boxes: SSD (Liu et al. 2016) on depthwise convolutions (SSDLite, Sandler et al.).

    Each of `channels` halves the sides; the last `maps` of them are looked at for objects. Anchors
    are `scales` of the side, from the finest map to the coarsest, at each of `ratios` (width to
    height), and one more between two scales.
    """

    channels: Widths = (16, 32, 64, 96, 128)
    maps: Annotated[int, Meta(ge=1, le=6)] = 3
    ratios: Annotated[tuple[Ratio, ...], Meta(min_length=1, max_length=8)] = (1.0, 2.0, 0.5)
    scales: tuple[PartOfSide, PartOfSide] = (0.15, 0.75)

    def __post_init__(self) -> None:
        """Refuse what the types cannot."""
        if self.maps > len(self.channels):
            raise ValueError("maps must not be more than channels")
        if self.scales[0] > self.scales[1]:
            raise ValueError("scales must be the smallest, then the largest")


class TransformerNetwork(Settings, frozen=True, tag="transformer", tag_field="kind"):
    """Windows and texts: a Transformer encoder (Vaswani et al. 2017), norms first.

    `patch` samples, or bytes, make one token.
    """

    width: Width = 64
    layers: Annotated[int, Meta(ge=1, le=24)] = 2
    heads: Annotated[int, Meta(ge=1, le=32)] = 4
    patch: Annotated[int, Meta(ge=1, le=256)] = 4

    def __post_init__(self) -> None:
        """Refuse what the types cannot."""
        if self.width % self.heads:
            raise ValueError("width must be a multiple of heads")


class AutoencoderNetwork(Settings, frozen=True, tag="autoencoder", tag_field="kind"):
    """Windows or images to themselves, through `narrow` numbers; its error is the anomaly score."""

    channels: Widths = (8, 4)
    narrow: Width = 6


class RepairNetwork(Settings, frozen=True, tag="repair", tag_field="kind"):
    """Images to images: an encoder and a decoder, each of `channels` after the first a halving.

    With `has_skips` it is a small U-Net (Ronneberger et al. 2015), for restoring pictures. Without,
    all must pass the narrowest part: for anomaly scores, where skips would let a fault through.
    """

    channels: Widths = (16, 32, 64)
    has_skips: bool = True


Member = (
    ConvolutionNetwork
    | DenseNetwork
    | WindowNetwork
    | RecurrentNetwork
    | LenetNetwork
    | ResidualNetwork
    | MobileNetwork
    | DepthwiseNetwork
    | TransformerNetwork
)


class EnsembleNetwork(Settings, frozen=True, tag="ensemble", tag_field="kind"):
    """Several networks of one task as one: the mean of their probabilities, or of their scores."""

    members: Annotated[tuple[Member, ...], Meta(min_length=2, max_length=MEMBERS_MAX)]


Architecture = Member | SsdNetwork | AutoencoderNetwork | RepairNetwork | EnsembleNetwork


class NetworkSpec(Settings, frozen=True):
    """The whole file (TOML)."""

    architecture: Architecture
    personal: Annotated[tuple[Prefix, ...], Meta(max_length=PERSONAL_MAX)] = ()

    def is_personal(self, name: str) -> bool:
        """Whether a parameter stays on its device; see rule 3."""
        return name.startswith(self.personal) if self.personal else False


def parse_network(data: bytes, *, name: str = "network.toml") -> NetworkSpec:
    """Return TOML bytes as a NetworkSpec. Raises ContractError `config.invalid`."""
    return parse_toml(data, NetworkSpec, name=name)
