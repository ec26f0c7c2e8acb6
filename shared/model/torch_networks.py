"""Networks by NetworkSpec: the same on the devices that train and on the hub that exports.

1. Input (N, C, H, W) or (N, C, T) float32 as shared/model/preprocess.py makes it, channels first.
2. Output: logits (N, classes) for classification; the input's own shape for reconstruction; (N, 1)
   for a score.
3. Parameter names are part of the contract: weights are exchanged by name.
"""

import math
from typing import assert_never

import torch
from torch import Tensor, nn

from shared.errors import ContractError
from shared.model.network import (
    AutoencoderNetwork,
    ConvolutionNetwork,
    DenseNetwork,
    NetworkSpec,
    RecurrentNetwork,
    WindowNetwork,
)
from shared.model.spec import Decoder, Layout, ModelSpec


def build_network(network: NetworkSpec, spec: ModelSpec, *, seed: int = 0) -> nn.Module:
    """Return a network with freshly drawn weights, the same for the same seed.

    Raises ContractError `network.unfit` where the two specs do not go together.
    """
    shape = _channels_first(spec)
    random_state = torch.random.get_rng_state()
    torch.manual_seed(seed)
    try:
        match network.architecture:
            case ConvolutionNetwork() as cnn:
                return _convolutions(cnn, _require(shape, 3, "cnn", "images"), _outputs(spec))
            case DenseNetwork() as mlp:
                return _dense(mlp, shape, spec)
            case WindowNetwork() as conv1d:
                return _windows(conv1d, _require(shape, 2, "conv1d", "windows"), _outputs(spec))
            case RecurrentNetwork() as gru:
                return LastState(gru, _require(shape, 2, "gru", "windows"), _outputs(spec))
            case AutoencoderNetwork() as autoencoder:
                _require_reconstruction(spec)
                return _autoencoder(autoencoder, _require(shape, 2, "autoencoder", "windows"))
            case unknown:
                assert_never(unknown)
    finally:
        torch.random.set_rng_state(random_state)


class LastState(nn.Module):
    """A GRU whose last state is read by one linear layer."""

    def __init__(self, gru: RecurrentNetwork, shape: tuple[int, ...], outputs: int) -> None:
        super().__init__()
        self.recurrent = nn.GRU(shape[0], gru.hidden, num_layers=gru.layers, batch_first=True)
        self.head = nn.Linear(gru.hidden, outputs)

    def forward(self, window: Tensor) -> Tensor:
        """Return (N, outputs) of windows (N, C, T)."""
        states, _ = self.recurrent(window.transpose(1, 2))  # (N, T, hidden)
        return self.head(states[:, -1])  # type: ignore[no-any-return]  # nn.Module.__call__ is untyped


def _convolutions(cnn: ConvolutionNetwork, shape: tuple[int, ...], outputs: int) -> nn.Module:
    channels, height, width = shape
    layers: list[nn.Module] = []
    for wanted in cnn.channels:
        if height < 2 or width < 2:
            raise _unfit(f"{len(cnn.channels)} halvings are too many for {shape[1]}x{shape[2]}")
        layers.append(nn.Conv2d(channels, wanted, 3, padding=1))
        if cnn.has_batch_norm:
            layers.append(nn.BatchNorm2d(wanted))
        layers += [nn.ReLU(), nn.MaxPool2d(2)]
        channels, height, width = wanted, height // 2, width // 2
    return nn.Sequential(
        nn.Sequential(*layers),  # "0.": what sees
        _head(channels * height * width, cnn.hidden, outputs),  # "1.": what concludes
    )


def _windows(conv1d: WindowNetwork, shape: tuple[int, ...], outputs: int) -> nn.Module:
    channels, samples = shape
    layers: list[nn.Module] = []
    for wanted in conv1d.channels:
        layers.append(nn.Conv1d(channels, wanted, 5, stride=2, padding=2))
        if conv1d.has_batch_norm:
            layers.append(nn.BatchNorm1d(wanted))
        layers.append(nn.ReLU())
        channels, samples = wanted, (samples + 1) // 2
    return nn.Sequential(nn.Sequential(*layers), _head(channels * samples, conv1d.hidden, outputs))


def _head(inputs: int, hidden: int, outputs: int) -> nn.Module:
    return nn.Sequential(
        nn.Flatten(), nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, outputs)
    )


def _dense(mlp: DenseNetwork, shape: tuple[int, ...], spec: ModelSpec) -> nn.Module:
    size = math.prod(shape)
    is_reconstruction = spec.output.decoder is Decoder.RECONSTRUCTION
    widths = (size, *mlp.hidden, size if is_reconstruction else _outputs(spec))
    layers: list[nn.Module] = [nn.Flatten()]
    for index in range(len(widths) - 1):
        layers.append(nn.Linear(widths[index], widths[index + 1]))
        if index < len(widths) - 2:
            layers.append(nn.ReLU())
    if is_reconstruction:
        layers.append(nn.Unflatten(1, shape))
    return nn.Sequential(*layers)


def _autoencoder(autoencoder: AutoencoderNetwork, shape: tuple[int, ...]) -> nn.Module:
    channels, samples = shape
    layers: list[nn.Module] = []
    for wanted in autoencoder.channels:
        layers += [nn.Conv1d(channels, wanted, 5, stride=2, padding=2), nn.ReLU()]
        channels, samples = wanted, (samples + 1) // 2
    size = channels * samples
    return nn.Sequential(
        nn.Sequential(*layers),
        nn.Sequential(nn.Flatten(), nn.Linear(size, autoencoder.narrow)),
        nn.Sequential(
            nn.Linear(autoencoder.narrow, size),
            nn.ReLU(),
            nn.Linear(size, math.prod(shape)),
            nn.Unflatten(1, shape),
        ),
    )


def _channels_first(spec: ModelSpec) -> tuple[int, ...]:
    """Return one item's shape, without the batch axis. Raises ContractError `network.unfit`."""
    if spec.input.layout is not Layout.CHANNELS_FIRST:
        raise _unfit("input.layout must be channels-first for models that are trained here")
    return spec.input_shape[1:]


def _outputs(spec: ModelSpec) -> int:
    match spec.output.decoder:
        case Decoder.LOGITS:
            return len(spec.output.classes)
        case Decoder.SCORE:
            return 1
        case decoder:
            raise _unfit(f"no network here puts out what decoder {decoder!r} reads")


def _require(shape: tuple[int, ...], axes: int, kind: str, wanted: str) -> tuple[int, ...]:
    if len(shape) != axes:
        raise _unfit(f"architecture {kind!r} takes {wanted}")
    return shape


def _require_reconstruction(spec: ModelSpec) -> None:
    if spec.output.decoder is not Decoder.RECONSTRUCTION:
        raise _unfit("architecture 'autoencoder' needs output.decoder = 'reconstruction'")


def _unfit(text: str) -> ContractError:
    return ContractError(
        "network.unfit",
        f"This network does not fit the model: {text}.",
        remedy="Change network.toml's architecture or the model's spec.",
    )
