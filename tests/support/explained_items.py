"""Small datasets in memory for reports: manifest, arrays, and networks that look at one place."""

import hashlib
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cloud_hub.datasets.manifest import Item, ItemKind, Manifest, Part
from cloud_hub.datasets.opencv_arrays import Arrays
from shared.model.postprocess import Boxes
from shared.model.spec import (
    Decoder,
    ImageInput,
    ModelSpec,
    OutputSpec,
    Task,
    TextInput,
    WindowInput,
)

SIDE, SAMPLES, CHANNELS, LETTERS = 12, 32, 3, 40
DEVICES = ("gate-1", "gate-2", "roof")


@dataclass(frozen=True, slots=True)
class Dataset:
    """What `explain` takes, and the spec to take it with."""

    spec: ModelSpec
    manifest: Manifest
    arrays: Arrays
    chosen: NDArray[np.int64]


class OneNumber(nn.Module):
    """Answers with a single number of each item, and for classes its opposite beside it."""

    def __init__(self, place: tuple[int, ...], outputs: int) -> None:
        super().__init__()
        self.place = place
        self.outputs = outputs
        self.gain = nn.Parameter(torch.tensor(3.0))

    def forward(self, items: Tensor) -> Tensor:
        """Return (N, outputs): classes -1, +1 times the gain, or the number itself."""
        number = self.gain * items[(slice(None), *self.place)].float()
        if self.outputs == 1:
            return number[:, None]
        others = [torch.zeros_like(number)] * (self.outputs - 2)
        return torch.stack([-number, number, *others], dim=1)


class Doubtful(nn.Module):
    """Puts out what is not a number."""

    def forward(self, items: Tensor) -> Tensor:
        """Return (N, 2) NaN."""
        return torch.full((len(items), 2), float("nan"))


def image_items(
    count: int = 60, classes: tuple[str, ...] = ("dark", "bright"), *, seed: int = 0
) -> Dataset:
    """Return gray pictures whose pixel at row 4, column 7 tells the class, nine of ten times."""
    rng = np.random.default_rng(seed)
    items = rng.integers(90, 160, (count, SIDE, SIDE, 3), dtype=np.uint8)
    items[...] = items[..., :1]
    labels = np.arange(count, dtype=np.int64) % 2
    told = np.where(rng.random(count) < 0.9, labels, 1 - labels)
    items[:, 4, 7] = np.where(told == 1, 220, 30)[:, None]
    image = ImageInput(width=SIDE, height=SIDE, mean=(128.0,), scale=(64.0,))
    spec = ModelSpec(
        model="watch",
        task=Task.CLASSIFICATION,
        input=image,
        output=OutputSpec(decoder=Decoder.LOGITS, classes=classes),
    )
    return _dataset(spec, ItemKind.IMAGE, items, labels, classes)


def window_items(
    count: int = 40, *, decoder: Decoder = Decoder.SCORE, classes: tuple[str, ...] = ("ok", "bad")
) -> Dataset:
    """Return windows whose channel 1 at sample 20 is the label, and a little noise."""
    rng = np.random.default_rng(1)
    items = rng.normal(0.0, 0.3, (count, SAMPLES, CHANNELS)).astype(np.float32)
    labels = np.arange(count, dtype=np.int64) % max(1, len(classes))
    items[:, 20, 1] = labels + rng.normal(0.0, 0.3, count)
    is_class = decoder is Decoder.LOGITS
    spec = ModelSpec(
        model="watch",
        task=Task.CLASSIFICATION if is_class else Task.ANOMALY,
        input=WindowInput(samples=SAMPLES, channels=CHANNELS),
        output=OutputSpec(decoder=decoder, classes=classes if is_class else (), threshold=1.5),
    )
    return _dataset(spec, ItemKind.WINDOW, items, labels, classes)


def text_items(count: int = 20) -> Dataset:
    """Return texts whose byte 10 tells the class."""
    labels = np.arange(count, dtype=np.int64) % 2
    items = np.zeros((count, LETTERS), np.int64)
    for index, label in enumerate(labels):
        text = f"line {index:04d} is {'good' if label else 'evil'} and $short"
        items[index, : len(text)] = np.frombuffer(text.encode(), np.uint8).astype(np.int64) + 1
    items[:, 10] = np.where(labels == 1, ord("+") + 200 - 43, 1)
    spec = ModelSpec(
        model="watch",
        task=Task.CLASSIFICATION,
        input=TextInput(length=LETTERS),
        output=OutputSpec(decoder=Decoder.LOGITS, classes=("evil", "good")),
    )
    return _dataset(spec, ItemKind.TEXT, items, labels, ("evil", "good"))


def box_items(count: int = 12) -> Dataset:
    """Return pictures with one bright square each, and every fifth one without a box."""
    rng = np.random.default_rng(2)
    items = np.full((count, 64, 64, 3), 40, np.uint8)
    boxes: list[Boxes | None] = []
    for index in range(count):
        left, top = rng.integers(0, 40, 2)
        items[index, top : top + 20, left : left + 20] = (60, 200, 230)
        corners = np.array([[left, top, left + 20, top + 20]], np.float32) / 64.0
        kept = 0 if index % 5 == 4 else 1
        boxes.append(
            Boxes(corners[:kept], np.ones(kept, np.float32), np.full(kept, index % 2, np.int64))
        )
    spec = ModelSpec(
        model="watch",
        task=Task.DETECTION,
        input=ImageInput(width=64, height=64),
        output=OutputSpec(decoder=Decoder.SSD_CORNERS, classes=("near", "far")),
    )
    labels = np.zeros(count, np.int64)
    made = _dataset(spec, ItemKind.IMAGE, items, labels, ("near", "far"))
    arrays = Arrays(made.arrays.items, labels, tuple(boxes), made.arrays.indices)
    return Dataset(spec, made.manifest, arrays, made.chosen)


class BrightSquares(nn.Module):
    """Finds the bright square of `box_items`, and says of all that they are near."""

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """Return scores (N, 1, 3) and corners (N, 1, 4)."""
        is_bright = pictures[:, 1] > 100.0  # (N, H, W)
        corners = []
        for mask in is_bright:
            rows, columns = torch.nonzero(mask.any(1))[:, 0], torch.nonzero(mask.any(0))[:, 0]
            corners.append([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
        found = torch.tensor(corners, dtype=torch.float32)[:, None] / 64.0
        scores = torch.tensor([0.1, 0.8, 0.1]).expand(len(pictures), 1, 3)
        return scores, found


def _dataset(
    spec: ModelSpec,
    kind: ItemKind,
    items: NDArray[np.generic],
    labels: NDArray[np.int64],
    classes: tuple[str, ...],
) -> Dataset:
    made = tuple(
        Item(
            digest=hashlib.sha256(f"{index}".encode()).hexdigest(),
            pack="0" * 64,
            start=0,
            bytes_count=1,
            part=Part.TEST,
            name=f"item {index}",
            label=int(labels[index]),
            device=DEVICES[index % len(DEVICES)],
            site="north" if index % 4 else "south",
            captured_ms=1_700_000_000_000 + index * 120_000,
        )
        for index in range(len(items))
    )
    manifest = Manifest(dataset="shelf", kind=kind, classes=classes, items=made)
    indices = np.arange(len(items), dtype=np.int64)
    return Dataset(spec, manifest, Arrays(items, labels, None, indices), indices)
