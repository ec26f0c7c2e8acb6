"""Facts of pictures, and of any item: what cleaning.py is given. OpenCV decodes here.

The look of a picture is a difference hash: whether each point of a 9 x 8 (and an 8 x 9) miniature
in gray is clearly brighter than the one before it, 64 bits each way.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

from cloud_hub.datasets.cleaning_facts import Facts, facts_of_text, facts_of_window
from cloud_hub.datasets.manifest import ItemKind

LOOK_SIDE = 8
# Of 255; below, compression decides which point is the brighter. With 3, a frame at half its size
# or as a JPEG of quality 80 differs in at most 3 bits, with 0 in up to 7 (80 frames of two clips,
# car-detection and bottle-detection).
LOOK_STEP = 3
BLANK_CONTRAST_MAX = 1.0  # Of 255: the deviation of a picture that shows nothing


def facts_of(kind: ItemKind, data: bytes, window_shape: tuple[int, ...] = ()) -> Facts | str:
    """Return the facts of one item's bytes, or why they are no item: the reason of a Broken."""
    match kind:
        case ItemKind.IMAGE:
            return facts_of_image(data)
        case ItemKind.WINDOW:
            return facts_of_window(data, window_shape)
        case ItemKind.TEXT:
            return facts_of_text(data)


def facts_of_image(data: bytes) -> Facts | str:
    """Return the facts of a PNG, JPEG or WebP file, or why it is none."""
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE)
    except cv2.error:  # Empty, or larger than OpenCV takes
        pixels = None
    if pixels is None:
        return "cannot be decoded"
    return facts_of_pixels(pixels.astype(np.uint8, copy=False))


def facts_of_pixels(gray: NDArray[np.uint8]) -> Facts:
    """Return the facts of (H, W) gray pixels."""
    mean, deviation = cv2.meanStdDev(gray)
    contrast = float(np.ravel(deviation)[0])
    height, width = gray.shape
    return Facts(
        (float(np.ravel(mean)[0]), contrast, float(width), float(height)),
        look=look_of(gray),
        is_blank=contrast < BLANK_CONTRAST_MAX,
    )


def look_of(gray: NDArray[np.uint8]) -> int:
    """Return the difference hash of (H, W) gray pixels: 128 bits."""
    wide = _miniature(gray, LOOK_SIDE + 1, LOOK_SIDE)  # (8, 9)
    tall = _miniature(gray, LOOK_SIDE, LOOK_SIDE + 1)  # (9, 8)
    bits = np.concatenate(
        [
            (wide[:, 1:] - wide[:, :-1] > LOOK_STEP).ravel(),
            (tall[1:] - tall[:-1] > LOOK_STEP).ravel(),
        ]
    )  # (128,)
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def _miniature(gray: NDArray[np.uint8], width: int, height: int) -> NDArray[np.int16]:
    small = cv2.resize(gray, (width, height), interpolation=cv2.INTER_AREA)
    return small.astype(np.int16)
