"""Networks by NetworkSpec: the same on the devices that train and on the hub that exports.

1. Input (N, C, H, W) or (N, C, T) float32, or (N, L) int64, as shared/model/preprocess.py makes
   them, channels first.
2. Output: logits (N, classes) for classification; the input's own shape for reconstruction; (N, 1)
   for a score; for detection see torch_detector.py.
3. Parameter names are part of the contract: weights are exchanged by name.
4. The newer kinds have `body` and `head`; `head_prefix` says where any kind has its last layer.
"""

import math
from typing import assert_never

import torch
from torch import Tensor, nn

from shared.errors import ContractError
from shared.model.network import (
    Architecture,
    AutoencoderNetwork,
    ConvolutionNetwork,
    DenseNetwork,
    DepthwiseNetwork,
    EnsembleNetwork,
    LenetNetwork,
    MobileNetwork,
    NetworkSpec,
    RecurrentNetwork,
    RepairNetwork,
    ResidualNetwork,
    SsdNetwork,
    TransformerNetwork,
    WindowNetwork,
)
from shared.model.spec import Decoder, ImageInput, Layout, ModelSpec, TextInput, Tokenizer
from shared.model.torch_detector import DetectorNetwork
from shared.model.torch_generative import RepairGenerator, image_autoencoder, window_autoencoder
from shared.model.torch_images import ds_cnn, lenet, mobilenet, resnet
from shared.model.torch_sequences import LastState, text_transformer, window_transformer

IMAGE, WINDOW, TEXT = 3, 2, 1  # Axes of one item
AXES_NAMES = {IMAGE: "images", WINDOW: "windows", TEXT: "texts"}


def build_network(network: NetworkSpec, spec: ModelSpec, *, seed: int = 0) -> nn.Module:
    """Return a network with freshly drawn weights, the same for the same seed.

    Raises ContractError `network.unfit` where the two specs do not go together.
    """
    random_state = torch.random.get_rng_state()
    torch.manual_seed(seed)
    try:
        return _build(network.architecture, _channels_first(spec), spec)
    finally:
        torch.random.set_rng_state(random_state)


def head_prefix(network: NetworkSpec, spec: ModelSpec) -> str:
    """Return how the names of the last layer's parameters begin: "head.", say.

    That layer is drawn anew where classes change. For a detector it is what scores classes.
    Raises ContractError `network.headless` where there is no such layer, or more than one.
    """
    match network.architecture:
        case ConvolutionNetwork() | WindowNetwork():
            return "1.3."
        case DenseNetwork(hidden=hidden) if spec.output.decoder is not Decoder.RECONSTRUCTION:
            return f"{2 * len(hidden) + 1}."  # After Flatten, each hidden layer with its ReLU
        case (
            RecurrentNetwork()
            | LenetNetwork()
            | ResidualNetwork()
            | MobileNetwork()
            | DepthwiseNetwork()
            | TransformerNetwork()
        ):
            return "head."
        case SsdNetwork():
            return "scores."
        case DenseNetwork() | AutoencoderNetwork() | RepairNetwork():
            why = "it puts out its own input, whatever the classes"
        case EnsembleNetwork():
            why = "each of its members has its own"
        case unknown:
            assert_never(unknown)
    raise ContractError(
        "network.headless",
        f"This network has no last layer to be drawn anew: {why}.",
        remedy="Start from all of the weights, or from none.",
    )


class Ensemble(nn.Module):
    """Several networks as one: log of the mean of their probabilities, or the mean of scores."""

    def __init__(self, members: list[nn.Module], decoder: Decoder) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self.is_classifier = decoder is Decoder.LOGITS

    def forward(self, items: Tensor) -> Tensor:
        """Return (N, outputs); for classes logits whose softmax is the mean of the members'."""
        # (members, N, outputs); fp32, also in autocast: members may be nearly of one mind
        outputs = torch.stack([member(items).float() for member in self.members])
        if not self.is_classifier:
            return outputs.mean(0)
        return outputs.log_softmax(2).logsumexp(0) - math.log(len(self.members))


def _build(architecture: Architecture, shape: tuple[int, ...], spec: ModelSpec) -> nn.Module:
    match architecture:
        case ConvolutionNetwork() as cnn:
            return _convolutions(cnn, _require(shape, "cnn", IMAGE), _outputs(spec))
        case DenseNetwork() as mlp:
            return _dense(mlp, _require(shape, "mlp", IMAGE, WINDOW), spec)
        case WindowNetwork() as conv1d:
            return _windows(conv1d, _require(shape, "conv1d", WINDOW), _outputs(spec))
        case RecurrentNetwork() as gru:
            return LastState(gru, _require(shape, "gru", WINDOW), _outputs(spec))
        case LenetNetwork():
            return lenet(architecture, _require(shape, "lenet", IMAGE), _outputs(spec))
        case ResidualNetwork():
            return resnet(architecture, _require(shape, "resnet", IMAGE), _outputs(spec))
        case MobileNetwork():
            return mobilenet(architecture, _require(shape, "mobilenet-v2", IMAGE), _outputs(spec))
        case DepthwiseNetwork():
            return ds_cnn(architecture, _require(shape, "ds-cnn", IMAGE, WINDOW), _outputs(spec))
        case TransformerNetwork():
            shape = _require(shape, "transformer", WINDOW, TEXT)
            if isinstance(spec.input, TextInput):
                if spec.input.tokenizer is not Tokenizer.BYTES:
                    raise _unfit("input.tokenizer must be bytes for models that are trained here")
                return text_transformer(architecture, shape[0], _outputs(spec))
            return window_transformer(architecture, shape, _outputs(spec))
        case SsdNetwork():
            _require_decoder(spec, "ssd", Decoder.SSD_CORNERS)
            shape = _require(shape, "ssd", IMAGE)
            return DetectorNetwork(architecture, shape, len(spec.output.classes))
        case AutoencoderNetwork():
            _require_decoder(spec, "autoencoder", Decoder.RECONSTRUCTION)
            shape = _require(shape, "autoencoder", IMAGE, WINDOW)
            if isinstance(spec.input, ImageInput):
                return image_autoencoder(architecture, shape)
            return window_autoencoder(architecture, shape)
        case RepairNetwork():
            _require_decoder(spec, "repair", Decoder.RECONSTRUCTION)
            return RepairGenerator(architecture, _require(shape, "repair", IMAGE))
        case EnsembleNetwork():
            _outputs(spec)  # Nothing else can be averaged
            members = [_build(member, shape, spec) for member in architecture.members]
            return Ensemble(members, spec.output.decoder)
        case unknown:
            assert_never(unknown)


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


def _channels_first(spec: ModelSpec) -> tuple[int, ...]:
    """Return one item's shape, without the batch axis. Raises ContractError `network.unfit`."""
    if not isinstance(spec.input, TextInput) and spec.input.layout is not Layout.CHANNELS_FIRST:
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


def _require(shape: tuple[int, ...], kind: str, *axes: int) -> tuple[int, ...]:
    if len(shape) not in axes:
        wanted = " or ".join(AXES_NAMES[each] for each in axes)
        raise _unfit(f"architecture {kind!r} takes {wanted}, not {AXES_NAMES[len(shape)]}")
    return shape


def _require_decoder(spec: ModelSpec, kind: str, decoder: Decoder) -> None:
    if spec.output.decoder is not decoder:
        raise _unfit(f"architecture {kind!r} needs output.decoder = {decoder.value!r}")


def _unfit(text: str) -> ContractError:
    return ContractError(
        "network.unfit",
        f"This network does not fit the model: {text}.",
        remedy="Change network.toml's architecture or the model's spec.",
    )
