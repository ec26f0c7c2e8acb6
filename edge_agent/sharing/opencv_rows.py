"""NpzRows: rows of an .npz file as items, read one after the other, never the file whole.

1. `items`: uint8 (N, H, W) gray or (N, H, W, 3) BGR pictures, sent as PNG without loss; floats
   (N, T, C) windows, sent as float32; uint8 (N, L) texts, sent without the NUL bytes at their end.
   `labels`, optional: (N,) whole numbers. No pickles.
2. A row's key is its place in this file as it is now: a file that is written anew is looked through
   again, and what was sent is known by its bytes.
"""

import zipfile
import zlib
from collections.abc import Container, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import cv2
import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from edge_agent.sharing.local_item import ITEMS_MAX, READ_BYTES_MAX, WRITTEN_S, LocalItem
from shared.errors import RefusedError
from shared.release.digest import digest_of
from shared.wire.device_samples import SampleKind

DAMAGES = (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error, SyntaxError)
PNG_COMPRESSION = 3  # Fast, and a few per cent larger than the best
REMEDY = "Correct `path` and `format` under [[sharing.samples]] in the agent's file."

Shape = tuple[int, ...]


@dataclass(slots=True)
class NpzRows:
    """See the rules above."""

    path: Path
    classes: tuple[str, ...] = ()  # What the numbers in `labels` mean
    _passed: tuple[int, int, int] = field(default=(0, 0, 0))  # (size, mtime, rows) of a whole pass

    def items(self, done: Container[int], *, now_s: float) -> Iterator[LocalItem]:
        """Yield every row that is not done.

        Raises RefusedError `samples.missing`, `samples.invalid`.
        """
        try:
            facts = self.path.stat()
        except OSError as error:
            text = f"There is no file of samples {self.path}."
            raise RefusedError("samples.missing", text, remedy=REMEDY) from error
        if 0.0 <= now_s - facts.st_mtime < WRITTEN_S:
            return
        stamp = (facts.st_size, facts.st_mtime_ns)
        size, mtime, rows = self._passed
        if (size, mtime) == stamp and all(_key(stamp, index) in done for index in range(rows)):
            return
        try:
            with zipfile.ZipFile(self.path) as archive:
                yield from self._rows(archive, stamp, done)
        except DAMAGES as error:
            text = f"The samples {self.path} cannot be used: {error}."
            raise RefusedError("samples.invalid", text, remedy=REMEDY) from error

    def _rows(
        self, archive: zipfile.ZipFile, stamp: tuple[int, int], done: Container[int]
    ) -> Iterator[LocalItem]:
        with archive.open("items.npy") as member:
            shape, dtype = _header(member)
            kind = _kind_of(shape, dtype)
            labels = _labels(archive, shape[0])
            bytes_count = int(np.prod(shape[1:], dtype=np.int64)) * dtype.itemsize
            for index in range(shape[0]):
                data = member.read(bytes_count)
                if len(data) < bytes_count:
                    raise ValueError(f"it ends before row {index}")
                if _key(stamp, index) not in done:
                    row = np.frombuffer(data, dtype).reshape(shape[1:])
                    label = None if labels is None else self._label(int(labels[index]))
                    yield _item(_key(stamp, index), kind, row, label)
        self._passed = (*stamp, shape[0])

    def _label(self, number: int) -> str:
        if not self.classes:
            return str(number)
        if not 0 <= number < len(self.classes):
            raise ValueError(f"a label is {number}, and there are {len(self.classes)} classes")
        return self.classes[number]


def _item(key: int, kind: SampleKind, row: NDArray[Any], label: str | None) -> LocalItem:
    match kind:
        case SampleKind.IMAGE:
            is_done, png = cv2.imencode(".png", row, [cv2.IMWRITE_PNG_COMPRESSION, PNG_COMPRESSION])
            assert is_done, "OpenCV encodes every array of bytes that has a size"
            data = png.tobytes()
        case SampleKind.WINDOW:
            with np.errstate(over="ignore"):  # Infinite as float32: the hub leaves it out
                data = row.astype("<f4").tobytes()
        case SampleKind.TEXT:
            data = row.tobytes().rstrip(b"\0")
    shape = tuple(row.shape) if kind is SampleKind.WINDOW else ()
    return LocalItem(key, kind, data, digest_of(data), shape, label)


def _kind_of(shape: Shape, dtype: np.dtype[Any]) -> SampleKind:
    bytes_count = float(np.prod(shape[1:], dtype=np.float64)) * dtype.itemsize
    if shape[0] > ITEMS_MAX or not 0 < bytes_count <= READ_BYTES_MAX:
        raise ValueError(f"`items` is {shape}: empty, or over a limit")
    if dtype == np.uint8 and (len(shape) == 3 or (len(shape) == 4 and shape[3] == 3)):
        return SampleKind.IMAGE
    if dtype.kind == "f" and len(shape) == 3:
        return SampleKind.WINDOW
    if dtype == np.uint8 and len(shape) == 2:
        return SampleKind.TEXT
    raise ValueError(f"`items` is {dtype} {shape}: neither pictures, nor windows, nor texts")


def _labels(archive: zipfile.ZipFile, count: int) -> NDArray[Any] | None:
    if "labels.npy" not in archive.namelist():
        return None
    with archive.open("labels.npy") as member:
        shape, dtype = _header(member)
        if shape != (count,) or dtype.kind not in "iu":
            raise ValueError("`labels` must be one whole number for each item")
        return np.frombuffer(member.read(count * dtype.itemsize), dtype)


def _header(member: IO[bytes]) -> tuple[Shape, np.dtype[Any]]:
    version = npy.read_magic(member)
    read = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}.get(version)
    if read is None:
        raise ValueError(f"an array is of .npy version {version}")
    shape, is_fortran, dtype = read(member)
    if dtype.hasobject or dtype.names is not None or (is_fortran and len(shape) > 1):
        raise ValueError("an array holds objects or records, or is in Fortran order")
    if not 1 <= len(shape) <= 4:
        raise ValueError(f"an array is {shape}")
    return tuple(int(side) for side in shape), dtype


def _key(stamp: tuple[int, int], index: int) -> int:
    return hash((*stamp, index))
