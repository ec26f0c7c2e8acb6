"""FrameResizer: a frame to the model's size, into one buffer that is used again and again.

1. Pixels are interpolated linearly; a frame that has the model's size already is taken as it is.
2. Where the frame goes is said by shared/model/preprocess.py; what is around it is `pad_value`.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

from shared.model.preprocess import Placement, place
from shared.model.spec import ImageInput

Pixels = NDArray[np.uint8]


class FrameResizer:
    """See the rules above. Not shared between threads."""

    def __init__(self, image: ImageInput) -> None:
        """Allocate the buffer."""
        self._image = image
        self._placement: Placement | None = None
        self._frame_size = (0, 0)
        self._buffer = np.full((image.height, image.width, 3), image.pad_value, dtype=np.uint8)

    def resize(self, pixels: Pixels) -> tuple[Pixels, Placement]:
        """Return (H, W, 3) pixels of the model's size, good until the next call, and where.

        Raises RefusedError `inference.input` for an empty frame.
        """
        height, width = pixels.shape[:2]
        if self._placement is None or self._frame_size != (width, height):
            self._placement = place(width, height, self._image)
            self._frame_size = (width, height)
            self._buffer.fill(self._image.pad_value)
        placement = self._placement
        if (width, height) == (placement.input_width, placement.input_height):
            return pixels, placement
        rows = slice(placement.top, placement.top + placement.height)
        columns = slice(placement.left, placement.left + placement.width)
        cv2.resize(
            pixels,
            (placement.width, placement.height),
            dst=self._buffer[rows, columns],
            interpolation=cv2.INTER_LINEAR,
        )
        return self._buffer, placement
