"""Weights: a network's arrays by name, as bytes (.npz without pickles) and as one flat vector.

1. The order of names is the order of the network's own state; it is kept by every function here.
2. Numbers are float32, or int64 for counters (BatchNorm's `num_batches_tracked`). Counters are
   neither averaged nor sent: `averaged` leaves them out.
3. A digest covers names, shapes, types and numbers, not how they were packed.
"""

import hashlib
import io
import math
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shared.errors import ContractError

WEIGHTS_BYTES_MAX = 2 << 30
ARRAYS_MAX = 10_000
AXES_MAX = 8

Array = NDArray[np.generic]
Vector = NDArray[np.float32]  # (N,): all averaged arrays, one after another, C order
Weights = Mapping[str, Array]
_FORMAT_ERRORS = (ValueError, KeyError, EOFError, zipfile.BadZipFile, MemoryError, zlib.error)


@dataclass(frozen=True, slots=True)
class Field:
    """Where one averaged array lies in the flat vector."""

    name: str
    shape: tuple[int, ...]
    start: int

    @property
    def size(self) -> int:
        """Return how many numbers it has."""
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True)
class Layout:
    """Names and shapes of the averaged arrays of a network."""

    fields: tuple[Field, ...]

    @property
    def size(self) -> int:
        """Return how many numbers the flat vector has."""
        return self.fields[-1].start + self.fields[-1].size if self.fields else 0


def averaged(weights: Weights) -> dict[str, Array]:
    """Return the arrays that are averaged: those of floating point."""
    return {name: array for name, array in weights.items() if array.dtype.kind == "f"}


def layout_of(weights: Weights) -> Layout:
    """Return where the averaged arrays lie in the flat vector."""
    fields, start = [], 0
    for name, array in averaged(weights).items():
        fields.append(Field(name, tuple(array.shape), start))
        start += array.size
    return Layout(tuple(fields))


def flatten(weights: Weights, layout: Layout) -> Vector:
    """Return a layout's arrays as one vector. Raises ContractError `weights.misfit`."""
    vector = np.empty(layout.size, np.float32)
    for field in layout.fields:
        array = weights.get(field.name)
        if array is None or array.shape != field.shape or array.dtype.kind != "f":
            raise ContractError(
                "weights.misfit", f"{field.name[:80]!r} is missing or not of shape {field.shape}."
            )
        vector[field.start : field.start + field.size] = array.ravel()
    return vector


def unflatten(vector: Vector, layout: Layout) -> dict[str, NDArray[np.float32]]:
    """Return a vector's arrays by name: views, not copies."""
    assert vector.shape == (layout.size,)
    return {
        field.name: vector[field.start : field.start + field.size].reshape(field.shape)
        for field in layout.fields
    }


def digest_weights(weights: Weights) -> str:
    """Return the SHA-256 of rule 3, lower-case hexadecimal."""
    digest = hashlib.sha256()
    for name, array in weights.items():
        digest.update(f"{name}\0{array.dtype.str}\0{array.shape}\0".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def encode_weights(weights: Weights) -> bytes:
    """Return weights as .npz bytes (stored, not compressed: weights hardly compress)."""
    buffer = io.BytesIO()
    np.savez(buffer, **weights)  # type: ignore[arg-type]  # stub takes allow_pickle by keyword
    return buffer.getvalue()


def decode_weights(data: bytes) -> dict[str, Array]:
    """Return weights from .npz bytes. Raises ContractError `weights.invalid`."""
    if len(data) > WEIGHTS_BYTES_MAX:
        raise ContractError("weights.invalid", f"The weights are over {WEIGHTS_BYTES_MAX} bytes.")
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as zipped:
            infos = zipped.infolist()
            if len(infos) > ARRAYS_MAX or sum(i.file_size for i in infos) > WEIGHTS_BYTES_MAX:
                raise ValueError("too many arrays, or too large")
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            weights = {name: archive[name] for name in archive.files}
    except (OSError, *_FORMAT_ERRORS) as error:
        raise ContractError(
            "weights.invalid",
            f"Not a file of weights: {error}.",
            remedy="Save them with numpy.savez, one array for each name of the network's state.",
        ) from error
    for name, array in weights.items():
        if array.dtype not in (np.float32, np.int64) or array.ndim > AXES_MAX:
            raise ContractError(
                "weights.invalid", f"{name[:80]!r} must be float32 (or int64 for a counter)."
            )
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise ContractError("weights.invalid", f"{name[:80]!r} holds NaN or infinity.")
    return weights
