"""Members of the model zoo at small sizes, each with a model that it fits."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

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
from shared.model.preprocess import to_bytes, to_tensor
from shared.model.spec import (
    Colour,
    Decoder,
    ImageInput,
    ModelSpec,
    OutputSpec,
    Task,
    TextInput,
    WindowInput,
)

CLASSES = ("a", "b", "c")
RESNET_18 = ResidualNetwork(blocks=(2, 2, 2, 2), widths=(64, 128, 256, 512))
WORDS = ("the bearing hums", "oil", "it grinds and grinds, louder every day", "")


def model(
    given: ImageInput | WindowInput | TextInput,
    decoder: Decoder = Decoder.LOGITS,
    classes: tuple[str, ...] = CLASSES,
) -> ModelSpec:
    """Return a model of this input and decoder."""
    task = {
        Decoder.SSD_CORNERS: Task.DETECTION,
        Decoder.RECONSTRUCTION: Task.ANOMALY,
        Decoder.SCORE: Task.ANOMALY,
    }.get(decoder, Task.CLASSIFICATION)
    output = OutputSpec(decoder=decoder, classes=() if task is Task.ANOMALY else classes)
    return ModelSpec(model="zoo", task=task, input=given, output=output)


def image(width: int, height: int, colour: Colour = Colour.GRAY) -> ImageInput:
    """Return a picture's input, scaled to -1..1."""
    return ImageInput(width=width, height=height, colour=colour, mean=(127.5,), scale=(127.5,))


@dataclass(frozen=True, slots=True)
class Member:
    """One network and its model."""

    name: str
    architecture: Architecture
    spec: ModelSpec

    @property
    def network(self) -> NetworkSpec:
        """Return the whole NetworkSpec."""
        return NetworkSpec(architecture=self.architecture)


GRAY = model(image(28, 28))
SMALL = model(image(18, 15, Colour.RGB))
WINDOWS = model(WindowInput(samples=50, channels=3))
TEXTS = model(TextInput(length=30))
REPAIRED = model(image(18, 15, Colour.RGB), Decoder.RECONSTRUCTION)

CLASSIFIERS = (
    Member("cnn", ConvolutionNetwork(has_batch_norm=True), SMALL),
    Member("mlp", DenseNetwork(hidden=(16, 8)), SMALL),
    Member("conv1d", WindowNetwork(has_batch_norm=True), WINDOWS),
    Member("gru", RecurrentNetwork(), WINDOWS),
    Member("lenet", LenetNetwork(), GRAY),
    Member("lenet-small", LenetNetwork(), SMALL),
    Member("resnet-8", ResidualNetwork(), SMALL),
    Member("resnet-large-stem", ResidualNetwork(blocks=(1, 1), widths=(8, 12), stem="large"), GRAY),
    Member("mobilenet-v2", MobileNetwork(), SMALL),
    Member("ds-cnn", DepthwiseNetwork(channels=16), SMALL),
    Member("ds-cnn-windows", DepthwiseNetwork(channels=16), WINDOWS),
    Member("transformer-windows", TransformerNetwork(width=16, heads=2, layers=1), WINDOWS),
    Member("transformer-texts", TransformerNetwork(width=16, heads=2, layers=1), TEXTS),
    Member(
        "ensemble", EnsembleNetwork(members=(LenetNetwork(), DepthwiseNetwork(channels=8))), GRAY
    ),
)
RECONSTRUCTING = (
    Member("autoencoder-images", AutoencoderNetwork(channels=(8, 12), narrow=16), REPAIRED),
    Member("repair", RepairNetwork(channels=(8, 12, 16)), REPAIRED),
    Member("repair-narrow", RepairNetwork(channels=(8, 12, 4), has_skips=False), REPAIRED),
)
DETECTOR = Member(
    "ssd",
    SsdNetwork(channels=(8, 12, 16, 16), maps=2),
    model(image(40, 32), Decoder.SSD_CORNERS, ("nut", "bolt")),
)
ZOO = (*CLASSIFIERS, *RECONSTRUCTING, DETECTOR)


def draw(spec: ModelSpec, count: int, *, seed: int = 0) -> Tensor:
    """Return `count` items as the model takes them, (count, ...); one text is empty."""
    if isinstance(spec.input, TextInput):
        texts = [to_tensor(to_bytes(WORDS[index % len(WORDS)]), spec) for index in range(count)]
        return torch.from_numpy(np.concatenate(texts))
    random = torch.Generator().manual_seed(seed)
    return torch.randn(count, *spec.input_shape[1:], generator=random)


def seasoned(module: nn.Module, spec: ModelSpec) -> nn.Module:
    """Return a network with statistics in its norms and numbers as training leaves them."""
    module.train()
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if "norm" not in name and parameter.dim() > 1:
                parameter.mul_(1.5)
        for seed in range(30):
            module(draw(spec, 16, seed=seed))
    return module.eval()
