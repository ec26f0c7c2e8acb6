"""StreamSource and CameraSource: the world as it happens, through OpenCV.

1. Both are newest-wins; both are lost, not ended, when no frame comes: the capture loop opens them
   again.
2. A stream's timeouts work only with the ffmpeg backend named. `read` of a silent stream comes back
   after `read_timeout_s` at the latest; so does a stop. A stream that is open and silent for that
   long has stalled (`source.stalled`); one that ended, or whose server went, is lost
   (`source.lost`).
3. Every frame is grabbed, so that the camera's buffer never fills with old ones; only one that is
   due (`fps_max`, frame_rate.py) and wanted is converted and copied.
4. When a frame was captured is told by stream_clock.py, from the stream's own times where they can
   be trusted.
5. A stream that changes its resolution goes on; OpenCV (5.0) brings its frames to the size that it
   had when it was opened. A frame that is damaged is shown as the decoder mends it; where it
   cannot, the frame is left out, and DAMAGED_FRAMES_MAX such frames one after another are a lost
   source.
"""

import math
import threading
from collections.abc import Callable

import cv2
import numpy as np

from edge_agent.sources.frame_rate import FrameRate
from edge_agent.sources.item import Frame
from edge_agent.sources.stream_clock import StreamClock
from shared.clock import Clock, now_ms
from shared.errors import TransientError
from shared.pipeline.sources import CameraSettings, StreamSettings, without_password

DAMAGED_FRAMES_MAX = 25
STALL_SHARE = 0.9  # Of the timeout: a grab that took so much of it waited in vain


class StreamSource:
    """Implements Source; see the rules above."""

    is_every_item = False

    def __init__(self, settings: StreamSettings, clock: Clock, *, fps_max: float = 0.0) -> None:
        """Open nothing yet. Args: at most `fps_max` frames a second; 0: all."""
        self._settings = settings
        self._reader = _LiveReader(self.description, clock, fps_max)

    @property
    def description(self) -> str:
        """Return what it is, without the password it may hold."""
        return f"the stream {without_password(self._settings.url)}"

    @property
    def is_on_stream_time(self) -> bool:
        """Whether frames are captured when the stream says, rather than when they arrive."""
        return self._reader.is_on_stream_time

    def open(self) -> None:
        """Connect. Raises TransientError `source.lost`."""
        self.close()
        options = [
            *(cv2.CAP_PROP_N_THREADS, 1),
            *(cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, int(self._settings.open_timeout_s * 1000)),
            *(cv2.CAP_PROP_READ_TIMEOUT_MSEC, int(self._settings.read_timeout_s * 1000)),
        ]
        self._reader.open(
            cv2.VideoCapture(self._settings.url, cv2.CAP_FFMPEG, options),
            timeout_s=self._settings.read_timeout_s,
        )

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
        self._reader = _LiveReader(self.description, clock, fps_max)

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

    def __init__(self, description: str, clock: Clock, fps_max: float) -> None:
        self._description = description
        self._clock = clock
        self._rate = FrameRate(fps_max)
        self._stream_clock = StreamClock()
        self._capture: cv2.VideoCapture | None = None
        self._timeout_s = 0.0  # 0: it has none
        self._sequence = 0
        self._stalled_s = -math.inf  # When a grab waited in vain
        self._damaged_count = 0  # One after another

    @property
    def is_on_stream_time(self) -> bool:
        """Whether the stream's own times are used; see stream_clock.py."""
        return self._stream_clock.is_proven

    def open(self, capture: cv2.VideoCapture, *, timeout_s: float = 0.0) -> None:
        """Take `capture` over. Raises TransientError `source.lost` if it is not open."""
        if not capture.isOpened():
            capture.release()
            raise TransientError(
                "source.lost",
                f"Cannot open {self._description}.",
                remedy="Check that it is on, reachable, and not in use by another program.",
            )
        self._capture = capture
        self._timeout_s = timeout_s
        self._stream_clock.start_again()
        self._stalled_s = -math.inf
        self._damaged_count = 0

    def read(self, stop: threading.Event, is_wanted: Callable[[], bool]) -> Frame | None:
        """Return the next frame that is wanted; None if `stop` is set."""
        assert self._capture is not None, "open comes first"
        while not stop.is_set():
            captured_s = self._grab(self._capture)
            sequence = self._sequence
            self._sequence += 1
            if not self._rate.is_due(captured_s) or not is_wanted():
                continue
            is_decoded, pixels = self._capture.retrieve()
            if not is_decoded or not pixels.size:
                self._note_damage()
                continue
            self._damaged_count = 0
            self._rate.take(captured_s)
            age_s = self._clock.monotonic_s() - captured_s
            at_ms = now_ms(self._clock) - round(age_s * 1000.0)
            return Frame(pixels.astype(np.uint8, copy=False), sequence, at_ms, captured_s)
        return None

    def close(self) -> None:
        """Let the capture go."""
        if self._capture is not None:
            self._capture.release()
            self._capture = None

    def _grab(self, capture: cv2.VideoCapture) -> float:
        """Take the next frame from the stream; return when it was captured."""
        asked_s = self._clock.monotonic_s()
        is_there = capture.grab()
        arrival_s = self._clock.monotonic_s()
        self._note_wait(asked_s, arrival_s)
        if is_there:
            stream_s = capture.get(cv2.CAP_PROP_POS_MSEC) / 1000.0
            return self._stream_clock.captured_s(stream_s, arrival_s)
        if arrival_s - self._stalled_s <= self._timeout_s:
            raise TransientError(
                "source.stalled",
                f"No frame comes from {self._description}: it is open and has been silent for "
                f"{self._timeout_s:.1f} s.",
            )
        raise self._lost()

    def _note_wait(self, asked_s: float, arrival_s: float) -> None:
        """Keep when a grab waited in vain: the decoder may give its last frames after it."""
        if self._timeout_s and arrival_s - asked_s >= STALL_SHARE * self._timeout_s:
            self._stalled_s = arrival_s

    def _note_damage(self) -> None:
        self._damaged_count += 1
        if self._damaged_count >= DAMAGED_FRAMES_MAX:
            raise self._lost()

    def _lost(self) -> TransientError:
        return TransientError("source.lost", f"No frame comes from {self._description}.")


def _always() -> bool:
    return True
