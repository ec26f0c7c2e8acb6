"""Small sources of items for tests: pictures, class folders, COCO, YOLO, IDX."""

import gzip
import json
import struct
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from cloud_hub.datasets.manifest import Box, Item, ItemKind, Manifest, Part
from cloud_hub.datasets.raw_item import Broken, RawItem, Reader
from cloud_hub.datasets.readers.opencv_png import to_png
from shared.release.digest import digest_of


def png(seed: int, *, width: int = 24, height: int = 16) -> bytes:
    """Return a picture of noise that differs by seed."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return to_png(pixels)


def put(path: Path, data: bytes | str) -> Path:
    """Write a file below folders that need not be there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def class_folders(root: Path, *, count: int = 3) -> Path:
    """Write cats and dogs below train/ and test/."""
    for part_index, part in enumerate(("train", "test")):
        for class_index, name in enumerate(("cat", "dog")):
            for index in range(count):
                seed = 100 * part_index + 10 * class_index + index
                put(root / part / name / f"{index:03}.png", png(seed))
    return root


def coco(root: Path) -> Path:
    """Write three pictures with COCO labels: two boxes, none, and one without a file."""
    for index in range(2):
        put(root / "val2017" / f"{index}.png", png(index, width=100, height=50))
    labels = {
        "info": {"year": 2017},
        "images": [
            {"id": n, "file_name": f"val2017/{n}.png", "width": 100, "height": 50}
            for n in range(3)
        ],
        "categories": [{"id": 7, "name": "car"}, {"id": 3, "name": "person"}],
        "annotations": [
            {"id": 1, "image_id": 0, "category_id": 7, "bbox": [10, 5, 20, 25], "iscrowd": 0,
             "segmentation": [[1, 2, 3, 4]]},
            {"id": 2, "image_id": 0, "category_id": 3, "bbox": [50, 0, 50.0, 50], "iscrowd": 0},
            {"id": 3, "image_id": 0, "category_id": 3, "bbox": [0, 0, 100, 50], "iscrowd": 1},
        ],
    }  # fmt: skip
    put(root / "annotations" / "instances_val2017.json", json.dumps(labels))
    return root


def yolo(root: Path) -> Path:
    """Write four pictures with YOLO labels: one box, none, not labelled, nonsense."""
    for index in range(4):
        put(root / "images" / "train" / f"{index}.png", png(index))
    put(root / "data.yaml", "path: .\ntrain: images/train\nnames:\n  0: car\n  1: 'a b'\n")
    put(root / "labels" / "train" / "0.txt", "1 0.5 0.5 0.25 0.5\n")
    put(root / "labels" / "train" / "1.txt", "")
    put(root / "labels" / "train" / "3.txt", "0 0.5 0.5 0.25 0.5\n7 0.5 0.5 0.1 0.1\n")
    return root


def idx(root: Path, *, count: int = 5, packed: bool = True) -> tuple[Path, np.ndarray]:
    """Write an IDX pair; return the folder and its pictures."""
    pixels = np.random.default_rng(3).integers(0, 256, (count, 6, 4), dtype=np.uint8)
    labels = bytes(index % 3 for index in range(count))
    pack = gzip.compress if packed else bytes
    end = ".gz" if packed else ""
    images = bytes((0, 0, 8, 3)) + struct.pack(">3I", count, 6, 4) + pixels.tobytes()
    put(root / f"train-images-idx3-ubyte{end}", pack(images))
    labels = bytes((0, 0, 8, 1)) + struct.pack(">I", count) + labels
    put(root / f"train-labels-idx1-ubyte{end}", pack(labels))
    return root, pixels


def good(reader: Reader) -> list[RawItem]:
    """Return the items that can be used."""
    return [item for item in reader.items() if isinstance(item, RawItem)]


def broken(reader: Reader) -> list[Broken]:
    """Return what is no item."""
    return [item for item in reader.items() if isinstance(item, Broken)]


def manifest_of(
    items: Iterable[RawItem],
    *,
    classes: tuple[str, ...],
    kind: ItemKind = ItemKind.IMAGE,
    window_shape: tuple[int, ...] = (),
) -> tuple[Manifest, list[bytes]]:
    """Return a manifest of items as they are, and their bytes by index."""
    held = list(items)
    made = tuple(
        Item(
            digest_of(item.data),
            "0" * 64,
            0,
            len(item.data),
            item.part or Part.TRAIN,
            item.name,
            None if item.label is None else classes.index(item.label),
            None
            if item.boxes is None
            else tuple(
                Box(classes.index(b.class_name), b.left, b.top, b.right, b.bottom)
                for b in item.boxes
            ),
        )
        for item in held
    )
    manifest = Manifest("things", kind, classes, made, window_shape)
    return manifest, [item.data for item in held]
