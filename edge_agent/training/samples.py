"""Samples of one model on this device, and which of them are held out. Pure.

1. Which side a sample is on follows from its own bytes (SHA-256), so that it never changes sides:
   what was measured on is never trained on, however many samples come or go.
2. Items are as the model's input takes them, (N, ...) float32 (texts: int64), without the batch
   axis of 1.
"""

import hashlib
from dataclasses import dataclass

import numpy as np

from shared.model.preprocess import Array, to_tensor
from shared.model.spec import ModelSpec

ITEMS_MAX = 1_000_000


@dataclass(frozen=True, slots=True)
class Part:
    """Some samples."""

    items: Array  # (N, ...)
    labels: Array | None  # (N,) int64 class indices or float32 scores; None: unlabelled


@dataclass(frozen=True, slots=True)
class LocalSamples:
    """All that the device has for one model."""

    training: Part
    held_out: Part


def is_held_out(item: bytes, share: float) -> bool:
    """Return on which side a sample's bytes are; see rule 1."""
    number = int.from_bytes(hashlib.sha256(item).digest()[:8], "big")
    return number < share * 2**64


def split(items: list[Array], labels: Array | None, held_out: list[bool]) -> LocalSamples:
    """Return prepared items, one after another, as the two sides."""
    stacked = np.stack(items) if items else np.empty((0,), np.float32)
    mask = np.array(held_out, dtype=bool)
    return LocalSamples(
        training=Part(stacked[~mask], None if labels is None else labels[~mask]),
        held_out=Part(stacked[mask], None if labels is None else labels[mask]),
    )


def prepare(item: Array, spec: ModelSpec) -> Array:
    """Return one item of the model's own size as inference would see it.

    Raises RefusedError `inference.input`.
    """
    return to_tensor(item, spec)[0]  # type: ignore[no-any-return]  # numpy's indexing is untyped
