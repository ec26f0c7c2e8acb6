"""Preprocess: pixels and samples to the model's input tensor, in numpy, the one copy of it.

The device, the hub's gate and training scale inputs here and nowhere else. What must not live
here: resizing itself (opencv_resize.py), files, a model.

1. `place` says where a frame goes within the model's input: all of it when stretched; when
   letterboxed the largest centred rectangle of the frame's proportions, the rest is `pad_value`.
2. A resized frame is uint8 BGR (height, width, 3). Colours are reordered, gray is BT.601
   (0.299 R + 0.587 G + 0.114 B, rounded to whole numbers, as cameras and training sets do).
3. A float32 tensor is (value - mean) / scale per channel, in the order the model sees channels.
4. A uint8 tensor is the reordered pixels as they are: such a model has mean and scale in its graph.
5. A text is its UTF-8 bytes: token = byte + 1, as many as the model takes, then 0. NUL bytes at the
   end are none of it, so that texts of different lengths fit into one array. Where the spec names a
   tokenizer.json, the item is its ids, int64 (length,), as tokenizers_text.py gives them.
6. Of a window whose last rows a model foretells, the tensor has the rows before; `kept_back` has
   the last ones, scaled alike.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shared.errors import RefusedError
from shared.model.spec import (
    Colour,
    Decoder,
    ImageInput,
    Layout,
    ModelSpec,
    Resize,
    TextInput,
    Tokenizer,
    WindowInput,
)

Array = NDArray[np.generic]
Pixels = NDArray[np.uint8]
Samples = NDArray[np.float32]
Tokenize = Callable[[str], Array]  # A text to its item: bytes, or ids (tokenizers_text.py)

FLOAT = np.dtype(np.float32)
UINT8 = np.dtype(np.uint8)
INT64 = np.dtype(np.int64)
WHOLE_FRAME = (0.0, 0.0, 1.0, 1.0)  # Left, top, right, bottom
GRAY_WEIGHTS_BGR = np.array([0.114, 0.587, 0.299], dtype=np.float32)  # ITU-R BT.601


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a frame lies within the model's input, in input pixels; see rule 1."""

    left: int
    top: int
    width: int
    height: int
    input_width: int
    input_height: int
    region: tuple[float, float, float, float] = WHOLE_FRAME  # What was placed, in shares of it

    def to_frame_shares(self, corners: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return corners given as shares of the model's input as shares of the frame, 0..1.

        Args:
            corners: (n, 4) left, top, right, bottom; what lies in the padding is cut off.
        """
        size = np.array([self.input_width, self.input_height] * 2, dtype=np.float32)
        start = np.array([self.left, self.top] * 2, dtype=np.float32)
        extent = np.array([self.width, self.height] * 2, dtype=np.float32)
        shares: NDArray[np.float32] = np.clip((corners * size - start) / extent, 0.0, 1.0)
        if self.region == WHOLE_FRAME:
            return shares
        left, top, right, bottom = self.region
        corner = np.array([left, top] * 2, dtype=np.float32)
        return corner + shares * np.array([right - left, bottom - top] * 2, dtype=np.float32)


def place(frame_width: int, frame_height: int, image: ImageInput) -> Placement:
    """Return where a frame of this size goes within the model's input; see rule 1."""
    if frame_width < 1 or frame_height < 1:
        raise RefusedError("inference.input", f"A frame of {frame_width}x{frame_height} is empty.")
    width, height = image.width, image.height
    if image.resize is Resize.LETTERBOX:
        ratio = min(image.width / frame_width, image.height / frame_height)
        width = max(1, min(image.width, round(frame_width * ratio)))
        height = max(1, min(image.height, round(frame_height * ratio)))
    return Placement(
        left=(image.width - width) // 2,
        top=(image.height - height) // 2,
        width=width,
        height=height,
        input_width=image.width,
        input_height=image.height,
    )


def tensor_dtype(spec: ModelSpec) -> np.dtype[Any]:
    """Return the number type of a model's input where nothing else is said."""
    return INT64 if isinstance(spec.input, TextInput) else FLOAT


def to_bytes(text: str) -> Pixels:
    """Return a text as an item: (n,) uint8."""
    return np.frombuffer(text.encode(), np.uint8)


def to_tensor(
    item: Array, spec: ModelSpec, *, dtype: np.dtype[Any] | None = None, out: Array | None = None
) -> Array:
    """Return one item as a tensor of `spec.input_shape`.

    Args:
        item: uint8 BGR pixels (height, width, 3) already of the model's size, float32 samples
            (T, C), or a text: uint8 bytes (n,), or int64 ids (length,).
        spec: the model's.
        dtype: float32, or uint8 for a model that scales in its graph (images only); int64 for
            texts. None: `tensor_dtype`.
        out: a tensor of that shape and dtype to write into, instead of a new one.

    Raises:
        RefusedError: `inference.input`, the item is not what the spec takes.
    """
    dtype = tensor_dtype(spec) if dtype is None else dtype
    tensor = np.empty(spec.input_shape, dtype=dtype) if out is None else out
    assert tensor.shape == spec.input_shape, "the buffer has another shape than the model's input"
    assert tensor.dtype == dtype, "the buffer has another dtype than the model's input"
    match spec.input:
        case ImageInput() as image:
            _check_item(item, (image.height, image.width, 3), UINT8)
            _write_image(item, image, tensor)
        case WindowInput() as window:
            _check_item(item, (window.samples, window.channels), FLOAT)
            _write_window(item[: window.samples - spec.output.horizon], window, tensor)
        case TextInput() as text:
            _write_text(item, text, tensor)
    return tensor


def compared_with(item: Array, batch: Array, spec: ModelSpec) -> Array:
    """Return what an anomaly model's output is compared with: its input, or what it foretells."""
    return kept_back(item, spec) if spec.output.decoder is Decoder.FORECAST else batch


def kept_back(samples: Array, spec: ModelSpec) -> Array:
    """Return a window's last `output.horizon` rows as the model should have foretold them.

    Args:
        samples: the whole window, float32 (T, C).
        spec: the model's, with decoder `forecast`.

    Returns (1, C, horizon), or (1, horizon, C) where channels are last: scaled as inputs are.

    Raises RefusedError `inference.input`.
    """
    window, horizon = spec.input, spec.output.horizon
    assert isinstance(window, WindowInput), "only windows are foretold"
    assert horizon, "nothing is kept back"
    _check_item(samples, (window.samples, window.channels), FLOAT)
    is_first = window.layout is Layout.CHANNELS_FIRST
    shape = (window.channels, horizon) if is_first else (horizon, window.channels)
    rows = np.empty((1, *shape), FLOAT)
    _write_window(samples[-horizon:], window, rows)
    return rows


def _write_image(pixels: Array, image: ImageInput, tensor: Array) -> None:
    """Write (H, W, 3) pixels into `tensor`, (1, C, H, W) or (1, H, W, C)."""
    planes = _reordered(pixels, image.colour)  # (H, W, C)
    target = tensor[0]
    if image.layout is Layout.CHANNELS_FIRST:
        target = target.transpose(1, 2, 0)  # A view: (C, H, W) as (H, W, C)
    if tensor.dtype == UINT8:
        np.copyto(target, planes)
        return
    # Channel by channel, into place: three times faster than one pass over a transposed view.
    means = np.broadcast_to(np.asarray(image.mean, np.float32), planes.shape[2])
    scales = np.broadcast_to(np.asarray(image.scale, np.float32), planes.shape[2])
    for channel, (mean, scale) in enumerate(zip(means, scales, strict=True)):
        plane = target[:, :, channel]
        np.subtract(planes[:, :, channel], mean, out=plane)
        np.divide(plane, scale, out=plane)


def _reordered(pixels: Array, colour: Colour) -> Array:
    """Return (H, W, 3) BGR pixels in `colour`: (H, W, 3), or (H, W, 1) for gray."""
    match colour:
        case Colour.BGR:
            return pixels
        case Colour.RGB:
            return pixels[:, :, ::-1]
        case Colour.GRAY:
            gray: NDArray[np.float32] = pixels.astype(np.float32) @ GRAY_WEIGHTS_BGR  # (H, W)
            return np.rint(gray).astype(np.uint8)[:, :, None]


def _write_window(samples: Array, window: WindowInput, tensor: Array) -> None:
    """Write (T, C) samples into `tensor`, (1, C, T) or (1, T, C)."""
    target = tensor[0]
    if window.layout is Layout.CHANNELS_FIRST:
        target = target.T  # A view: (C, T) as (T, C)
    mean = np.asarray(window.mean, np.float32)  # (1,) or (C,)
    scale = np.asarray(window.scale, np.float32)
    if not np.isfinite(samples.astype(np.float32, copy=False)).all():
        raise RefusedError("inference.input", "A sample of the window is not a finite number.")
    np.copyto(target, (samples.astype(np.float32, copy=False) - mean) / scale)


def _write_text(item: Array, text: TextInput, tensor: Array) -> None:
    """Write (n,) bytes, or (L,) ids, into `tensor`, (1, L); see rule 5."""
    if text.tokenizer is Tokenizer.TOKENIZER_JSON:
        if item.shape != (text.length,) or item.dtype != INT64:
            raise RefusedError(
                "inference.input",
                f"The model takes {text.length} ids, the item is {item.dtype} {item.shape}.",
                remedy="Give the ids that the model's tokenizer.json makes of the text.",
            )
        np.copyto(tensor[0], item, casting="same_kind")
        return
    if item.ndim != 1 or item.dtype != UINT8:
        raise RefusedError(
            "inference.input",
            f"The model takes a text, uint8 (n,), the item is {item.dtype} {item.shape}.",
            remedy="Give the UTF-8 bytes of one text.",
        )
    tokens = np.trim_zeros(item, "b")[: tensor.shape[1]].astype(tensor.dtype)
    tensor[0, : tokens.size] = tokens + 1
    tensor[0, tokens.size :] = 0


def _check_item(item: Array, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    if item.shape == shape and item.dtype == dtype:
        return
    raise RefusedError(
        "inference.input",
        f"The model takes {dtype} {shape}, the item is {item.dtype} {item.shape}.",
        remedy="Make the pipeline's source fit the model's spec.",
    )
