"""Pixels as PNG files: how arrays of pictures become items. OpenCV only here."""

import cv2
import numpy as np
from numpy.typing import NDArray

# Fast and a few per cent larger than the best: items are read far more often than written.
COMPRESSION = 3


def to_png(pixels: NDArray[np.uint8]) -> bytes:
    """Return (H, W) gray or (H, W, 3) BGR pixels as a PNG, without loss."""
    assert pixels.dtype == np.uint8, "pixels are bytes"
    is_done, data = cv2.imencode(".png", pixels, [cv2.IMWRITE_PNG_COMPRESSION, COMPRESSION])
    assert is_done, "OpenCV encodes every array of bytes that has a size"
    return data.tobytes()
