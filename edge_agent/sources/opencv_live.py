"""StreamSource and CameraSource: the world as it happens, through OpenCV.

1. Both are newest-wins; both are lost, not ended, when no frame comes: the capture loop opens them
   again.
2. A stream's timeouts work only with the ffmpeg backend named. `read` of a silent stream comes back
   after `read_timeout_s` at the latest; so does a stop. A stream that is open and silent for that
   long has stalled (`source.stalled`); one that ended, or whose server went, is lost
   (`source.lost`).
3. What frames are taken, and what becomes of a change of resolution: opencv_reader.py.
4. A camera that cannot be opened says why as far as its device file tells: it is not there (with
   those that are), or this user may not open it; else it is in use. A stream is asked likewise:
   socket_remedy.py.
"""

import os
import threading
from collections.abc import Callable
from pathlib import Path

import cv2

from edge_agent.sources.item import Frame
from edge_agent.sources.opencv_reader import LiveReader
from edge_agent.sources.socket_remedy import stream_remedy
from edge_agent.sources.source import Resized
from shared.clock import Clock
from shared.pipeline.sources import CameraSettings, StreamSettings, without_password

DEVICES = Path("/dev")
CAMERAS_TOLD_MAX = 8


class StreamSource:
    """Implements Source; see the rules above."""

    is_every_item = False

    def __init__(self, settings: StreamSettings, clock: Clock, *, fps_max: float = 0.0) -> None:
        """Open nothing yet. Args: at most `fps_max` frames a second; 0: all."""
        self._settings = settings
        self._reader = LiveReader(
            self.description,
            clock,
            fps_max=fps_max,
            remedy=lambda: stream_remedy(settings.url),
            timeout_s=settings.read_timeout_s,
            size_check_s=settings.size_check_s,
        )

    @property
    def description(self) -> str:
        """Return what it is, without the password it may hold."""
        return f"the stream {without_password(self._settings.url)}"

    @property
    def resized(self) -> Resized:
        """Return how often its pictures changed their size."""
        return self._reader.resized

    @property
    def is_on_stream_time(self) -> bool:
        """Whether frames are captured when the stream says, rather than when they arrive."""
        return self._reader.is_on_stream_time

    def open(self) -> None:
        """Connect. Raises TransientError `source.lost`."""
        self.close()
        self._reader.open(self._connect)

    def _connect(self) -> cv2.VideoCapture:
        options = [
            *(cv2.CAP_PROP_N_THREADS, 1),
            *(cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, int(self._settings.open_timeout_s * 1000)),
            *(cv2.CAP_PROP_READ_TIMEOUT_MSEC, int(self._settings.read_timeout_s * 1000)),
        ]
        return cv2.VideoCapture(self._settings.url, cv2.CAP_FFMPEG, options)

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

    def __init__(self, settings: CameraSettings, clock: Clock, *, fps_max: float = 0.0) -> None:
        """Open nothing yet. Args: at most `fps_max` frames a second; 0: all."""
        self._settings = settings
        self._path = _device_path(settings.device)
        self._reader = LiveReader(
            self.description,
            clock,
            fps_max=fps_max,
            remedy=lambda: camera_remedy(self._path, DEVICES),
        )

    @property
    def description(self) -> str:
        """Return what it is."""
        return f"camera {self._settings.device}"

    @property
    def resized(self) -> Resized:
        """Return how often its pictures changed their size."""
        return self._reader.resized

    def open(self) -> None:
        """Open the camera. Raises TransientError `source.lost`."""
        self.close()
        self._reader.open(self._connect)

    def _connect(self) -> cv2.VideoCapture:
        wanted = (
            (cv2.CAP_PROP_FRAME_WIDTH, self._settings.width),
            (cv2.CAP_PROP_FRAME_HEIGHT, self._settings.height),
            (cv2.CAP_PROP_FPS, self._settings.fps),
        )
        capture = cv2.VideoCapture(str(self._path), cv2.CAP_V4L2)
        for key, value in wanted:
            if value:
                capture.set(key, value)
        return capture

    def read(self, stop: threading.Event) -> Frame | None:
        """Return the next frame. Raises TransientError `source.lost`."""
        return self._reader.read(stop, _always)

    def read_wanted(self, stop: threading.Event, is_wanted: Callable[[], bool]) -> Frame | None:
        """Return the next frame that is wanted. Raises TransientError `source.lost`."""
        return self._reader.read(stop, is_wanted)

    def close(self) -> None:
        """Let the camera go."""
        self._reader.close()


def _always() -> bool:
    return True


def _device_path(device: int | str) -> Path:
    return DEVICES / f"video{device}" if isinstance(device, int) else Path(device)


def camera_remedy(path: Path, devices: Path) -> str:
    """Return what to do about a camera that cannot be opened; see rule 4.

    Args: `devices` is the folder with the device files of cameras.
    """
    if not path.exists():
        here = sorted(str(found) for found in devices.glob("video*"))[:CAMERAS_TOLD_MAX]
        others = f"Video devices here: {', '.join(here)}" if here else "There is no video device"
        return f"There is no {path}. {others}. Check that the camera is plugged in."
    if not os.access(path, os.R_OK | os.W_OK):
        return f'Let the user that the agent runs as open {path}: group "video", as a rule.'
    return f"Check that {path} is a camera that takes pictures, and that no other program uses it."
