"""The process that makes an evaluation set of a dataset version: `python -m … FOLDER`.

See dataset_evaluation.py, which starts it.
"""

import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from cloud_hub.candidates.dataset_evaluation import (
    EVALUATION,
    ITEMS_BYTES_MAX,
    MADE,
    MAKING_MEMORY_BYTES_MAX,
    MAKING_S_MAX,
    ORDER,
    EvaluationMade,
    EvaluationOrder,
)
from cloud_hub.candidates.evaluation_boxes import arrays_of
from cloud_hub.candidates.evaluation_limits import SLICES_MAX
from cloud_hub.datasets.array_targets import check_kind
from cloud_hub.datasets.making import Problem
from cloud_hub.datasets.manifest import Item, Manifest, Part
from cloud_hub.datasets.object_packs import read_manifest
from cloud_hub.datasets.opencv_arrays import Arrays, load_arrays
from cloud_hub.object_store import ObjectStore
from cloud_hub.process_limits import limit_this_process
from shared.errors import ContractError, IsthmusError
from shared.model.postprocess import Boxes
from shared.model.spec import ImageInput, ModelSpec, Task, TextInput

Array = NDArray[np.generic]

UNKNOWN = "unknown"
OTHER = "other"


def main() -> None:
    """Carry out the order in the folder named on the command line."""
    limit_this_process(MAKING_MEMORY_BYTES_MAX, MAKING_S_MAX)
    folder = Path(sys.argv[1])
    order = msgspec.json.decode((folder / ORDER).read_bytes(), type=EvaluationOrder)
    try:
        _write(order, folder / EVALUATION)
        made = EvaluationMade()
    except IsthmusError as error:
        made = EvaluationMade(
            Problem(type(error).__name__, error.code, error.message, error.remedy)
        )
    (folder / MADE).write_bytes(msgspec.json.encode(made))


def _write(order: EvaluationOrder, file: Path) -> None:
    objects = ObjectStore(order.objects)
    manifest = read_manifest(objects, order.manifest)
    check_kind(manifest, order.spec)
    items_max = min(order.items_max, ITEMS_BYTES_MAX // _item_bytes(order.spec))
    items = _chosen(manifest, items_max, order.spec.task)
    arrays = load_arrays(objects, msgspec.structs.replace(manifest, items=items), order.spec)
    found = {"items": _items(arrays, order.spec)} | _truth(arrays)
    slices = _slices(items)
    if slices:
        found["slices"] = np.array(slices)
    np.savez(file, **found)  # type: ignore[arg-type]  # numpy's own keyword beside the arrays


def _items(arrays: Arrays, spec: ModelSpec) -> Array:
    """Return the items as a set holds them: texts are bytes again, (N, M) padded with NUL."""
    if not isinstance(spec.input, TextInput):
        return arrays.items
    tokens = arrays.items.astype(np.int64)  # (N, L), byte + 1, 0 where there is none
    longest = max(1, int((tokens > 0).sum(axis=1).max()))
    return np.maximum(tokens[:, :longest] - 1, 0).astype(np.uint8)  # (N, M)


def _truth(arrays: Arrays) -> dict[str, Array]:
    """Return what is true of the items: labels, or boxes; see evaluation_data.py."""
    if arrays.boxes is None:
        return {"labels": arrays.labels}
    known = [boxes for boxes in arrays.boxes if boxes is not None]
    assert len(known) == len(arrays.boxes), "items without boxes were left out"
    return arrays_of([_with_area(boxes) for boxes in known])


def _with_area(boxes: Boxes) -> Boxes:
    """Return the boxes within the picture; what rounding left without area is no object."""
    corners = np.clip(boxes.corners, 0.0, 1.0)
    kept = (corners[:, 2] > corners[:, 0]) & (corners[:, 3] > corners[:, 1])
    return Boxes(corners[kept], boxes.scores[kept], boxes.classes[kept])


def _is_labelled(item: Item, task: Task) -> bool:
    return (item.boxes if task is Task.DETECTION else item.label) is not None


def _chosen(manifest: Manifest, items_max: int, task: Task) -> tuple[Item, ...]:
    """Return labelled items of the test part, in their order; of too many, lowest digests."""
    in_test = (item for item in manifest.items if item.part is Part.TEST)
    found = [item for item in in_test if _is_labelled(item, task)]
    if not found:
        raise ContractError(
            "evaluation.empty",
            f"The test part of {manifest.dataset!r} has no "
            + ("picture with boxes." if task is Task.DETECTION else "labelled item."),
            remedy="Label some, or split the dataset anew with a test part.",
        )
    kept = {item.digest for item in sorted(found, key=lambda item: item.digest)[:items_max]}
    return tuple(item for item in found if item.digest in kept)[:items_max]


def _slices(items: Sequence[Item]) -> list[str]:
    """Return each item's device, else site; nothing where no item says either."""
    has_devices = any(item.device for item in items)
    names = [(item.device if has_devices else item.site) or UNKNOWN for item in items]
    counts = Counter(names)
    if set(counts) == {UNKNOWN}:
        return []
    kept = {name for name, _ in counts.most_common(SLICES_MAX)}
    if len(counts) > SLICES_MAX:
        kept = {name for name, _ in counts.most_common(SLICES_MAX - 1)}
    return [name if name in kept else OTHER for name in names]


def _item_bytes(spec: ModelSpec) -> int:
    if isinstance(spec.input, ImageInput):
        return spec.input.height * spec.input.width * 3
    return 4 * int(np.prod(spec.input_shape))


if __name__ == "__main__":
    main()
