"""SnapshotSink: annotated frames as JPEG files, under a cap of the disk.

1. A frame is kept where its decision shows what the settings ask for (picking.py), at most one in
   `interval_s`. The pipeline's thread copies the pixels; drawing, encoding and writing are done in
   the sink's own thread. Past QUEUE_MAX frames that wait, a frame is lost, counted.
2. A file is named for its time, pipeline and labels; what goes when is in file_cap.py.
3. A full disk costs pictures (counted), never items.
"""

import logging
import queue
import threading
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge_agent.decisions.decision import Decision, ItemResult
from edge_agent.sinks.file_cap import CappedFolder, name_for
from edge_agent.sinks.opencv_drawing import draw_outcome, encode_jpeg
from edge_agent.sinks.overlay import NO_OVERLAY, Overlay
from edge_agent.sinks.picking import seen_labels
from edge_agent.sources.item import Frame, Item
from shared.clock import Clock
from shared.errors import RefusedError, TransientError
from shared.pipeline.sinks import SnapshotSinkSettings
from shared.worker import Worker

log = logging.getLogger(__name__)

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


class SnapshotSink:
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
        self._settings, self._pipeline = settings, pipeline
        self._clock, self._overlay = clock, overlay
        self._folder = CappedFolder(
            Path(settings.path) / pipeline,
            suffixes=(SUFFIX,),
            bytes_max=settings.bytes_max,
            age_s_max=settings.age_s_max,
            free_bytes_min=settings.free_bytes_min,
            clock=clock,
        )
        self._shots: queue.Queue[_Shot] = queue.Queue(QUEUE_MAX)
        self._taken_s: float | None = None
        self._lost_count = 0
        self._standing = ""
        self._worker = Worker(f"snapshots-{pipeline}", self._run, clock=clock)

    @property
    def lost_count(self) -> int:
        """How many pictures were lost: no room in the queue or on the disk."""
        return self._lost_count

    @property
    def standing(self) -> str:
        """Why the last picture was lost; empty: it was not."""
        return self._standing

    def start(self) -> None:
        """Start the thread; returns at once."""
        self._worker.start()

    def close(self) -> None:
        """Write what waits, for CLOSE_S_MAX at most."""
        self._worker.request_stop()
        if self._worker.is_alive:
            self._worker.stop(seconds_max=CLOSE_S_MAX)
        self._lost_count += self._shots.qsize()

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
        if self._shots.full():  # Before the copy: it is what costs
            self._lose("the disk is too slow")
            return
        self._shots.put_nowait(_Shot(item.pixels.copy(), result, labels))

    def _run(self, stop: threading.Event) -> None:
        while not (stop.is_set() and self._shots.empty()):
            try:
                shot = self._shots.get(timeout=PASS_S)
            except queue.Empty:
                continue
            self._write(shot)

    def _write(self, shot: _Shot) -> None:
        picture = draw_outcome(shot.pixels, shot.decision.outcome, overlay=self._overlay)
        name = name_for(shot.decision.captured_ms, self._pipeline, shot.labels, suffix=SUFFIX)
        try:
            self._folder.write(name, encode_jpeg(picture, quality=self._settings.quality))
            self._standing = ""
        except (RefusedError, TransientError) as error:
            self._lose(error.message)

    def _lose(self, reason: str) -> None:
        if not self._standing:
            log.warning("snapshots.lost", extra={"pipeline": self._pipeline, "detail": reason})
        self._lost_count += 1
        self._standing = reason
