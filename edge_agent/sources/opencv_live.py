"""StreamSource and CameraSource: the world as it happens, through OpenCV.

1. Both are newest-wins; both are lost, not ended, when no frame comes: the capture loop opens them
   again.
2. A stream's timeouts work only with the ffmpeg backend named. `read` of a silent stream comes back
   after `read_timeout_s` at the latest; so does a stop.
3. Every frame is grabbed, so that the camera's buffer never fills with old ones; only one that is
   wanted is converted and copied.
4. Live streams carry no reliable clock: a frame is captured when it is decoded.
"""

import threading
from collections.abc import Callable

import cv2
import numpy as np

from edge_agent.sources.item import Frame
from edge_agent.sources.settings import CameraSettings, StreamSettings, without_password
from shared.clock import Clock, now_ms
from shared.errors import TransientError


class StreamSource:
    """Implements Source; see the rules above."""

    is_every_item = False

    def __init__(self, settings: StreamSettings, clock: Clock) -> None:
        """Open nothing yet."""
        self._settings = settings
        self._reader = _LiveReader(self.description, clock)

    @property
    def description(self) -> str:
        """Return what it is, without the password it may hold."""
        return f"the stream {without_password(self._settings.url)}"

    def open(self) -> None:
        """Connect. Raises TransientError `source.lost`."""
        self.close()
        options = [
            *(cv2.CAP_PROP_N_THREADS, 1),
            *(cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, int(self._settings.open_timeout_s * 1000)),
            *(cv2.CAP_PROP_READ_TIMEOUT_MSEC, int(self._settings.read_timeout_s * 1000)),
        ]
        self._reader.open(cv2.VideoCapture(self._settings.url, cv2.CAP_FFMPEG, options))

    def read(self, stop: threading.Event) -> Frame | None:
        """Return the next frame. Raises TransientError `source.lost`."""
        return self._reader.read(stop, _always)

    def read_wanted(self, stop: threading.Event, is_wanted: Callable[[], bool]) -> Frame | None:
        """Return the next frame that is wanted. Raises TransientError `source.lost`."""
        return self._reader.read(stop, is_wanted)

    def close(self) -> None:
        """Disconnect."""
        self._reader.close()


class CameraSource:
    """Implements Source; see the rules above."""

    is_every_item = False

    def __init__(self, settings: CameraSettings, clock: Clock) -> None:
        """Open nothing yet."""
        self._settings = settings
        self._reader = _LiveReader(self.description, clock)

    @property
    def description(self) -> str:
        """Return what it is."""
        return f"camera {self._settings.device}"

    def open(self) -> None:
        """Open the camera. Raises TransientError `source.lost`."""
        self.close()
        wanted = (
            (cv2.CAP_PROP_FRAME_WIDTH, self._settings.width),
            (cv2.CAP_PROP_FRAME_HEIGHT, self._settings.height),
            (cv2.CAP_PROP_FPS, self._settings.fps),
        )
        capture = cv2.VideoCapture(self._settings.device, cv2.CAP_V4L2)
        for key, value in wanted:
            if value:
                capture.set(key, value)
        self._reader.open(capture)

    def read(self, stop: threading.Event) -> Frame | None:
        """Return the next frame. Raises TransientError `source.lost`."""
        return self._reader.read(stop, _always)

    def read_wanted(self, stop: threading.Event, is_wanted: Callable[[], bool]) -> Frame | None:
        """Return the next frame that is wanted. Raises TransientError `source.lost`."""
        return self._reader.read(stop, is_wanted)

    def close(self) -> None:
        """Let the camera go."""
        self._reader.close()


class _LiveReader:
    """Frames of one capture after another, numbered through."""

    def __init__(self, description: str, clock: Clock) -> None:
        self._description = description
        self._clock = clock
        self._capture: cv2.VideoCapture | None = None
        self._sequence = 0

    def open(self, capture: cv2.VideoCapture) -> None:
        """Take `capture` over. Raises TransientError `source.lost` if it is not open."""
        if not capture.isOpened():
            capture.release()
            raise TransientError(
                "source.lost",
                f"Cannot open {self._description}.",
                remedy="Check that it is on, reachable, and not in use by another program.",
            )
        self._capture = capture

    def read(self, stop: threading.Event, is_wanted: Callable[[], bool]) -> Frame | None:
        """Return the next frame that is wanted; None if `stop` is set."""
        assert self._capture is not None, "open comes first"
        while not stop.is_set():
            if not self._capture.grab():
                raise self._lost()
            at_ms, at_s = now_ms(self._clock), self._clock.monotonic_s()
            sequence = self._sequence
            self._sequence += 1
            if not is_wanted():
                continue
            is_decoded, pixels = self._capture.retrieve()
            if not is_decoded:
                raise self._lost()
            return Frame(pixels.astype(np.uint8, copy=False), sequence, at_ms, at_s)
        return None

    def close(self) -> None:
        """Let the capture go."""
        if self._capture is not None:
            self._capture.release()
            self._capture = None

    def _lost(self) -> TransientError:
        return TransientError("source.lost", f"No frame comes from {self._description}.")


def _always() -> bool:
    return True
