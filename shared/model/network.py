"""NetworkSpec: which architecture a model's weights belong to. A name and numbers, never code.

1. A hub sends a device a NetworkSpec and weights; the network itself is built from what is
   installed there (torch_networks.py). Nothing that a hub sends is ever executed.
2. Input and output shapes follow from the ModelSpec; a NetworkSpec only says what lies between.
3. A parameter whose name begins with one of `personal` stays on its device: it is trained there
   and never sent (Arivazhagan et al. 2019, FedPer; Li et al. 2021, FedBN).
"""

from typing import Annotated

from msgspec import Meta

from shared.settings import Settings, parse_toml

Width = Annotated[int, Meta(ge=1, le=4096)]
Widths = Annotated[tuple[Width, ...], Meta(min_length=1, max_length=16)]
Prefix = Annotated[str, Meta(min_length=1, max_length=120)]
PERSONAL_MAX = 32


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


class AutoencoderNetwork(Settings, frozen=True, tag="autoencoder", tag_field="kind"):
    """Sensor windows to themselves, through `narrow` numbers; its error is the anomaly score."""

    channels: Widths = (8, 4)
    narrow: Width = 6


Architecture = (
    ConvolutionNetwork | DenseNetwork | WindowNetwork | RecurrentNetwork | AutoencoderNetwork
)


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
