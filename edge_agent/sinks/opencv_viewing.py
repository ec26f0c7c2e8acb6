"""ViewedFrames: the frames of one pipeline for the live view, only while somebody looks.

1. Without a viewer the pipeline's thread keeps a reference to the last result, and no more.
2. With viewers it copies the pixels of at most `fps_max` frames a second; a viewer's thread draws
   and encodes them, once for all viewers.
3. It is a FrameSink, and a Feed of live_feeds.py.
"""

import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import numpy as np
from numpy.typing import NDArray

from edge_agent.decisions.decision import Decision, ItemResult
from edge_agent.sinks.live_feeds import LiveFeeds, LivePicture
from edge_agent.sinks.live_settings import LiveSettings
from edge_agent.sinks.opencv_drawing import draw_outcome, encode_jpeg
from edge_agent.sinks.overlay import NO_OVERLAY, Overlay
from edge_agent.sources.item import Frame, Item
from shared.clock import Clock
from shared.wire.records import Outcome


class ViewedFrames:
    """See the rules above. Called by the pipeline's thread and by viewers'."""

    def __init__(
        self,
        settings: LiveSettings,
        feeds: LiveFeeds,
        *,
        pipeline: str,
        clock: Clock,
        overlay: Overlay = NO_OVERLAY,
    ) -> None:
        """Be shown as `pipeline` from `start` to `close`."""
        self._settings, self._feeds, self._pipeline = settings, feeds, pipeline
        self._clock, self._overlay = clock, overlay
        self._latest: ItemResult | None = None
        self._has_pictures = False
        self._changed = threading.Condition()  # Its lock is of all below
        self._viewers_count = 0
        self._frame: tuple[NDArray[np.uint8], Outcome | None] | None = None
        self._number = 0  # Of the frame
        self._copied_s: float | None = None
        self._drawing = threading.Lock()  # One viewer draws, the others wait for it
        self._picture: LivePicture | None = None

    @property
    def latest(self) -> ItemResult | None:
        """What was decided last; None: nothing yet."""
        return self._latest

    @property
    def has_pictures(self) -> bool:
        """Whether its items are frames."""
        return self._has_pictures

    def start(self) -> None:
        """Be shown."""
        self._feeds.add(self._pipeline, self)

    def close(self) -> None:
        """Be shown no more."""
        self._feeds.remove(self._pipeline, self)

    def __call__(self, result: ItemResult, item: Item) -> None:
        """Keep the result; copy the frame if somebody looks and it is time."""
        self._latest = result
        if not isinstance(item, Frame):
            return
        self._has_pictures = True
        if self._viewers_count == 0:
            return
        now_s = self._clock.monotonic_s()
        if self._copied_s is not None and now_s - self._copied_s < 0.9 / self._settings.fps_max:
            return
        self._copied_s = now_s
        frame = item.pixels.copy(), result.outcome if isinstance(result, Decision) else None
        with self._changed:
            self._frame, self._number = frame, self._number + 1
            self._changed.notify_all()

    def watching(self) -> AbstractContextManager[None]:
        """Return a context in which frames are copied."""
        return self._watching()

    @contextmanager
    def _watching(self) -> Iterator[None]:
        with self._changed:
            self._viewers_count += 1
        try:
            yield
        finally:
            with self._changed:
                self._viewers_count -= 1
                if self._viewers_count == 0:
                    self._frame = self._picture = self._copied_s = None

    def next_picture(self, after: int, *, wait_s: float) -> LivePicture | None:
        """Return a picture later than number `after`, or None after `wait_s`. While `watching`."""
        with self._changed:
            is_there = self._changed.wait_for(
                lambda: self._frame is not None and self._number > after, timeout=wait_s
            )
        return self._draw() if is_there else None

    def _draw(self) -> LivePicture | None:
        """Return the newest frame as a picture."""
        with self._drawing:
            with self._changed:
                frame, number, picture = self._frame, self._number, self._picture
            if frame is None or (picture is not None and picture.number == number):
                return picture
            settings = self._settings
            drawn = draw_outcome(
                frame[0], frame[1], overlay=self._overlay, side_max=settings.side_max
            )
            picture = LivePicture(encode_jpeg(drawn, quality=settings.quality), number)
            with self._changed:
                if self._viewers_count:
                    self._picture = picture
            return picture
