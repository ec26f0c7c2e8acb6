"""Pictures: how a stream's grabbed frames become pixels of the stream's own proportions.

OpenCV (5.0) brings every decoded frame to the size that the stream had when it was opened, and none
of its properties follows a change (opencv/opencv-python issue 1176).

1. MJPEG is not decoded by the stream's reader at all: what is grabbed is a JPEG file, which has its
   own size, and is decoded only when somebody wants it.
2. Any other stream is opened a second time for a moment, where size_check.py says so, beside the
   first, which goes on meanwhile. If the second has another size it takes the place of the first;
   else it is closed.
"""

import threading
from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
Size = tuple[int, int]  # Width, height

JPEG_FLAGS = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION


def takes_jpegs(capture: cv2.VideoCapture) -> bool:
    """Ask an MJPEG stream that was just opened for its JPEG files; return whether it gives them."""
    is_stream = capture.getBackendName() == "FFMPEG"  # A camera's frames follow its size anyway
    is_mjpeg = int(capture.get(cv2.CAP_PROP_FOURCC)) == cv2.VideoWriter.fourcc(*"MJPG")
    return is_stream and is_mjpeg and capture.set(cv2.CAP_PROP_FORMAT, -1)


def retrieve_decoded(capture: cv2.VideoCapture) -> Pixels | None:
    """Return the grabbed frame, (H, W, 3) BGR; None if it is damaged."""
    is_decoded, pixels = capture.retrieve()
    return pixels.astype(np.uint8, copy=False) if is_decoded and pixels.size else None


def retrieve_jpeg(capture: cv2.VideoCapture) -> Pixels | None:
    """Return the grabbed frame of a stream that gives JPEGs, (H, W, 3) BGR; None if damaged."""
    is_there, data = capture.retrieve()
    if not is_there or not data.size:
        return None
    try:
        pixels = cv2.imdecode(data.reshape(-1), JPEG_FLAGS)
    except cv2.error:  # Larger than OpenCV takes
        return None
    return None if pixels is None else pixels.astype(np.uint8, copy=False)


def size_of(capture: cv2.VideoCapture) -> Size:
    """Return the size that frames are brought to."""
    return (
        int(capture.get(cv2.CAP_PROP_FRAME_WIDTH)),
        int(capture.get(cv2.CAP_PROP_FRAME_HEIGHT)),
    )


class SecondLook:
    """Opens a stream again in a thread of its own; see rule 2. All else by one thread."""

    def __init__(self, opener: Callable[[], cv2.VideoCapture]) -> None:
        """Open nothing yet. Args: `opener` waits for a limited time."""
        self._opener = opener
        self._thread: threading.Thread | None = None
        self._found: cv2.VideoCapture | None = None

    def begin(self) -> None:
        """Open the stream, unless that is under way."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._open, name="second-look")
            self._thread.start()

    def take(self) -> cv2.VideoCapture | None:
        """Return what was opened, once, for the caller to keep; None if there is nothing."""
        if self._thread is None or self._thread.is_alive():
            return None
        self._thread, found, self._found = None, self._found, None
        if found is not None and not found.isOpened():
            found.release()
            return None
        return found

    def close(self) -> None:
        """Wait until nothing is under way, and let go of what was opened."""
        if self._thread is not None:
            self._thread.join()
        found = self.take()
        if found is not None:
            found.release()

    def _open(self) -> None:
        self._found = self._opener()
