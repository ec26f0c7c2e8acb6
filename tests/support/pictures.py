"""Pictures and videos made on the spot, so that a test knows each frame by its look."""

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

WIDTH, HEIGHT = 64, 48


def picture(value: int) -> NDArray[np.uint8]:
    """Return a gray frame of this brightness."""
    return np.full((HEIGHT, WIDTH, 3), value, np.uint8)


def brightness(pixels: NDArray[np.uint8]) -> int:
    """Return how bright a frame is on average."""
    return round(float(pixels.mean()))


def write_pictures(folder: Path, values: list[int]) -> Path:
    """Write 000.png, 001.png, ... of these brightnesses."""
    folder.mkdir(exist_ok=True)
    for index, value in enumerate(values):
        assert cv2.imwrite(str(folder / f"{index:03}.png"), picture(value))
    return folder


def write_video(path: Path, values: list[int], *, fps: float = 10.0) -> Path:
    """Write an MJPEG video in AVI of these brightnesses."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), fps, (WIDTH, HEIGHT))
    assert writer.isOpened()
    for value in values:
        writer.write(picture(value))
    writer.release()
    return path


def write_coloured_pictures(folder: Path, *, count: int, side: int) -> list[str]:
    """Write pictures that are mostly blue, green or red in turn; return which."""
    folder.mkdir(exist_ok=True)
    names = ("blue", "green", "red")
    for index in range(count):
        pixels = np.full((side, side, 3), 60, np.uint8)
        pixels[:, :, index % 3] = 220
        assert cv2.imwrite(str(folder / f"{index:04}.png"), pixels)
    return [names[index % 3] for index in range(count)]
