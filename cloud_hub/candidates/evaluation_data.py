"""EvaluationData: an evaluation set's arrays, and their split in two. Pure numpy.

1. The calibration part are the items whose bytes hash lowest: a fifth of all, at most
   CALIBRATION_ITEMS_MAX; the same for the same items in any order. An item that is there twice is
   in one part only.
2. What is held out was never seen by whatever set or tuned the candidate's forms.
"""

import hashlib
import io
import zipfile
import zlib
from collections import Counter
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cloud_hub.candidates.evaluation_limits import (
    CALIBRATION_ITEMS_MAX,
    CALIBRATION_SHARE,
    EVALUATION_BYTES_MAX,
    ITEMS_MAX,
    SLICE_CHARS_MAX,
    SLICES_MAX,
)
from shared.errors import ContractError
from shared.model.spec import ImageInput, ModelSpec, Task, WindowInput

Array = NDArray[np.generic]
NAMES = ("items", "labels", "slices")
_FORMAT_ERRORS = (ValueError, KeyError, EOFError, zipfile.BadZipFile, MemoryError, zlib.error)


@dataclass(frozen=True, slots=True)
class EvaluationData:
    """Items with what is true of them."""

    items: Array  # (N, H, W, 3) uint8 BGR, or (N, T, C) float32
    labels: NDArray[np.int64]  # (N,)
    slices: tuple[str, ...]  # (N,), or empty where none are named

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
            items, labels = archive["items"], archive["labels"]
            slices = archive["slices"] if "slices" in archive.files else None
    except (OSError, *_FORMAT_ERRORS) as error:
        raise _invalid(str(error) or type(error).__name__) from error
    _check_items(items)
    count = int(items.shape[0])
    if labels.shape != (count,) or labels.dtype.kind not in "iub":
        raise _invalid(f"`labels` must be ({count},) whole numbers, one for each item")
    return EvaluationData(items, labels.astype(np.int64), _slice_names(slices, count))


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
    return EvaluationData(data.items[chosen], data.labels[chosen], slices)


def check_fit(data: EvaluationData, spec: ModelSpec) -> None:
    """Raise ContractError `evaluation.misfit` if a model of this spec cannot be judged by a set."""
    match spec.input:
        case ImageInput() as image:
            wanted: tuple[int, ...] = (image.height, image.width, 3)
        case WindowInput() as window:
            wanted = (window.samples, window.channels)
    if data.items.shape[1:] != wanted:
        raise _misfit(f"items have shape {data.items.shape[1:]}, the model takes {wanted}")
    labels_count = 2 if spec.task is Task.ANOMALY else len(spec.output.classes)
    low, high = int(data.labels.min()), int(data.labels.max())
    if low < 0 or high >= labels_count:
        raise _misfit(f"labels go from {low} to {high}, the model knows 0 to {labels_count - 1}")


def _check_items(items: Array) -> None:
    is_frames = items.ndim == 4 and items.dtype == np.uint8 and items.shape[3] == 3
    is_windows = items.ndim == 3 and items.dtype == np.float32
    if not is_frames and not is_windows:
        raise _invalid(
            f"`items` are {items.dtype} {items.shape}; they must be (N, H, W, 3) uint8 BGR "
            "frames or (N, T, C) float32 windows"
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
        remedy="Add a set of items of the model's own size, labelled with its classes.",
    )


def _invalid(text: str) -> ContractError:
    return ContractError(
        "evaluation.invalid",
        f"Not an evaluation set: {text}.",
        remedy="Save it with numpy.savez(items=..., labels=..., slices=...).",
    )
