"""What is true of items as a model counts it: class indices of its own spec, boxes in its input.

Pure. Classes meet by name: a dataset and a model may have them in different orders.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from cloud_hub.datasets.manifest import Box, Item, ItemKind, Manifest
from shared.errors import ContractError
from shared.model.postprocess import Boxes
from shared.model.spec import ImageInput, ModelSpec, Task, TextInput, WindowInput

UNLABELLED = -1
NAMED_MAX = 5  # Classes named in one error


def check_kind(manifest: Manifest, spec: ModelSpec) -> None:
    """Raise ContractError `dataset.kind` or `dataset.shape` if a model cannot take the items."""
    match spec.input:
        case ImageInput():
            wanted = ItemKind.IMAGE
        case WindowInput():
            wanted = ItemKind.WINDOW
        case TextInput():
            wanted = ItemKind.TEXT
    if manifest.kind is not wanted:
        raise ContractError(
            "dataset.kind",
            f"The model takes {wanted} items, {manifest.dataset!r} holds {manifest.kind} items.",
            remedy="Name a dataset of the model's kind.",
        )
    if isinstance(spec.input, WindowInput):
        shape = (spec.input.samples, spec.input.channels)
        if manifest.window_shape != shape:
            raise ContractError(
                "dataset.shape",
                f"The model takes windows {shape}, {manifest.dataset!r} has "
                f"{manifest.window_shape}.",
                remedy="Set input.samples and input.channels of the spec to the dataset's.",
            )


def labels_of(manifest: Manifest, spec: ModelSpec) -> NDArray[np.int64]:
    """Return each item's label as the model counts it, (N,); -1: not labelled.

    Anomaly: the dataset's own number. Detection: 0 where boxes are known. Raises ContractError
    `dataset.classes`.
    """
    if spec.task is Task.DETECTION:
        known = [UNLABELLED if item.boxes is None else 0 for item in manifest.items]
        return np.array(known, dtype=np.int64)
    found = np.array(
        [UNLABELLED if item.label is None else item.label for item in manifest.items],
        dtype=np.int64,
    )
    if spec.task is Task.ANOMALY:
        return found
    if spec.task is not Task.CLASSIFICATION:
        raise ContractError(
            "dataset.task",
            f"Datasets hold classes and boxes; the task {spec.task} needs another truth.",
            remedy="Train such a model elsewhere and upload it.",
        )
    used = {int(label) for label in np.unique(found) if label != UNLABELLED}
    mapped = class_map(manifest, spec, used)
    return np.where(found == UNLABELLED, UNLABELLED, mapped[found])


def class_map(manifest: Manifest, spec: ModelSpec, used: set[int]) -> NDArray[np.int64]:
    """Return the model's index of each of the dataset's classes, (classes,).

    Raises ContractError `dataset.classes` if the model lacks one that is `used`.
    """
    own = {name: index for index, name in enumerate(spec.output.classes)}
    missing = [
        manifest.classes[index] for index in sorted(used) if manifest.classes[index] not in own
    ]
    if missing:
        named = ", ".join(repr(name) for name in missing[:NAMED_MAX])
        raise ContractError(
            "dataset.classes",
            f"The model has no class {named}, which items of {manifest.dataset!r} have.",
            remedy="Name the dataset's classes in output.classes of the spec.",
        )
    # At least one row, so that indexing with -1 (not labelled) works where there are no classes.
    found = [own.get(name, UNLABELLED) for name in manifest.classes] or [UNLABELLED]
    return np.array(found, dtype=np.int64)


def boxes_in_input(
    manifest: Manifest, spec: ModelSpec, places: NDArray[np.float32]
) -> tuple[Boxes | None, ...]:
    """Return each item's boxes in shares of the model's input, None where nobody has drawn them.

    Args:
        manifest: of the version.
        spec: the model's.
        places: (N, 4) left, top, width, height of each picture within the model's input, in shares.

    Raises ContractError `dataset.classes`.
    """
    used = {box.class_index for item in manifest.items for box in item.boxes or ()}
    mapped = class_map(manifest, spec, used)
    return tuple(
        None if item.boxes is None else _boxes(item.boxes, place, mapped)
        for item, place in zip(manifest.items, places, strict=True)
    )


def item_texts(items: Sequence[Item]) -> str:
    """Return what says which bytes these are, in their order: one digest a line."""
    return "\n".join(item.digest for item in items)


def _boxes(boxes: tuple[Box, ...], place: NDArray[np.float32], mapped: NDArray[np.int64]) -> Boxes:
    rows = [(box.left, box.top, box.right, box.bottom) for box in boxes]
    corners = np.array(rows, dtype=np.float32).reshape(-1, 4)
    corners = corners * np.tile(place[2:], 2) + np.tile(place[:2], 2)  # (n, 4)
    classes = mapped[np.array([box.class_index for box in boxes], dtype=np.int64)]
    return Boxes(corners.astype(np.float32), np.ones(len(boxes), np.float32), classes)
