"""How many labelled samples lie on the disk, told without opening one. For the agent.

What must not live here: reading samples (the learning process does; it needs torch or OpenCV).
"""

import os
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from edge_agent.training.settings import SampleFormat, SampleSettings

FILES_MAX = 200_000  # Of one model; a folder with more counts as this many
CLASSES_MAX = 10_000
PICTURES = (".png", ".jpg", ".jpeg")
LABELS = "labels.npy"


@dataclass(frozen=True, slots=True)
class SamplesCount:
    """How many, and why none if the place cannot be read."""

    count: int
    trouble: str = ""


def count_samples(settings: SampleSettings) -> SamplesCount:
    """Return how many samples of one model there are."""
    path = Path(settings.path)
    try:
        match settings.format:
            case SampleFormat.FOLDER:
                return SamplesCount(sum(1 for _ in islice(_pictures(path), FILES_MAX)))
            case SampleFormat.NPZ:
                return SamplesCount(_labels_count(path))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        return SamplesCount(0, f"{path} cannot be read: {reason or error}")


def _pictures(path: Path) -> Iterator[str]:
    """Yield the pictures of every class."""
    with os.scandir(path) as classes:
        folders = [entry.path for entry in classes if entry.is_dir()][:CLASSES_MAX]
    for folder in folders:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.lower().endswith(PICTURES) and entry.is_file():
                    yield entry.path


def _labels_count(path: Path) -> int:
    """Return the length of `labels`: its header is read, not its numbers."""
    with zipfile.ZipFile(path) as archive, archive.open(LABELS) as file:
        version = np.lib.format.read_magic(file)
        if version == (1, 0):
            shape, _, _ = np.lib.format.read_array_header_1_0(file)
        else:
            shape, _, _ = np.lib.format.read_array_header_2_0(file)
    if len(shape) != 1:
        raise ValueError(f"labels has {len(shape)} axes, not one")
    return int(shape[0])
