"""Manifest: everything a dataset version is, but for the items' bytes. Values only.

1. A version is immutable; its digest is the SHA-256 of its encoded manifest. Another label, item or
   part makes another version.
2. An item's bytes are kept once, by their SHA-256, in packs of many items; versions share packs.
   IMAGE: a PNG, JPEG or WebP file as it came. WINDOW: float32 (T, C), C order, little-endian.
   TEXT: UTF-8.
3. `label` is an index into `classes` (anomaly detection: 0 normal, 1 anomalous); None says that
   nobody has labelled the item. `boxes` likewise: () is a picture on which nothing is to be seen.
4. Items of one group (the same device, site, hour, clip, person) are never in two parts.
"""

from enum import StrEnum
from typing import Annotated

import msgspec
from msgspec import Meta

from shared.errors import IntegrityError
from shared.release.digest import digest_of
from shared.wire.limits import Count, Digest, Name, Share, ShortText, UnixMs

ITEMS_MAX = 2_000_000
CLASSES_MAX = 10_000
BOXES_MAX = 2_000  # On one picture
PACK_BYTES_MAX = 32 << 20
ITEM_BYTES_MAX = 24 << 20
MANIFEST_BYTES_MAX = 1 << 30
FOLDER = "datasets"  # In the object store

ClassIndex = Annotated[int, Meta(ge=0, lt=CLASSES_MAX)]


class ItemKind(StrEnum):
    """What the items are."""

    IMAGE = "image"
    WINDOW = "window"
    TEXT = "text"


class Part(StrEnum):
    """What an item is used for."""

    TRAIN = "train"
    VALIDATION = "validation"  # Chooses: the epoch, the trial, the threshold
    TEST = "test"  # Judges; never trained on, never chosen by


class Box(msgspec.Struct, frozen=True, array_like=True):
    """One object on a picture: corners as shares of its width and height, 0..1."""

    class_index: ClassIndex
    left: Share
    top: Share
    right: Share
    bottom: Share


class Item(msgspec.Struct, frozen=True, array_like=True):
    """One item; see the rules above."""

    digest: Digest  # Of its bytes
    pack: Digest
    start: Count  # Where in the pack
    bytes_count: Count
    part: Part
    name: ShortText  # Where it came from: "cats/0001.jpg", "line 17"
    label: ClassIndex | None = None
    boxes: tuple[Box, ...] | None = None
    device: ShortText = ""
    site: ShortText = ""
    captured_ms: UnixMs | None = None
    group: ShortText = ""  # What must stay together; empty: the item stands alone


class Manifest(msgspec.Struct, frozen=True):
    """One version of a dataset."""

    dataset: Name
    kind: ItemKind
    classes: tuple[ShortText, ...]
    items: tuple[Item, ...]
    # (T, C) of every window; empty for images and texts, which differ.
    window_shape: tuple[int, ...] = ()
    # How parts were made, for people: "by group device, 70/15/15, seed 0".
    split_rule: ShortText = ""
    # Of windows, over the training part: what a model's input.mean and input.scale should be.
    channel_means: tuple[float, ...] = ()
    channel_deviations: tuple[float, ...] = ()


_ENCODER = msgspec.msgpack.Encoder(order="deterministic")
_DECODER = msgspec.msgpack.Decoder(Manifest)


def encode_manifest(manifest: Manifest) -> bytes:
    """Return a manifest's bytes, the same for the same version everywhere."""
    return _ENCODER.encode(manifest)


def decode_manifest(data: bytes, *, digest: str) -> Manifest:
    """Return the manifest of a version. Raises IntegrityError `dataset.damaged`."""
    if digest_of(data) == digest:
        try:
            return _DECODER.decode(data)
        except msgspec.MsgspecError:
            pass  # Written by a newer hub, or never a manifest
    raise IntegrityError(
        "dataset.damaged",
        f"The manifest of dataset version {digest[:12]} is not what was written.",
        remedy="Put the object store back from a backup, or import the dataset again.",
    )


def manifest_path(digest: str) -> str:
    """Return where a manifest lies in the object store."""
    return f"{FOLDER}/manifests/{digest}.msgpack"


def pack_path(digest: str) -> str:
    """Return where a pack lies in the object store."""
    return f"{FOLDER}/packs/{digest}"
