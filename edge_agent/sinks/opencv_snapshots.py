"""SnapshotSink: annotated frames as JPEG files, under a cap of the disk.

1. A frame is kept where its decision shows what the settings ask for (picking.py), at most one in
   `interval_s`. The pipeline's thread copies the pixels; drawing, encoding and writing are done in
   the sink's own thread. Past QUEUE_MAX frames that wait, a frame is lost, counted.
2. A file is named for its time, pipeline and labels; what goes when is in file_cap.py.
3. A full disk costs pictures (counted), never items.
"""

import threading
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge_agent.decisions.decision import Decision, ItemResult
from edge_agent.sinks.file_cap import folder_for, name_for
from edge_agent.sinks.opencv_drawing import draw_outcome, encode_jpeg
from edge_agent.sinks.overlay import NO_OVERLAY, Overlay
from edge_agent.sinks.picking import seen_labels
from edge_agent.sinks.queued_sink import QueuedSink
from edge_agent.sources.item import Frame, Item
from shared.clock import Clock
from shared.errors import RefusedError, TransientError
from shared.pipeline.sinks import SnapshotSinkSettings

QUEUE_MAX = 4
PASS_S = 0.5
CLOSE_S_MAX = 5.0
SUFFIX = ".jpg"


@dataclass(frozen=True, slots=True)
class _Shot:
    """A frame that is worth a picture."""

    pixels: NDArray[np.uint8]  # (H, W, 3) BGR, the sink's own
    decision: Decision
    labels: tuple[str, ...]


class SnapshotSink(QueuedSink[_Shot]):
    """See the rules above. Called by the pipeline's thread; owns one thread."""

    def __init__(
        self,
        settings: SnapshotSinkSettings,
        *,
        pipeline: str,
        clock: Clock,
        overlay: Overlay = NO_OVERLAY,
    ) -> None:
        """Touch nothing yet."""
        super().__init__(
            f"snapshots-{pipeline}", waiting_max=QUEUE_MAX, close_s_max=CLOSE_S_MAX, clock=clock
        )
        self._settings, self._pipeline, self._overlay = settings, pipeline, overlay
        self._folder = folder_for(settings, pipeline, suffixes=(SUFFIX,), clock=clock)
        self._taken_s: float | None = None

    def __call__(self, result: ItemResult, item: Item) -> None:
        """Copy the frame if it is worth a picture."""
        if not isinstance(item, Frame) or not isinstance(result, Decision):
            return
        settings, now_s = self._settings, self._clock.monotonic_s()
        if self._taken_s is not None and now_s - self._taken_s < settings.interval_s:
            return
        labels = seen_labels(result, settings.labels, confidence_min=settings.confidence_min)
        if not labels:
            return
        self._taken_s = now_s
        if not self._has_room():  # Before the copy: it is what costs
            self._lose("the disk is too slow")
            return
        self._put(_Shot(item.pixels.copy(), result, labels))

    def _run(self, stop: threading.Event) -> None:
        while not self._is_over(stop):
            if (shot := self._take(PASS_S)) is not None:
                self._write(shot)

    def _write(self, shot: _Shot) -> None:
        picture = draw_outcome(shot.pixels, shot.decision.outcome, overlay=self._overlay)
        name = name_for(shot.decision.captured_ms, self._pipeline, shot.labels, suffix=SUFFIX)
        try:
            self._folder.write(name, encode_jpeg(picture, quality=self._settings.quality))
            self._standing = ""
        except (RefusedError, TransientError) as error:
            self._lose(error.message)
