"""Arrays: a dataset version's items decoded at a model's size, as training and the gate take them.

1. One pack is held at a time beside the result, and the next is fetched meanwhile; images are
   decoded by threads (OpenCV leaves the interpreter's lock while it decodes).
2. Where a cache folder is given the result is written there as it comes, and memory-mapped: what is
   larger than memory still works. Writing into what is returned changes no file.
3. A cache entry is known by the items' digests and the model's input: other labels, parts or
   classes of the same items find the same entry. A damaged one is made again.
"""

import os
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import msgspec
import numpy as np
from numpy.typing import NDArray

from cloud_hub.datasets.array_targets import boxes_in_input, check_kind, item_texts, labels_of
from cloud_hub.datasets.file_array_cache import Array, ArrayCache
from cloud_hub.datasets.manifest import Item, Manifest
from cloud_hub.datasets.object_packs import PackPiece, pack_pieces
from cloud_hub.object_store import ObjectStore
from shared.errors import IntegrityError
from shared.model.opencv_resize import FrameResizer
from shared.model.postprocess import Boxes
from shared.model.preprocess import to_tensor
from shared.model.spec import ImageInput, ModelSpec, Task, TextInput, WindowInput
from shared.release.digest import digest_of

THREADS_MAX = 16
CHUNK_ITEMS = 256  # Decoded by one thread before it asks for more
CACHE_VERSION = 1  # Of what is cached: another number where decoding changes
NAMES = ("items", "places")

Places = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Arrays:
    """Every item of a version, in the manifest's order."""

    # IMAGE uint8 (N, H, W, 3) BGR at the model's size, WINDOW float32 (N, T, C), TEXT int64 (N, L)
    items: Array
    labels: NDArray[np.int64]  # (N,), -1: not labelled
    boxes: tuple[Boxes | None, ...] | None  # In shares of the model's input; None: no detection
    indices: NDArray[np.int64]  # (N,) positions in the manifest


def load_arrays(
    objects: ObjectStore, manifest: Manifest, spec: ModelSpec, *, cache: Path | None = None
) -> Arrays:
    """Return a version's items as a model of `spec` takes them.

    Args:
        objects: where the packs lie.
        manifest: of the version.
        spec: the model's: input and classes.
        cache: a folder where decoded items are kept for the next time.

    Raises:
        ContractError: `dataset.kind`, `dataset.shape` or `dataset.classes`.
        IntegrityError: `dataset.damaged`.
        TransientError: `object_store.failed` or `dataset.cache`.
    """
    check_kind(manifest, spec)
    labels = labels_of(manifest, spec)  # (N,)
    items, places = _load(objects, manifest, spec, cache)
    is_detection = spec.task is Task.DETECTION
    return Arrays(
        items=items,
        labels=labels,
        boxes=boxes_in_input(manifest, spec, places) if is_detection else None,
        indices=np.arange(len(manifest.items), dtype=np.int64),
    )


def _load(
    objects: ObjectStore, manifest: Manifest, spec: ModelSpec, cache: Path | None
) -> tuple[Array, Places]:
    shape, dtype = _item_form(spec)
    shapes = ((len(manifest.items), *shape), (len(manifest.items), 4))
    if cache is None:
        items, places = np.empty(shapes[0], dtype), np.zeros(shapes[1], np.float32)
        _decode_all(objects, manifest.items, spec, items, places)
        return items, places
    entry = ArrayCache(cache, _key(manifest, spec))
    found = entry.read(NAMES)
    if found is None or found["items"].shape != shapes[0] or found["places"].shape != shapes[1]:
        _fill(entry, objects, manifest, spec)
        found = entry.read(NAMES)
    if found is None:
        raise IntegrityError(
            "dataset.damaged",
            f"What was just written to {cache} reads differently.",
            remedy="Check that disk, or name another folder.",
        )
    return found["items"], found["places"].astype(np.float32, copy=False)


def _fill(entry: ArrayCache, objects: ObjectStore, manifest: Manifest, spec: ModelSpec) -> None:
    shape, dtype = _item_form(spec)
    count = len(manifest.items)
    made = entry.begin()
    try:
        items = made.create("items", (count, *shape), dtype)
        places = made.create("places", (count, 4), np.float32)
        _decode_all(objects, manifest.items, spec, items, places)
        made.finish({"items": items, "places": places})
    finally:
        made.drop()  # Nothing is left there once it is in its place


def _item_form(spec: ModelSpec) -> tuple[tuple[int, ...], type[np.generic]]:
    match spec.input:
        case ImageInput(height=height, width=width):
            return (height, width, 3), np.uint8
        case WindowInput(samples=samples, channels=channels):
            return (samples, channels), np.float32
        case TextInput(length=length):
            return (length,), np.int64


def _key(manifest: Manifest, spec: ModelSpec) -> str:
    taken = msgspec.json.encode(spec.input, order="deterministic").decode()
    return digest_of(f"{CACHE_VERSION}\n{taken}\n{item_texts(manifest.items)}".encode())


def _decode_all(
    objects: ObjectStore, items: Sequence[Item], spec: ModelSpec, out: Array, places: Array
) -> None:
    """Decode every item into `out`, and where it lies in the model's input into `places`."""
    threads = min(THREADS_MAX, len(os.sched_getaffinity(0)))
    with ThreadPoolExecutor(threads) as pool:
        for pack in pack_pieces(objects, items):
            pieces = (
                pack.indices[start : start + CHUNK_ITEMS]
                for start in range(0, len(pack.indices), CHUNK_ITEMS)
            )
            waited: list[Future[None]] = [
                pool.submit(_decode_piece, spec, pack, items, piece, out, places)
                for piece in pieces
            ]
            for future in waited:
                future.result()


def _decode_piece(
    spec: ModelSpec,
    pack: PackPiece,
    items: Sequence[Item],
    piece: Sequence[int],
    out: Array,
    places: Array,
) -> None:
    match spec.input:
        case ImageInput() as image:
            _decode_images(image, pack, items, piece, out, places)
        case WindowInput() as window:
            _decode_windows(window, pack, items, piece, out)
        case TextInput():
            _decode_texts(spec, pack, items, piece, out)


def _decode_images(
    image: ImageInput,
    pack: PackPiece,
    items: Sequence[Item],
    piece: Sequence[int],
    out: Array,
    places: Array,
) -> None:
    resizer = FrameResizer(image)
    size = np.array([image.width, image.height] * 2, dtype=np.float32)
    for index in piece:
        data = np.frombuffer(pack.item(items[index]), np.uint8)
        try:
            pixels = cv2.imdecode(data, cv2.IMREAD_COLOR) if data.size else None
        except cv2.error:  # Larger than OpenCV takes
            pixels = None
        if pixels is None:
            raise IntegrityError(
                "dataset.damaged",
                f"The item {items[index].name!r} is no picture that can be read.",
                remedy="Import the dataset again without it.",
            )
        resized, place = resizer.resize(pixels.astype(np.uint8, copy=False))
        out[index] = resized
        places[index] = np.array([place.left, place.top, place.width, place.height]) / size


def _decode_windows(
    window: WindowInput, pack: PackPiece, items: Sequence[Item], piece: Sequence[int], out: Array
) -> None:
    shape = (window.samples, window.channels)
    for index in piece:
        data = pack.item(items[index])
        if len(data) != 4 * shape[0] * shape[1]:
            raise IntegrityError(
                "dataset.damaged",
                f"The item {items[index].name!r} is no window of {shape}.",
                remedy="Import the dataset again.",
            )
        out[index] = np.frombuffer(data, "<f4").reshape(shape)  # (T, C)


def _decode_texts(
    spec: ModelSpec, pack: PackPiece, items: Sequence[Item], piece: Sequence[int], out: Array
) -> None:
    for index in piece:
        text = np.frombuffer(pack.item(items[index]), np.uint8)
        to_tensor(text, spec, out=out[index : index + 1])  # (1, L) tokens
