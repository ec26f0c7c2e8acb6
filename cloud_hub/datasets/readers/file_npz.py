"""npz: arrays as numpy.savez writes them, without pickles, as evaluation sets have them.

1. `items`: uint8 (N, H, W) gray or (N, H, W, 3) BGR pictures, which become PNG without loss; or
   floats (N, T, C) windows. `labels`, optional: (N,) whole numbers, or texts. `slices`, optional:
   (N,) texts, which become the group. `parts`, `devices`, `sites`, optional: (N,) texts.
2. Arrays are read row by row from the archive; labels and texts whole, a bounded count of them.
"""

import zipfile
import zlib
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from cloud_hub.datasets.manifest import CLASSES_MAX, ITEM_BYTES_MAX, ITEMS_MAX, ItemKind
from cloud_hub.datasets.raw_item import Broken, RawItem
from cloud_hub.datasets.readers.file_source import Source, wrong_layout
from cloud_hub.datasets.readers.opencv_png import to_png
from cloud_hub.datasets.readers.options import ReaderOptions
from cloud_hub.datasets.readers.raw_texts import class_name, part_named, short_key, short_name

MEMBERS_MAX = 64
TEXT_CHARS_MAX = 256  # Of one text in an array
TEXTS_BYTES_MAX = 512 << 20  # Of one array of them
REMEDY = "Save it with numpy.savez(items=..., labels=..., slices=...)."
DAMAGES = (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error, NotImplementedError)
PARSE_FAILURES = (SyntaxError, TypeError, KeyError, OverflowError, RuntimeError)

Texts = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class NpzReader:
    """Arrays of pictures or windows; see the rules above."""

    source: Source
    kind: ItemKind
    shape: tuple[int, ...]  # Of `items`
    labels: Texts
    slices: Texts
    devices: Texts
    sites: Texts
    parts: Texts
    classes: tuple[str, ...]

    @property
    def window_shape(self) -> tuple[int, ...]:
        """Return (T, C) of windows; () of pictures."""
        return self.shape[1:] if self.kind is ItemKind.WINDOW else ()

    def items(self) -> Iterator[RawItem | Broken]:
        """Yield every row of `items`."""
        opened = self.source.open(self.source.only)
        if isinstance(opened, Broken):
            yield opened
            return
        with closing(opened):
            try:
                with zipfile.ZipFile(opened) as archive, archive.open("items.npy") as member:
                    yield from self._rows(member)
            except (*DAMAGES, *PARSE_FAILURES) as error:
                yield Broken(short_name(self.source.only), f"is damaged: {str(error)[:100]}")

    def _rows(self, member: IO[bytes]) -> Iterator[RawItem | Broken]:
        shape, dtype = _read_header(member)
        if shape != self.shape:
            raise ValueError("it changed while it was read")
        bytes_count = int(np.prod(shape[1:], dtype=np.int64)) * dtype.itemsize
        for index in range(shape[0]):
            data = member.read(bytes_count)
            if len(data) < bytes_count:
                raise ValueError(f"it ends before row {index}")
            yield self._item(index, np.frombuffer(data, dtype).reshape(shape[1:]))

    def _item(self, index: int, row: NDArray[Any]) -> RawItem | Broken:
        name = f"{self.source.only}#{index}"
        label = self.labels[index] if self.labels else None
        if label is not None and class_name(label) is None:
            return Broken(short_name(name), "its label is no class")
        if self.kind is ItemKind.IMAGE:
            data = to_png(np.ascontiguousarray(row))
        else:
            with np.errstate(over="ignore"):  # Infinite as float32: found by whoever checks items
                data = row.astype("<f4").tobytes()
        return RawItem(
            data,
            short_name(name),
            label=class_name(label) if label is not None else None,
            device=short_key(_at(self.devices, index)),
            site=short_key(_at(self.sites, index)),
            group=short_key(_at(self.slices, index)),
            part=part_named(_at(self.parts, index)),
        )


def open_npz(path: Path, options: ReaderOptions) -> NpzReader:
    """Return the reader of an .npz file. Raises ContractError `dataset.layout`."""
    source = _one_file(Source.at(path), path)
    opened = source.open(source.only)
    if isinstance(opened, Broken):
        raise wrong_layout("npz", path, opened.reason, REMEDY)
    with closing(opened):
        try:
            with zipfile.ZipFile(opened) as archive:
                return _opened(source, archive, options)
        except (*DAMAGES, *PARSE_FAILURES) as error:
            raise wrong_layout("npz", path, str(error)[:200], REMEDY) from error


def _one_file(source: Source, path: Path) -> Source:
    if source.only:
        return source
    names = [name for name in source.files() if name.lower().endswith(".npz")]
    if len(names) != 1:
        raise wrong_layout("npz", path, f"there are {len(names)} .npz files, not one", REMEDY)
    return Source(source.root, names[0])


def _opened(source: Source, archive: zipfile.ZipFile, options: ReaderOptions) -> NpzReader:
    names = archive.namelist()
    if "items.npy" not in names or len(names) > MEMBERS_MAX:
        raise ValueError("it has no array `items`")
    with archive.open("items.npy") as member:
        shape, dtype = _read_header(member)
    kind = _kind_of(shape, dtype)
    labels, classes = _labels(archive, shape[0], options)
    return NpzReader(
        source,
        kind,
        shape,
        labels,
        slices=_texts(archive, "slices", shape[0]),
        devices=_texts(archive, "devices", shape[0]),
        sites=_texts(archive, "sites", shape[0]),
        parts=_texts(archive, "parts", shape[0]),
        classes=classes,
    )


def _kind_of(shape: tuple[int, ...], dtype: np.dtype[Any]) -> ItemKind:
    bytes_count = int(np.prod(shape[1:], dtype=np.float64)) * dtype.itemsize
    if not (0 < shape[0] <= ITEMS_MAX and 0 < bytes_count <= ITEM_BYTES_MAX):
        raise ValueError(f"`items` is {shape}: empty, or over a limit")
    is_picture = len(shape) == 3 or (len(shape) == 4 and shape[3] == 3)
    if dtype == np.uint8 and is_picture:
        return ItemKind.IMAGE
    if dtype.kind == "f" and len(shape) == 3:
        return ItemKind.WINDOW
    raise ValueError(f"`items` is {dtype} {shape}, neither uint8 pictures nor windows of floats")


def _labels(
    archive: zipfile.ZipFile, count: int, options: ReaderOptions
) -> tuple[Texts, tuple[str, ...]]:
    """Return each item's class, and the classes where the numbers have names or an order."""
    found = _array(archive, "labels", count)
    if found is None:
        return (), options.classes
    if found.dtype.kind == "U":
        return tuple(map(str, found.tolist())), ()
    if found.dtype.kind not in "iu" or found.min() < 0 or found.max() >= CLASSES_MAX:
        raise ValueError("`labels` must be whole numbers from 0, or texts")
    classes = options.classes or tuple(str(number) for number in range(int(found.max()) + 1))
    if found.max() >= len(classes):
        raise ValueError(f"`labels` reach {found.max()}, and there are {len(classes)} classes")
    return tuple(classes[number] for number in found.tolist()), classes


def _texts(archive: zipfile.ZipFile, name: str, count: int) -> Texts:
    found = _array(archive, name, count)
    if found is None:
        return ()
    if found.dtype.kind != "U":
        raise ValueError(f"`{name}` must be texts")
    return tuple(map(str, found.tolist()))


def _array(archive: zipfile.ZipFile, name: str, count: int) -> NDArray[Any] | None:
    """Return one array of a row per item, or None if there is none."""
    if f"{name}.npy" not in archive.namelist():
        return None
    with archive.open(f"{name}.npy") as member:
        shape, dtype = _read_header(member)
        if shape != (count,) or dtype.kind not in "iuU" or dtype.itemsize > 4 * TEXT_CHARS_MAX:
            raise ValueError(f"`{name}` is {dtype} {shape}, not ({count},) numbers or short texts")
        if count * dtype.itemsize > TEXTS_BYTES_MAX:
            raise ValueError(f"`{name}` is over {TEXTS_BYTES_MAX} bytes")
        data = member.read(count * dtype.itemsize)
    return np.frombuffer(data, dtype).reshape(shape)


def _read_header(member: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Return the shape and dtype of an .npy file. Raises ValueError."""
    version = npy.read_magic(member)
    read = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}.get(version)
    if read is None:
        raise ValueError(f"an array is of .npy version {version}")
    shape, is_fortran, dtype = read(member)
    if dtype.hasobject or dtype.names is not None or (is_fortran and len(shape) > 1):
        raise ValueError("an array holds objects or records, or is in Fortran order")
    if not shape or len(shape) > 4 or min(shape) < 0:
        raise ValueError(f"an array is {shape}")
    return tuple(int(side) for side in shape), dtype


def _at(texts: Texts, index: int) -> str:
    return texts[index] if texts else ""
