"""IDX: the files of MNIST and its kin, gzip or not; gray pictures become PNG, without loss.

1. Pictures lie in `...images-idx3-ubyte[.gz]`, their labels beside in `...labels-idx1-ubyte[.gz]`.
   A source is one file of pictures, or a folder with one or more; without labels it is unlabelled.
2. `train-` and `t10k-` (or `test-`) in a name give the parts.
3. A header is two zero bytes, 8 (unsigned bytes), the number of dimensions, then each as a
   big-endian uint32 (yann.lecun.org/exdb/mnist).
"""

import struct
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from cloud_hub.datasets.manifest import CLASSES_MAX, ITEMS_MAX, ItemKind, Part
from cloud_hub.datasets.raw_item import Broken, RawItem
from cloud_hub.datasets.readers.file_source import DAMAGES, Source, limited, wrong_layout
from cloud_hub.datasets.readers.opencv_png import to_png
from cloud_hub.datasets.readers.options import ReaderOptions
from cloud_hub.datasets.readers.raw_texts import class_name, short_name

SIDE_MAX = 4_096
REMEDY = "Give the files as they are published, pictures and labels in one folder."
IMAGES, LABELS = "images", "labels"


@dataclass(frozen=True, slots=True)
class _Pair:
    images: str
    labels: str | None
    part: Part | None


@dataclass(frozen=True, slots=True)
class IdxReader:
    """Pictures in IDX files; see the rules above."""

    source: Source
    pairs: tuple[_Pair, ...]
    labels: tuple[bytes | None, ...]  # One byte per picture, pair by pair
    classes: tuple[str, ...]
    kind: ItemKind = ItemKind.IMAGE
    window_shape: tuple[int, ...] = ()

    def items(self) -> Iterator[RawItem | Broken]:
        """Yield every picture, file by file."""
        another = limited(ITEMS_MAX, self.source.root)
        for pair, labels in zip(self.pairs, self.labels, strict=True):
            for found in self._of(pair, labels):
                another()
                yield found

    def _of(self, pair: _Pair, labels: bytes | None) -> Iterator[RawItem | Broken]:
        opened = self.source.open_unpacked(pair.images)
        if isinstance(opened, Broken):
            yield opened
            return
        with closing(opened):
            try:
                count, height, width = _image_shape(opened, self.source.root / pair.images)
                for index in range(count):
                    name = short_name(f"{pair.images}#{index}")
                    data = opened.read(height * width)
                    if len(data) < height * width:
                        yield Broken(name, "is cut off, as are all after it")
                        return
                    pixels = np.frombuffer(data, np.uint8).reshape(height, width)
                    yield self._item(pixels, name, pair, labels[index] if labels else None)
            except (OSError, *DAMAGES) as error:
                yield Broken(short_name(pair.images), f"is damaged: {error}")

    def _item(
        self,
        pixels: np.ndarray[tuple[int, int], np.dtype[np.uint8]],
        name: str,
        pair: _Pair,
        label: int | None,
    ) -> RawItem | Broken:
        if label is not None and label >= len(self.classes):
            return Broken(name, f"is of class {label}, and there are {len(self.classes)}")
        text = None if label is None else self.classes[label]
        return RawItem(to_png(pixels), name, label=text, part=pair.part)


def open_idx(path: Path, options: ReaderOptions | None = None) -> IdxReader:
    """Return the reader of IDX files. Raises ContractError `dataset.layout`."""
    source = Source.at(path)
    names = source.files()
    images = [name for name in names if IMAGES in name.lower() and "idx3" in name.lower()]
    if not images:
        reason = "there is no file named like train-images-idx3-ubyte"
        raise wrong_layout("idx", path, reason, REMEDY)
    beside = set(Source(source.root).files())
    pairs = tuple(_pair(name, beside) for name in images)
    whole = Source(source.root)
    labels = tuple(_read_labels(whole, pair, path) for pair in pairs)
    return IdxReader(whole, pairs, labels, _classes(options, labels))


def _pair(images: str, beside: set[str]) -> _Pair:
    wanted = images.lower().replace(IMAGES, LABELS).replace("idx3", "idx1")
    candidates = {wanted, wanted.removesuffix(".gz"), wanted + ".gz"}
    labels = sorted(name for name in beside if name.lower() in candidates)
    return _Pair(images, labels[0] if labels else None, _part(images.lower()))


def _part(name: str) -> Part | None:
    if name.startswith("train"):
        return Part.TRAIN
    if name.startswith(("t10k", "test")):
        return Part.TEST
    return Part.VALIDATION if name.startswith("val") else None


def _classes(options: ReaderOptions | None, labels: tuple[bytes | None, ...]) -> tuple[str, ...]:
    named = () if options is None else options.classes
    if named and all(class_name(name) == name for name in named):
        return named[:CLASSES_MAX]
    count = max((max(found) + 1 for found in labels if found), default=0)
    return tuple(str(number) for number in range(count))


def _read_labels(source: Source, pair: _Pair, path: Path) -> bytes | None:
    """Return all labels of a pair; without them every later item would be wrong."""
    count = _read_count(source, pair.images, path)
    if pair.labels is None:
        return None
    where = source.root / pair.labels
    opened = source.open_unpacked(pair.labels)
    if isinstance(opened, Broken):
        raise wrong_layout("idx", where, opened.reason, REMEDY)
    with closing(opened):
        try:
            (labelled,) = _read_shape(opened, where, dimensions=1)
            found = opened.read(min(labelled, ITEMS_MAX) + 1)
        except (OSError, *DAMAGES) as error:
            raise wrong_layout("idx", where, f"it is damaged ({error})", REMEDY) from error
    if len(found) != labelled or labelled != count:
        reason = f"it holds {len(found)} labels, and there are {count} pictures"
        raise wrong_layout("idx", where, reason, REMEDY)
    return found


def _read_count(source: Source, name: str, path: Path) -> int:
    where = source.root / name
    opened = source.open_unpacked(name)
    if isinstance(opened, Broken):
        raise wrong_layout("idx", path, opened.reason, REMEDY)
    with closing(opened):
        try:
            return _image_shape(opened, where)[0]
        except (OSError, *DAMAGES) as error:
            raise wrong_layout("idx", where, f"it is damaged ({error})", REMEDY) from error


def _image_shape(file: BinaryIO, where: Path) -> tuple[int, int, int]:
    count, height, width = _read_shape(file, where, dimensions=3)
    if not (1 <= height <= SIDE_MAX and 1 <= width <= SIDE_MAX and count <= ITEMS_MAX):
        reason = f"it says that it holds {count} pictures of {width}x{height}"
        raise wrong_layout("idx", where, reason, REMEDY)
    return count, height, width


def _read_shape(file: BinaryIO, where: Path, *, dimensions: int) -> tuple[int, ...]:
    header = file.read(4 + 4 * dimensions)
    if len(header) < 4 + 4 * dimensions or header[:4] != bytes((0, 0, 8, dimensions)):
        reason = f"it does not begin as unsigned bytes of {dimensions} dimensions do"
        raise wrong_layout("idx", where, reason, REMEDY)
    return struct.unpack(f">{dimensions}I", header[4:])
