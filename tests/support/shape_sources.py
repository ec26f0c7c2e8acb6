"""A dataset "shapes" made on the spot: folders of small pictures, a table of windows, archives."""

import tarfile
import zipfile
from pathlib import Path

import cv2
import numpy as np

CLASSES = ("circle", "square")
SIDE = 12


def picture(seed: int, *, side: int = SIDE) -> bytes:
    """Return a small PNG; another seed, other bytes."""
    random = np.random.default_rng(seed)
    pixels = random.integers(0, 256, (side, side, 3), dtype=np.uint8)
    return bytes(cv2.imencode(".png", pixels)[1].tobytes())


def write_pictures(folder: Path, *, count: int = 20, first: int = 0) -> Path:
    """Write `count` pictures of each class into a folder of its name."""
    for number, name in enumerate(CLASSES):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for index in range(first, first + count):
            (folder / name / f"{index:04}.png").write_bytes(picture(number * 100_000 + index))
    return folder


def write_windows(
    file: Path, *, devices: int = 4, count: int = 10, samples: int = 4, seed: int = 0
) -> Path:
    """Write a table of rows of two sensors, `count` windows of each device."""
    random = np.random.default_rng(seed)
    rows = ["device,label,x,y"]
    for device in range(devices):
        label = "normal" if device % 2 else "worn"
        for x, y in random.normal(loc=[1000.0, 5.0], size=(count * samples, 2)):
            rows.append(f"dev-{device},{label},{x:.5f},{y:.5f}")
    file.write_text("\n".join(rows) + "\n")
    return file


def zipped(folder: Path, file: Path) -> Path:
    """Pack a folder's files into a .zip."""
    with zipfile.ZipFile(file, "w") as archive:
        for path in sorted(folder.rglob("*")):
            archive.write(path, str(path.relative_to(folder)))
    return file


def tarred(folder: Path, file: Path) -> Path:
    """Pack a folder's files into a .tar.gz."""
    with tarfile.open(file, "w:gz") as archive:
        archive.add(folder, arcname=".")
    return file
