"""Pictures of coloured squares on noise, as a YOLO folder and as tensors: a task for a detector."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cloud_hub.datasets.readers.opencv_png import to_png
from shared.model.network import NetworkSpec, SsdNetwork
from shared.model.spec import Colour, Decoder, ImageInput, ModelSpec, OutputSpec, Task
from tests.support.dataset_sources import put

SIDE = 48
CLASSES = ("red", "green", "blue")
CHANNELS_BGR = (2, 1, 0)  # Of each class
SPEC = ModelSpec(
    model="squares",
    task=Task.DETECTION,
    input=ImageInput(width=SIDE, height=SIDE, colour=Colour.RGB, scale=(255.0,)),
    output=OutputSpec(decoder=Decoder.SSD_CORNERS, classes=CLASSES),
)
NETWORK = NetworkSpec(
    architecture=SsdNetwork(channels=(8, 24, 32), maps=2, scales=(0.25, 0.4), ratios=(1.0,))
)


@dataclass(frozen=True)
class Squares:
    """Pictures with up to two squares each."""

    pictures: NDArray[np.uint8]  # (n, SIDE, SIDE, 3) BGR
    boxes: NDArray[np.float32]  # (n, 2, 5) class and corners in shares; -1: no box

    def of(self, index: int) -> NDArray[np.float32]:
        """Return the boxes on one picture, (k, 5)."""
        return self.boxes[index][self.boxes[index][:, 0] >= 0]


def draw_squares(count: int, *, seed: int) -> Squares:
    luck = np.random.default_rng(seed)
    pictures = luck.integers(77, 153, (count, SIDE, SIDE, 3), np.uint8)
    boxes = np.full((count, 2, 5), -1.0, np.float32)
    for index in range(count):
        for half in range(luck.integers(0, 3)):
            size, colour = luck.integers(10, 21), luck.integers(3)
            left = luck.integers(0, SIDE // 2 - size + 1) + half * SIDE // 2
            top = luck.integers(0, SIDE - size)
            inside = (slice(top, top + size), slice(left, left + size))
            pictures[index, *inside] = 25
            pictures[index, *inside, CHANNELS_BGR[colour]] = 242
            corners = np.array([left, top, left + size, top + size]) / SIDE
            boxes[index, half] = (colour, *corners)
    return Squares(pictures, boxes)


def write_yolo(root: Path, parts: dict[str, Squares], *, unlabelled: int = 0) -> Path:
    """Write pictures with labels below each part's name; of the first some without any."""
    for part, squares in parts.items():
        for index, pixels in enumerate(squares.pictures):
            name = f"{part}-{index:04}"
            put(root / "images" / part / f"{name}.png", to_png(pixels))
            if index >= unlabelled:
                lines = [_line(row) for row in squares.of(index)]
                put(root / "labels" / part / f"{name}.txt", "\n".join(lines) + "\n" * bool(lines))
    names = "".join(f"  {index}: {name}\n" for index, name in enumerate(CLASSES))
    places = "".join(f"{part}: images/{part}\n" for part in parts)
    put(root / "data.yaml", f"path: .\n{places}names:\n{names}")
    return root


def _line(row: NDArray[np.float32]) -> str:
    kind, left, top, right, bottom = (float(value) for value in row)
    numbers = ((left + right) / 2, (top + bottom) / 2, right - left, bottom - top)
    return " ".join([str(int(kind)), *(f"{number:.6f}" for number in numbers)])
