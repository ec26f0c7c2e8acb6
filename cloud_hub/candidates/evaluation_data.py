"""EvaluationData: an evaluation set's arrays, and their split in two. Pure numpy.

1. The calibration part are the items whose bytes hash lowest: a fifth of all, at most
   CALIBRATION_ITEMS_MAX; the same for the same items in any order. An item that is there twice is
   in one part only.
2. What is held out was never seen by whatever set or tuned the candidate's forms.
3. What is true of an item is its label, or, on pictures for detectors, the boxes on it
   (evaluation_boxes.py), or a mask; a set has one of them. Labels are classes, or floats (N, k).
4. A forecaster's set needs no labels: its windows may be longer than the model's, and what follows
   is what is true.
"""

import hashlib
import io
import zipfile
import zlib
from collections import Counter
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from cloud_hub.candidates.evaluation_boxes import TrueBoxes, check_boxes
from cloud_hub.candidates.evaluation_limits import (
    CALIBRATION_ITEMS_MAX,
    CALIBRATION_SHARE,
    EVALUATION_BYTES_MAX,
    ITEMS_MAX,
    SAVE_REMEDY,
    SLICE_CHARS_MAX,
    SLICES_MAX,
)
from cloud_hub.candidates.evaluation_scores import NOT_LABELLED
from shared.errors import ContractError
from shared.model.spec import ImageInput, Layout, ModelSpec, Task, TextInput, WindowInput
from shared.wire.records import VALUES_MAX

Array = NDArray[np.generic]
TEXT_AXES = 2
WINDOW_AXES = 3
FRAME_AXES = 4
NAMES = ("items", "labels", "boxes", "box_starts", "masks", "slices")
UNLABELLED = -1
NUMBER_TASKS = frozenset({Task.REGRESSION, Task.FORECAST})
_FORMAT_ERRORS = (ValueError, KeyError, EOFError, zipfile.BadZipFile, MemoryError, zlib.error)


@dataclass(frozen=True, slots=True)
class EvaluationData:
    """Items with what is true of them."""

    items: Array  # (N, H, W, 3) uint8 BGR, (N, T, C) float32, or (N, M) uint8 texts, NUL-padded
    labels: NDArray[np.int64]  # (N,), UNLABELLED where boxes say what is true
    slices: tuple[str, ...]  # (N,), or empty where none are named
    boxes: TrueBoxes | None = None  # Of pictures for detectors
    values: NDArray[np.float64] | None = None  # (N, k), of numbers
    masks: NDArray[np.uint8] | None = None  # (N, h, w), NOT_LABELLED where nobody said

    def slice_counts(self) -> dict[str, int]:
        """Return how many items each slice has."""
        return dict(sorted(Counter(self.slices).items()))


@dataclass(frozen=True, slots=True)
class Split:
    """Indices of the two parts, each in the order of the set."""

    calibration: tuple[int, ...]
    held_out: tuple[int, ...]


def decode_evaluation(data: bytes) -> EvaluationData:
    """Return the arrays of an .npz. Raises ContractError `evaluation.invalid` naming the array."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as zipped:
            if sum(info.file_size for info in zipped.infolist()) > EVALUATION_BYTES_MAX:
                raise ValueError(f"it unpacks to over {EVALUATION_BYTES_MAX} bytes")
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            unknown = sorted(set(archive.files) - set(NAMES))
            if unknown:
                raise ValueError(f"unexpected array {unknown[0][:80]!r}")
            found = {name: archive[name] for name in archive.files}
    except (OSError, *_FORMAT_ERRORS) as error:
        raise _invalid(str(error) or type(error).__name__) from error
    if "items" not in found:
        raise _invalid("`items` is missing")
    items = found["items"]
    _check_items(items)
    count = int(items.shape[0])
    boxes = _boxes(found, items)
    masks, values = _masks(found, items), _values(found, count)
    is_foretold = "labels" not in found and items.ndim == WINDOW_AXES
    has_classes = boxes is None and masks is None and values is None and not is_foretold
    labels = _labels(found, count) if has_classes else np.full(count, UNLABELLED, np.int64)
    names = _slice_names(found.get("slices"), count)
    return EvaluationData(items, labels, names, boxes, values, masks)


def split(items: Array) -> Split:
    """Return which items calibrate and which are held out; see rule 1."""
    hashes = [hashlib.sha256(np.ascontiguousarray(item).data).digest() for item in items]
    wanted = min(CALIBRATION_ITEMS_MAX, int(len(hashes) * CALIBRATION_SHARE))
    # The first hash that is not wanted any more ends the part: equal items fall on one side.
    bound = sorted(hashes)[wanted] if hashes else b""
    return Split(
        calibration=tuple(index for index, value in enumerate(hashes) if value < bound),
        held_out=tuple(index for index, value in enumerate(hashes) if value >= bound),
    )


def pick(data: EvaluationData, indices: tuple[int, ...]) -> EvaluationData:
    """Return some of the items."""
    chosen = list(indices)
    slices = tuple(data.slices[index] for index in chosen) if data.slices else ()
    return EvaluationData(
        data.items[chosen],
        data.labels[chosen],
        slices,
        data.boxes.pick(chosen) if data.boxes is not None else None,
        data.values[chosen] if data.values is not None else None,
        data.masks[chosen] if data.masks is not None else None,
    )


def foretold(data: EvaluationData, spec: ModelSpec) -> EvaluationData:
    """Return a forecaster's set with what follows the model's window as its values; rule 4.

    Values are in the order of the model's layout: (k / C, C) rows, or (C, k / C) where channels are
    first. Any other set comes back as it is.
    """
    window = spec.input
    if spec.task is not Task.FORECAST or data.values is not None:
        return data
    if not isinstance(window, WindowInput) or data.items.ndim != WINDOW_AXES:
        return data
    rest = data.items[:, window.samples :]
    if not rest.shape[1] or data.items.shape[2] != window.channels:
        return data
    if window.layout is Layout.CHANNELS_FIRST:
        rest = rest.transpose(0, 2, 1)
    values = rest.reshape(rest.shape[0], -1).astype(np.float64)
    return replace(data, items=data.items[:, : window.samples], values=values)


def check_fit(data: EvaluationData, spec: ModelSpec) -> None:
    """Raise ContractError `evaluation.misfit` if a model of this spec cannot be judged by a set."""
    match spec.input:
        case ImageInput() as image:
            wanted: tuple[int | str, ...] = (image.height, image.width, 3)
        case WindowInput() as window:
            wanted = (window.samples, window.channels)
        case TextInput():  # Texts of any length: what is longer is cut
            wanted = data.items.shape[1:] if data.items.ndim == TEXT_AXES else ("bytes",)
    if data.items.shape[1:] != wanted:
        raise _misfit(f"items have shape {data.items.shape[1:]}, the model takes {wanted}")
    if spec.task is Task.DETECTION:
        _check_boxes_fit(data, spec)
        return
    if spec.task is Task.SEGMENTATION:
        _check_masks_fit(data, spec)
        return
    if spec.task in NUMBER_TASKS:
        _check_values_fit(data, spec)
        return
    if data.masks is not None:
        raise _misfit(f"it has `masks`, the model's task is {spec.task}")
    if data.values is not None:
        raise _misfit(f"`labels` are numbers with a fraction, the model's task is {spec.task}")
    if data.boxes is not None:
        raise _misfit(f"it has boxes, the model's task is {spec.task}")
    labels_count = 2 if spec.task is Task.ANOMALY else len(spec.output.classes)
    low, high = int(data.labels.min()), int(data.labels.max())
    if low < 0 or high >= labels_count:
        raise _misfit(f"labels go from {low} to {high}, the model knows 0 to {labels_count - 1}")


def _check_boxes_fit(data: EvaluationData, spec: ModelSpec) -> None:
    if data.boxes is None:
        raise _misfit("it has labels, a detector is measured on boxes")
    highest, classes_count = data.boxes.class_max, len(spec.output.classes)
    if highest >= classes_count:
        raise _misfit(
            f"boxes have classes up to {highest}, the model knows 0 to {classes_count - 1}"
        )


def _check_masks_fit(data: EvaluationData, spec: ModelSpec) -> None:
    if data.masks is None:
        raise _misfit("`masks` are missing, segmentation is measured on them")
    known = data.masks[data.masks != NOT_LABELLED]
    highest, classes_count = int(known.max()), len(spec.output.classes)
    if highest >= classes_count:
        raise _misfit(
            f"`masks` have classes up to {highest}, the model knows 0 to {classes_count - 1}"
        )


def _check_values_fit(data: EvaluationData, spec: ModelSpec) -> None:
    if data.values is None:
        what = "`labels` must be (N, k) floats: what is true of each item"
        if spec.task is Task.FORECAST:
            what += ", or left out where `items` go on beyond the model's window"
        raise _misfit(what)
    found, names_count = data.values.shape[1], len(spec.output.classes)
    if names_count and found != names_count:
        raise _misfit(f"`labels` have {found} values of an item, the model gives {names_count}")


def _values(found: dict[str, Array], count: int) -> NDArray[np.float64] | None:
    labels = found.get("labels")
    if labels is None or labels.dtype.kind != "f":
        return None
    if labels.ndim == 1:
        labels = labels[:, None]
    if labels.ndim != TEXT_AXES or labels.shape[0] != count or not labels.shape[1] <= VALUES_MAX:
        raise _invalid(f"`labels` of numbers must be ({count}, k) floats, k 1 to {VALUES_MAX}")
    if not labels.size or not np.isfinite(labels).all():
        raise _invalid("`labels` hold NaN or infinity, or no value")
    return labels.astype(np.float64)


def _masks(found: dict[str, Array], items: Array) -> NDArray[np.uint8] | None:
    masks = found.get("masks")
    if masks is None:
        return None
    if "labels" in found or "boxes" in found:
        raise _invalid("`masks` stand alone: a set for segmentation has no labels and no boxes")
    if items.ndim != FRAME_AXES:
        raise _invalid("`masks` belong to (N, H, W, 3) frames only")
    is_fit = masks.ndim == WINDOW_AXES and masks.dtype == np.uint8 and masks.size > 0
    if not is_fit or masks.shape[0] != items.shape[0]:
        raise _invalid(
            f"`masks` are {masks.dtype} {masks.shape}; they must be ({items.shape[0]}, h, w) "
            f"uint8, {NOT_LABELLED} where nobody said what is there"
        )
    empty = np.flatnonzero((masks == NOT_LABELLED).all(axis=(1, 2)))
    if empty.size:
        raise _invalid(f"`masks` say nothing about picture {int(empty[0])}")
    return np.asarray(masks, np.uint8)


def _labels(found: dict[str, Array], count: int) -> NDArray[np.int64]:
    labels = found.get("labels")
    if labels is None:
        raise _invalid("`labels` are missing, or `boxes` with `box_starts` for a detector")
    if labels.shape != (count,) or labels.dtype.kind not in "iub":
        raise _invalid(f"`labels` must be ({count},) whole numbers, one for each item")
    return labels.astype(np.int64)


def _boxes(found: dict[str, Array], items: Array) -> TrueBoxes | None:
    boxes, starts = found.get("boxes"), found.get("box_starts")
    if boxes is None and starts is None:
        return None
    if "labels" in found:
        raise _invalid("`labels` and `boxes` are both there: a detector's set has boxes only")
    if items.ndim != FRAME_AXES:
        raise _invalid("`boxes` belong to (N, H, W, 3) frames only")
    try:
        return check_boxes(boxes, starts, int(items.shape[0]))
    except ValueError as error:
        raise _invalid(str(error)) from error


def _check_items(items: Array) -> None:
    is_frames = items.ndim == FRAME_AXES and items.dtype == np.uint8 and items.shape[3] == 3
    is_windows = items.ndim == 3 and items.dtype == np.float32
    is_texts = items.ndim == TEXT_AXES and items.dtype == np.uint8
    if not is_frames and not is_windows and not is_texts:
        raise _invalid(
            f"`items` are {items.dtype} {items.shape}; they must be (N, H, W, 3) uint8 BGR "
            "frames, (N, T, C) float32 windows or (N, M) uint8 texts"
        )
    if not 1 <= items.shape[0] <= ITEMS_MAX or not items.size:
        raise _invalid(f"`items` must be 1 to {ITEMS_MAX}")
    if is_windows and not np.isfinite(items).all():
        raise _invalid("`items` hold NaN or infinity")


def _slice_names(slices: Array | None, count: int) -> tuple[str, ...]:
    if slices is None:
        return ()
    if slices.shape != (count,) or slices.dtype.kind != "U":
        raise _invalid(f"`slices` must be ({count},) texts, one for each item")
    names = tuple(str(name) for name in slices)
    if any(not 0 < len(name) <= SLICE_CHARS_MAX or not name.isprintable() for name in set(names)):
        raise _invalid(f"`slices` must be printable texts of 1 to {SLICE_CHARS_MAX} characters")
    if len(set(names)) > SLICES_MAX:
        raise _invalid(f"`slices` name {len(set(names))} slices, over {SLICES_MAX}")
    return names


def _misfit(text: str) -> ContractError:
    return ContractError(
        "evaluation.misfit",
        f"The evaluation set does not fit the model: {text}.",
        remedy="Add a set of items of the model's own size, labelled with its classes; a "
        "detector's with boxes.",
    )


def _invalid(text: str) -> ContractError:
    return ContractError(
        "evaluation.invalid",
        f"Not an evaluation set: {text}.",
        remedy=SAVE_REMEDY,
    )
