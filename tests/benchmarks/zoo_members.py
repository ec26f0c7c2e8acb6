"""The members of the model zoo that bench_quantize.py measures, and what each learns from.

What must not live here: training, and what is measured.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import msgspec

from cloud_hub.datasets.dataset import DatasetVersion
from cloud_hub.training.trainer.spec import Augmentation, OptimiserName, Precision, Recipe
from shared.model.network import (
    Architecture,
    AutoencoderNetwork,
    DepthwiseNetwork,
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
from tests.benchmarks import zoo_data
from tests.benchmarks.workshop import Workshop

QUICK_SHARE = 0.1
TEXT_BYTES = 64
PIXEL_MEAN, PIXEL_DEVIATION = 72.94, 90.02  # Of Fashion-MNIST's training items
AIR_ROWS, AIR_STATIONS = 35_064, 3  # Four years
AIR_ROWS_QUICK = 12_000
NAB_STRIDE, NAB_STRIDE_QUICK = 8, 64

SGD = Recipe(batch=64, learning_rate=0.05, threads=1, precision=Precision.FP32)
ADAM = msgspec.structs.replace(
    SGD, optimiser=OptimiserName.ADAMW, learning_rate=2e-3, weight_decay=0.01
)
MOVED = Augmentation(shift=0.07, has_flip=True)


@dataclass(frozen=True, slots=True)
class Member:
    """One network on its data."""

    name: str
    data: str
    architecture: Architecture
    recipe: Recipe

    def network(self) -> NetworkSpec:
        """Return the whole NetworkSpec."""
        return NetworkSpec(architecture=self.architecture)


def _sgd(epochs: float, **more: Any) -> Recipe:
    return msgspec.structs.replace(SGD, epochs=epochs, **more)


def _adam(epochs: float, **more: Any) -> Recipe:
    return msgspec.structs.replace(ADAM, epochs=epochs, **more)


MEMBERS = (
    Member("lenet", "images", LenetNetwork(), _sgd(8.0, augmentation=MOVED)),
    Member("resnet-8", "images", ResidualNetwork(), _sgd(5.0, augmentation=MOVED)),
    Member("ds-cnn", "images", DepthwiseNetwork(), _sgd(5.0, augmentation=MOVED)),
    Member("mobilenet-v2", "images", MobileNetwork(), _sgd(4.0, augmentation=MOVED)),
    Member("conv1d", "air", WindowNetwork(has_batch_norm=True), _adam(15.0)),
    Member("gru", "air", RecurrentNetwork(hidden=64), _adam(15.0)),
    Member("transformer-windows", "air", TransformerNetwork(width=32, patch=2), _adam(12.0)),
    Member("transformer-texts", "sentences", TransformerNetwork(), _adam(12.0)),
    Member("autoencoder", "daily", AutoencoderNetwork(channels=(16, 8), narrow=8), _adam(30.0)),
    Member("repair", "trousers", RepairNetwork(channels=(8, 16, 4), has_skips=False), _adam(10.0)),
    Member("ssd", "scenes", SsdNetwork(channels=(16, 32, 48, 64), maps=2), _adam(20.0)),
)


@dataclass(frozen=True, slots=True)
class Source:
    """A dataset version, and the spec of what is learned from it."""

    version: DatasetVersion
    spec: ModelSpec


class Sources:
    """Imports what members ask for, once each."""

    def __init__(self, workshop: Workshop, folder: Path, *, is_quick: bool) -> None:
        self._workshop, self._folder, self._is_quick = workshop, folder, is_quick
        self._made: dict[str, Source] = {}
        self._fashion: zoo_data.Fashion | None = None
        self._makers: Mapping[str, Callable[[Path], Source]] = MappingProxyType(
            {
                "images": self._images,
                "air": self._air,
                "sentences": self._sentences,
                "daily": self._daily,
                "trousers": self._trousers,
                "scenes": self._scenes,
            }
        )

    def get(self, name: str) -> Source:
        """Return the dataset of that name."""
        if name not in self._made:
            self._made[name] = self._makers[name](self._folder / name)
        return self._made[name]

    def _images(self, path: Path) -> Source:
        counts = self._counts(800, 100, 250)
        rule = zoo_data.write_fashion(path.with_suffix(".npz"), self._pictures(), counts)
        version = self._workshop.add("images", path.with_suffix(".npz"), rule)
        output = OutputSpec(decoder=Decoder.LOGITS, classes=zoo_data.NAMES)
        return Source(version, _spec("images", Task.CLASSIFICATION, _picture(), output))

    def _air(self, path: Path) -> Source:
        rows = AIR_ROWS_QUICK if self._is_quick else AIR_ROWS
        rule = zoo_data.write_air(
            path, stations=1 if self._is_quick else AIR_STATIONS, rows_max=rows
        )
        version = self._workshop.add("air", path, rule)
        output = OutputSpec(decoder=Decoder.LOGITS, classes=zoo_data.LEVELS)
        return Source(version, self._windows("air", Task.CLASSIFICATION, version, output))

    def _sentences(self, path: Path) -> Source:
        file = path.with_suffix(".csv")
        rule = zoo_data.write_sentences(file, each_max=self._count(2000))
        version = self._workshop.add("sentences", file, rule)
        output = OutputSpec(decoder=Decoder.LOGITS, classes=tuple(zoo_data.MARKS.values()))
        given = TextInput(length=TEXT_BYTES)
        return Source(version, _spec("sentences", Task.CLASSIFICATION, given, output))

    def _daily(self, path: Path) -> Source:
        rule = zoo_data.write_nab(path, stride=NAB_STRIDE_QUICK if self._is_quick else NAB_STRIDE)
        version = self._workshop.add("daily", path, rule)
        output = OutputSpec(decoder=Decoder.RECONSTRUCTION)
        return Source(version, self._windows("daily", Task.ANOMALY, version, output))

    def _trousers(self, path: Path) -> Source:
        file = path.with_suffix(".npz")
        normal, other = self._counts(2000, 300, 900), self._counts(0, 34, 100)
        rule = zoo_data.write_anomalies(file, self._pictures(), "trouser", normal, other)
        version = self._workshop.add("trousers", file, rule)
        output = OutputSpec(decoder=Decoder.RECONSTRUCTION)
        return Source(version, _spec("trousers", Task.ANOMALY, _picture(), output))

    def _scenes(self, path: Path) -> Source:
        counts = self._counts(1500, 150, 300)
        rule = zoo_data.write_scenes(path, self._pictures(), counts)
        version = self._workshop.add("scenes", path, rule)
        output = OutputSpec(decoder=Decoder.SSD_CORNERS, classes=zoo_data.SCENE_NAMES)
        given = _picture(zoo_data.SCENE_SIDE)
        return Source(version, _spec("scenes", Task.DETECTION, given, output))

    def _windows(
        self, name: str, task: Task, version: DatasetVersion, output: OutputSpec
    ) -> ModelSpec:
        """Return a spec that scales as the training part says."""
        manifest = self._workshop.manifest(version)
        samples, channels = manifest.window_shape
        given = WindowInput(
            samples=samples,
            channels=channels,
            mean=manifest.channel_means,
            scale=tuple(value or 1.0 for value in manifest.channel_deviations),
        )
        return _spec(name, task, given, output)

    def _pictures(self) -> zoo_data.Fashion:
        self._fashion = self._fashion or zoo_data.load_fashion()
        return self._fashion

    def _counts(self, train: int, validation: int, test: int) -> dict[str, int]:
        names = (zoo_data.TRAIN, zoo_data.VALIDATION, zoo_data.TEST)
        counts = map(self._count, (train, validation, test))
        return dict(zip(names, counts, strict=True))

    def _count(self, whole: int) -> int:
        return whole if not self._is_quick else round(whole * QUICK_SHARE)


def _picture(side: int = zoo_data.SIDE) -> ImageInput:
    return ImageInput(
        width=side, height=side, colour=Colour.GRAY, mean=(PIXEL_MEAN,), scale=(PIXEL_DEVIATION,)
    )


def _spec(
    name: str, task: Task, given: ImageInput | WindowInput | TextInput, output: OutputSpec
) -> ModelSpec:
    return ModelSpec(model=name, task=task, input=given, output=output)
