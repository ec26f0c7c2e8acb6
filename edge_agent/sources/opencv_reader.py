"""LiveReader: the frames of one capture after another, numbered through.

1. Every frame is grabbed, so that the camera's buffer never fills with old ones; only one that is
   due (`fps_max`, frame_rate.py) and wanted is converted and copied.
2. When a frame was captured is told by stream_clock.py, from the stream's own times where they can
   be trusted.
3. A frame that is damaged is shown as the decoder mends it; where it cannot, the frame is left out,
   and DAMAGED_FRAMES_MAX such frames one after another are a lost source.
4. A stream that changes its size goes on, in its own proportions as soon as that is seen;
   opencv_pixels.py says how. It is logged (`source.resized`) and counted; it is no interruption. A
   source that has another size when it is opened again counts as well.
"""

import logging
import math
import threading
from collections.abc import Callable

import cv2

from edge_agent.sources.frame_rate import FrameRate
from edge_agent.sources.item import Frame
from edge_agent.sources.opencv_pixels import (
    Pixels,
    SecondLook,
    Size,
    retrieve_decoded,
    retrieve_jpeg,
    size_of,
    takes_jpegs,
)
from edge_agent.sources.size_check import SizeCheck
from edge_agent.sources.source import Resized
from edge_agent.sources.stream_clock import StreamClock
from shared.clock import Clock, now_ms
from shared.errors import TransientError

log = logging.getLogger(__name__)

DAMAGED_FRAMES_MAX = 25
STALL_SHARE = 0.9  # Of the timeout: a grab that took so much of it waited in vain


class LiveReader:
    """See the rules above. `open`, `read` and `close` by one thread."""

    def __init__(
        self,
        description: str,
        clock: Clock,
        *,
        fps_max: float,
        remedy: Callable[[], str],
        timeout_s: float = 0.0,
        size_check_s: float = 0.0,
    ) -> None:
        """Open nothing yet.

        Args:
            description: what it is, for people.
            clock: for when frames are captured.
            fps_max: at most so many frames a second; 0: all.
            remedy: says what to do, where the capture cannot be opened.
            timeout_s: how long a grab waits at most; 0: it says so itself.
            size_check_s: see size_check.py; 0: never.
        """
        self._description = description
        self._clock = clock
        self._remedy = remedy
        self._rate = FrameRate(fps_max)
        self._stream_clock = StreamClock()
        self._size_check = SizeCheck(size_check_s)
        self._capture: cv2.VideoCapture | None = None
        self._retrieve: Callable[[cv2.VideoCapture], Pixels | None] = retrieve_decoded
        self._second: SecondLook | None = None
        self._size: Size | None = None  # Of the last frame that was converted
        self._timeout_s = timeout_s
        self._sequence = 0
        self._stalled_s = -math.inf  # When a grab waited in vain
        self._damaged_count = 0  # One after another
        self.resized = Resized()

    @property
    def is_on_stream_time(self) -> bool:
        """Whether the stream's own times are used; see stream_clock.py."""
        return self._stream_clock.is_proven

    def open(self, opener: Callable[[], cv2.VideoCapture]) -> None:
        """Open it; `opener` may be asked again. Raises TransientError `source.lost`."""
        capture = opener()
        if not capture.isOpened():
            capture.release()
            raise TransientError(
                "source.lost", f"Cannot open {self._description}.", remedy=self._remedy()
            )
        self._second = SecondLook(opener)
        self._begin(capture)

    def read(self, stop: threading.Event, is_wanted: Callable[[], bool]) -> Frame | None:
        """Return the next frame that is wanted; None if `stop` is set."""
        while not stop.is_set():
            captured_s = self._grab()
            assert self._capture is not None, "grabbed from"
            sequence = self._sequence
            self._sequence += 1
            if not self._rate.is_due(captured_s) or not is_wanted():
                continue
            pixels = self._retrieve(self._capture)
            if pixels is None:
                self._note_damage()
                continue
            self._damaged_count = 0
            self._rate.take(captured_s)
            self._note_size((pixels.shape[1], pixels.shape[0]))
            age_s = self._clock.monotonic_s() - captured_s
            at_ms = now_ms(self._clock) - round(age_s * 1000.0)
            return Frame(pixels, sequence, at_ms, captured_s)
        return None

    def close(self) -> None:
        """Let everything go."""
        if self._second is not None:
            self._second.close()
            self._second = None
        if self._capture is not None:
            self._capture.release()
            self._capture = None

    def _begin(self, capture: cv2.VideoCapture) -> None:
        """Go on with `capture`."""
        self._capture = capture
        self._retrieve = retrieve_jpeg if takes_jpegs(capture) else retrieve_decoded
        self._stream_clock.start_again()
        self._size_check.start_again(self._clock.monotonic_s())
        self._stalled_s = -math.inf
        self._damaged_count = 0

    def _grab(self) -> float:
        """Take the next frame from the stream; return when it was captured."""
        self._look_again()
        assert self._capture is not None, "open comes first"
        asked_s = self._clock.monotonic_s()
        is_there = self._capture.grab()
        arrival_s = self._clock.monotonic_s()
        self._note_wait(asked_s, arrival_s)
        if is_there:
            stream_s = self._capture.get(cv2.CAP_PROP_POS_MSEC) / 1000.0
            return self._stream_clock.captured_s(stream_s, arrival_s)
        if arrival_s - self._stalled_s <= self._timeout_s:
            raise TransientError(
                "source.stalled",
                f"No frame comes from {self._description}: it is open and has been silent for "
                f"{self._timeout_s:.1f} s.",
            )
        raise self._lost()

    def _look_again(self) -> None:
        """Look whether the stream has another size now; see rule 4."""
        capture, second = self._capture, self._second
        if self._retrieve is retrieve_jpeg or capture is None or second is None:
            return
        is_key = capture.get(cv2.CAP_PROP_LRF_HAS_KEY_FRAME) > 0.0
        if self._size_check.is_due(self._clock.monotonic_s(), is_key=is_key):
            second.begin()
        found = second.take()
        if found is None:
            return
        if size_of(found) == size_of(capture):
            found.release()
            return
        capture.release()
        self._begin(found)

    def _note_size(self, size: Size) -> None:
        if self._size == size:
            return
        if self._size is not None:
            before, now = (f"{width}x{height}" for width, height in (self._size, size))
            self.resized = Resized(self.resized.count + 1, now)
            extra = {"source": self._description, "size": now, "before": before}
            log.info("source.resized", extra=extra)
        self._size = size

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
