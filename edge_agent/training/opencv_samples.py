"""Reads a model's labelled samples from the disk: folders of pictures, or one .npz file.

1. Preparing is inference's own: opencv_resize.py, then shared/model/preprocess.py.
2. A picture that cannot be read is left out and counted, a class the model does not have likewise.
3. No symbolic link is followed out of the owner's folder; .npz files hold no pickles.
"""

import logging
import zipfile
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from edge_agent.training.samples import ITEMS_MAX, LocalSamples, is_held_out, prepare, split
from edge_agent.training.settings import SampleFormat, SampleSettings
from shared.errors import RefusedError
from shared.model.opencv_resize import FrameResizer
from shared.model.preprocess import Array
from shared.model.spec import Decoder, ImageInput, ModelSpec, TextInput, WindowInput

log = logging.getLogger(__name__)

SUFFIXES = frozenset({".png", ".jpg", ".jpeg"})
FILE_BYTES_MAX = 64 << 20
NPZ_BYTES_MAX = 2 << 30
REMEDY = (
    "Correct `path` and `format` under [[learning.samples]] in the agent's file, or the samples."
)


def load_samples(settings: SampleSettings, spec: ModelSpec) -> LocalSamples:
    """Return the samples of one model.

    Raises RefusedError `samples.missing`, `samples.invalid`.
    """
    path = Path(settings.path)
    match settings.format:
        case SampleFormat.FOLDER:
            return _from_folder(path, settings, spec)
        case SampleFormat.NPZ:
            return _from_npz(path, settings, spec)


def _from_folder(path: Path, settings: SampleSettings, spec: ModelSpec) -> LocalSamples:
    if not path.is_dir():
        raise RefusedError(
            "samples.missing", f"There is no folder of samples {path}.", remedy=REMEDY
        )
    if not isinstance(spec.input, ImageInput):
        raise RefusedError("samples.invalid", "Folders of pictures are for models of images.")
    resizer = FrameResizer(spec.input)
    items: list[Array] = []
    labels: list[int] = []
    held_out: list[bool] = []
    unread = 0
    for file, label in _pictures(path, spec):
        data = file.read_bytes()
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) if data else None
        if pixels is None:
            unread += 1
            continue
        resized, _ = resizer.resize(pixels.astype(np.uint8, copy=False))
        items.append(prepare(resized, spec))
        labels.append(label)
        held_out.append(is_held_out(data, settings.held_out_share))
    if unread:
        log.warning("samples.unread", extra={"model": spec.model, "count": unread})
    is_labelled = spec.output.decoder is not Decoder.RECONSTRUCTION
    return split(items, np.array(labels, np.int64) if is_labelled else None, held_out)


def _pictures(path: Path, spec: ModelSpec) -> Iterator[tuple[Path, int]]:
    """Yield pictures in a stable order, each with its class; unlabelled ones lie in `path`."""
    is_labelled = spec.output.decoder is not Decoder.RECONSTRUCTION
    classes = list(enumerate(spec.output.classes)) if is_labelled else [(0, "")]
    count = 0
    root = path.resolve()
    for label, name in classes:
        folder = path / name
        if "/" in name or name in {".", ".."} or not folder.is_dir():
            continue
        for file in sorted(folder.iterdir()):
            if file.suffix.lower() not in SUFFIXES or not file.resolve().is_relative_to(root):
                continue
            if not file.is_file() or file.stat().st_size > FILE_BYTES_MAX:
                continue
            count += 1
            if count > ITEMS_MAX:
                return
            yield file, label


def _from_npz(path: Path, settings: SampleSettings, spec: ModelSpec) -> LocalSamples:
    raw, labels = _read_npz(path, spec)
    resizer = FrameResizer(spec.input) if isinstance(spec.input, ImageInput) else None
    items: list[Array] = []
    held_out: list[bool] = []
    for item in raw:
        held_out.append(is_held_out(np.ascontiguousarray(item).tobytes(), settings.held_out_share))
        items.append(prepare(_sized(item, resizer), spec))
    return split(items, labels, held_out)


def _sized(item: Array, resizer: FrameResizer | None) -> Array:
    if item.ndim == 1:  # A text's bytes
        return item
    if resizer is None:
        return item.astype(np.float32, copy=False)
    pixels = item.astype(np.uint8, copy=False)
    if pixels.ndim == 2:
        pixels = np.repeat(pixels[:, :, None], 3, axis=2)  # (H, W, 3)
    return resizer.resize(pixels)[0]


def _read_npz(path: Path, spec: ModelSpec) -> tuple[Array, Array | None]:
    if not path.is_file():
        raise RefusedError("samples.missing", f"There is no file of samples {path}.", remedy=REMEDY)
    if path.stat().st_size > NPZ_BYTES_MAX:
        raise _invalid(path, f"it is over {NPZ_BYTES_MAX} bytes")
    try:
        with np.load(path, allow_pickle=False) as archive:
            items = archive["items"]
            labels = archive["labels"] if "labels" in archive.files else None
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise _invalid(path, str(error)) from error
    if items.ndim not in _axes(spec) or len(items) > ITEMS_MAX:
        raise _invalid(path, f"`items` is {items.shape}")
    if not isinstance(spec.input, WindowInput) and items.dtype != np.uint8:
        raise _invalid(path, f"`items` is {items.dtype}, not uint8")
    if spec.output.decoder is Decoder.RECONSTRUCTION:
        return items, None
    if labels is None or labels.shape != (len(items),):
        raise _invalid(path, "`labels` must be one for each item")
    return items, _checked(labels, spec, path)


def _axes(spec: ModelSpec) -> tuple[int, ...]:
    """Return how many axes an array of items may have."""
    match spec.input:
        case ImageInput():
            return (3, 4)  # Gray or BGR
        case WindowInput():
            return (3,)
        case TextInput():
            return (2,)


def _checked(labels: Array, spec: ModelSpec, path: Path) -> Array:
    if spec.output.decoder is Decoder.SCORE:
        return labels.astype(np.float32)
    if labels.dtype.kind not in "iu":
        raise _invalid(path, "`labels` must be whole numbers")
    numbers = labels.astype(np.int64)
    if numbers.size and not (numbers.min() >= 0 and numbers.max() < len(spec.output.classes)):
        raise _invalid(path, f"`labels` must be below {len(spec.output.classes)}")
    return numbers


def _invalid(path: Path, reason: str) -> RefusedError:
    text = f"The samples {path} cannot be used: {reason}."
    return RefusedError("samples.invalid", text, remedy=REMEDY)
