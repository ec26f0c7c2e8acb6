"""ClipSink: short videos around what was seen, under a cap of the disk.

1. `fps` frames a second are copied by the pipeline's thread; all else is done by the sink's own.
   Past QUEUE_MAX frames that wait, a frame is lost, counted.
2. Until something is seen (picking.py) the frames of the last `before_s` are held back as JPEG, in
   at most `memory_bytes_max`. Then a clip begins with them, and goes on until `after_s` after what
   was seen last, or until it is `clip_s_max` long; what is seen after that begins another.
3. A clip that runs is on the disk, half written; it gets its name when it ends. A full disk ends it
   and costs clips (counted), never items.
"""

import threading
from collections import deque
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_agent.decisions.decision import Decision, ItemResult
from edge_agent.sinks.file_cap import folder_for, name_for
from edge_agent.sinks.opencv_clip_writer import SUFFIXES, ClipWriter, find_encoding
from edge_agent.sinks.opencv_drawing import draw_outcome, encode_jpeg
from edge_agent.sinks.overlay import NO_OVERLAY, Overlay
from edge_agent.sinks.picking import seen_labels
from edge_agent.sinks.queued_sink import QueuedSink
from edge_agent.sources.item import Frame, Item
from shared.clock import Clock
from shared.errors import RefusedError, TransientError
from shared.pipeline.sinks import ClipSinkSettings

QUEUE_MAX = 8
PASS_S = 0.25
CLOSE_S_MAX = 5.0
QUALITY = 85
EARLY_SHARE = 0.1  # A frame may come this part of a period too early: cameras are not exact
DISK_CHECK_S = 2.0


@dataclass(frozen=True, slots=True)
class _Shot:
    """One frame at the clip's rate."""

    pixels: NDArray[np.uint8]  # (H, W, 3) BGR, the sink's own
    decision: Decision
    labels: tuple[str, ...]  # Seen since the shot before; empty: nothing
    at_s: float


@dataclass(frozen=True, slots=True)
class _Held:
    """One frame that waits in memory."""

    jpeg: bytes
    at_s: float


@dataclass(slots=True)
class _Clip:
    """The clip that runs."""

    name: str
    writer: ClipWriter
    seen_s: float  # When something was seen last
    checked_s: float  # When the disk was looked at last


class ClipSink(QueuedSink[_Shot]):
    """See the rules above. Called by the pipeline's thread; owns one thread."""

    def __init__(
        self,
        settings: ClipSinkSettings,
        *,
        pipeline: str,
        clock: Clock,
        overlay: Overlay = NO_OVERLAY,
    ) -> None:
        """Touch nothing yet."""
        super().__init__(
            f"clips-{pipeline}", waiting_max=QUEUE_MAX, close_s_max=CLOSE_S_MAX, clock=clock
        )
        self._settings, self._pipeline, self._overlay = settings, pipeline, overlay
        self._folder = folder_for(settings, pipeline, suffixes=SUFFIXES, clock=clock)
        self._shot_s: float | None = None
        self._labels: dict[str, None] = {}  # Seen since the last shot, in order
        self._held: deque[_Held] = deque()
        self._held_bytes = 0
        self._clip: _Clip | None = None
        self._encoding: tuple[str, str] | None = None

    def __call__(self, result: ItemResult, item: Item) -> None:
        """Note what is seen, and copy the frame if one is due."""
        if not isinstance(item, Frame) or not isinstance(result, Decision):
            return
        settings, now_s = self._settings, self._clock.monotonic_s()
        seen = seen_labels(result, settings.labels, confidence_min=settings.confidence_min)
        self._labels.update(dict.fromkeys(seen))
        period_s = (1.0 - EARLY_SHARE) / settings.fps
        if self._shot_s is not None and now_s - self._shot_s < period_s:
            return
        self._shot_s = now_s
        if not self._has_room():  # Before the copy: it is what costs
            self._lose("the processor or the disk is too slow")
            return
        self._put(_Shot(item.pixels.copy(), result, tuple(self._labels), now_s))
        self._labels.clear()

    # The sink's own thread.

    def _run(self, stop: threading.Event) -> None:
        try:
            while not self._is_over(stop):
                if (shot := self._take(PASS_S)) is not None:
                    self._film(shot)
                else:
                    self._end_if_over(self._clock.monotonic_s())
        finally:
            self._end(self._clock.monotonic_s())

    def _film(self, shot: _Shot) -> None:
        self._end_if_over(shot.at_s)
        picture = draw_outcome(
            shot.pixels,
            shot.decision.outcome if self._settings.annotated else None,
            overlay=self._overlay,
            side_max=self._settings.side_max,
        )
        if self._clip is None and shot.labels:
            self._begin(shot, picture)
        clip = self._clip
        if clip is None:
            self._hold(picture, shot.at_s)
            return
        if shot.labels:
            clip.seen_s = shot.at_s
        clip.writer.add(picture, shot.at_s)
        self._check_disk(clip, shot.at_s)

    def _hold(self, picture: NDArray[np.uint8], at_s: float) -> None:
        """Hold a frame back, and let go of what is too old or too much."""
        settings = self._settings
        if settings.before_s:
            held = _Held(encode_jpeg(picture, quality=QUALITY), at_s)
            self._held.append(held)
            self._held_bytes += len(held.jpeg)
        while self._held and (
            self._held_bytes > settings.memory_bytes_max
            or at_s - self._held[0].at_s > settings.before_s
        ):
            self._held_bytes -= len(self._held.popleft().jpeg)

    def _begin(self, shot: _Shot, picture: NDArray[np.uint8]) -> None:
        """Begin a clip with what was held back."""
        held = [frame for frame in self._held if shot.at_s - frame.at_s <= self._settings.before_s]
        self._held.clear()
        self._held_bytes = 0
        began_s = held[0].at_s if held else shot.at_s
        height, width = picture.shape[:2]
        try:
            self._folder.make_room(0)
            code, suffix = self._encoding = self._encoding or find_encoding(self._folder.path)
            name = name_for(shot.decision.captured_ms, self._pipeline, shot.labels, suffix=suffix)
            writer = ClipWriter(
                self._folder.half_written(name),
                code=code,
                fps=self._settings.fps,
                size=(width, height),
                began_s=began_s,
            )
        except (RefusedError, TransientError) as error:
            self._lose(error.message)
            return
        self._clip = _Clip(name, writer, seen_s=shot.at_s, checked_s=shot.at_s)
        for frame in held:
            pixels = cv2.imdecode(np.frombuffer(frame.jpeg, np.uint8), cv2.IMREAD_COLOR)
            assert pixels is not None, "our own JPEG"
            writer.add(np.asarray(pixels, np.uint8), frame.at_s)

    def _end_if_over(self, now_s: float) -> None:
        """End the clip that runs if its time is over; see rule 2."""
        clip, settings = self._clip, self._settings
        if clip is None:
            return
        over_s = min(clip.seen_s + settings.after_s, clip.writer.began_s + settings.clip_s_max)
        if now_s >= over_s:
            self._end(over_s)

    def _end(self, at_s: float) -> None:
        """Give the clip that runs its name."""
        clip, self._clip = self._clip, None
        if clip is None:
            return
        try:
            clip.writer.close(at_s)
            self._folder.finish(clip.name)
            self._standing = ""
        except (RefusedError, TransientError) as error:
            self._lose(error.message)

    def _check_disk(self, clip: _Clip, now_s: float) -> None:
        if now_s - clip.checked_s < DISK_CHECK_S:
            return
        clip.checked_s = now_s
        try:
            self._folder.make_room(clip.writer.written_path.stat().st_size, is_written=True)
        except (RefusedError, TransientError, OSError):
            self._end(now_s)  # Tells what of it is lost
