"""Cameras for the demo: real handwritten digit scans, each device seeing them through its own lens.

The scans are scikit-learn's bundled digits: 1,797 8x8 scans of handwritten digits by 13 people,
test part of the UCI "Optical Recognition of Handwritten Digits" (E. Alpaydin, C. Kaynak, 1998).
"""

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_digits

SIDE = 32  # Pixels of a frame's edge
CLASSES = tuple(str(digit) for digit in range(10))
TRAIN_SHARE = 0.6  # The rest is what the cameras show: never trained on

Scans = NDArray[np.float32]  # (N, 8, 8), 0..1
Labels = NDArray[np.int64]  # (N,)
Frames = NDArray[np.uint8]  # (N, SIDE, SIDE, 3) BGR


@dataclass(frozen=True, slots=True)
class Lens:
    """How one camera sees."""

    name: str
    rotation_deg: float = 0.0
    blur_px: float = 0.0  # Standard deviation of a Gaussian
    gain: float = 1.0  # Light: multiplies
    offset: float = 0.0  # Stray light: adds, 0..1
    noise: float = 0.0  # Standard deviation, 0..1


LENSES = (
    Lens("gate", rotation_deg=16.0, blur_px=1.0, gain=0.8, noise=0.03),
    Lens("dock", rotation_deg=-20.0, blur_px=1.6, gain=0.6, offset=0.15, noise=0.04),
    Lens("press", rotation_deg=24.0, blur_px=0.8, gain=0.5, offset=0.25, noise=0.05),
)


def load_scans(seed: int = 7) -> tuple[Scans, Labels, Scans, Labels]:
    """Return scans and labels to train on, and others to show to cameras; shuffled by `seed`."""
    digits = load_digits()
    scans = (digits.images / 16.0).astype(np.float32)
    order = np.random.default_rng(seed).permutation(len(scans))
    cut = int(len(scans) * TRAIN_SHARE)
    labels = digits.target.astype(np.int64)
    train, show = order[:cut], order[cut:]
    return scans[train], labels[train], scans[show], labels[show]


def see(scans: Scans, lens: Lens, *, seed: int) -> Frames:
    """Return what `lens` makes of scans: (N, SIDE, SIDE, 3) uint8 BGR, white on black."""
    random = np.random.default_rng(seed)
    turn = cv2.getRotationMatrix2D((SIDE / 2 - 0.5, SIDE / 2 - 0.5), lens.rotation_deg, 1.0)
    frames = np.empty((len(scans), SIDE, SIDE, 3), np.uint8)
    for index, scan in enumerate(scans):
        image = cv2.resize(scan, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC)
        image = cv2.warpAffine(image, turn, (SIDE, SIDE))
        if lens.blur_px:
            image = cv2.GaussianBlur(image, (0, 0), lens.blur_px)
        image = image * lens.gain + lens.offset + random.normal(0, lens.noise, image.shape)
        gray = (np.clip(image, 0, 1) * 255).astype(np.uint8)
        frames[index] = gray[:, :, None]
    return frames


def write_camera_folder(folder: Path, frames: Frames) -> None:
    """Write frames as numbered PNG files, so that item i of the source is frame i."""
    folder.mkdir(parents=True, exist_ok=True)
    for index, frame in enumerate(frames):
        cv2.imwrite(str(folder / f"{index:05d}.png"), frame)
