"""FolderSource and VideoSource: recorded pictures, through OpenCV.

1. A folder is read once, at `open`: the images in it (not below it), sorted by name. An image that
   does not decode is left out; its sequence number is not given to another.
2. A video plays at its own frame rate, or as fast as frames are taken. OpenCV cannot tell a damaged
   file from its end: frames stop at the damage.
3. With `loop` both start again at the end; sequence numbers and the recording's time go on. A
   folder without `fps` has no time of its own.
4. `fps_max` leaves out frames of a video by its own time, at any pace (frame_rate.py); they are
   decoded, which the next needs, and nothing else.
"""

import threading
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_agent.sources.frame_rate import FrameRate
from edge_agent.sources.item import Frame
from edge_agent.sources.pacer import Pacer
from shared.clock import Clock, now_ms
from shared.errors import ContractError
from shared.pipeline.sources import Delivery, FolderSettings, Pace, VideoSettings

IMAGE_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"})
IMAGES_MAX = 1_000_000
VIDEO_FPS_DEFAULT = 25.0  # Where the file does not say
VIDEO_FPS_MAX = 1000.0  # Files that claim more do not know


class FolderSource:
    """Implements Source; see the rules above."""

    def __init__(self, settings: FolderSettings, clock: Clock) -> None:
        """Open nothing yet."""
        self._settings = settings
        self._clock = clock
        self._pacer = Pacer(clock)
        self._frames: Iterator[tuple[int, NDArray[np.uint8]]] = iter(())
        self._sequence_start = 0  # Of the pass
        self._sequence = 0  # Of the next image at the earliest

    @property
    def is_every_item(self) -> bool:
        """Whether every item counts."""
        return self._settings.delivery is Delivery.EVERY

    @property
    def description(self) -> str:
        """Return what it is."""
        return f"the images in {self._settings.path}"

    def open(self) -> None:
        """List the folder. Raises ContractError `source.missing` or `source.empty`."""
        paths = _list_images(Path(self._settings.path))
        self._sequence_start = max(self._sequence_start, self._sequence)
        self._frames = self._decode(paths)

    def read(self, stop: threading.Event) -> Frame | None:
        """Return the next image when it is due. Raises ContractError `source.undecodable`."""
        found = next(self._frames, None)
        if found is None:
            return None
        fps = self._settings.fps
        if not self._pacer.wait(1.0 / fps if fps else 0.0, stop):
            return None
        sequence, pixels = found
        self._sequence = sequence + 1
        at_s, recorded_s = self._clock.monotonic_s(), sequence / fps if fps else None
        return Frame(pixels, sequence, now_ms(self._clock), at_s, recorded_s)

    def close(self) -> None:
        """Forget the listing."""
        self._frames = iter(())

    def _decode(self, paths: list[Path]) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        while True:
            decoded_count = 0
            for index, path in enumerate(paths):
                pixels = _decode_image(path)
                if pixels is not None:
                    decoded_count += 1
                    yield self._sequence_start + index, pixels
            self._sequence_start += len(paths)
            if not decoded_count:
                raise ContractError(
                    "source.undecodable",
                    f"None of the {len(paths)} images in {self._settings.path} can be decoded.",
                    remedy="Check that they are whole images that OpenCV reads.",
                )
            if not self._settings.loop:
                return


class VideoSource:
    """Implements Source; see the rules above."""

    def __init__(self, settings: VideoSettings, clock: Clock, *, fps_max: float = 0.0) -> None:
        """Open nothing yet. Args: at most `fps_max` frames a second of the video's time; 0: all."""
        self._settings = settings
        self._clock = clock
        self._pacer = Pacer(clock)
        self._capture: cv2.VideoCapture | None = None
        self._fps_max = fps_max
        self._rate = FrameRate(fps_max)
        self._period_s = 0.0
        self._is_paced = settings.pace is Pace.REALTIME
        self._sequence = 0  # Of the next frame, taken or not
        self._recorded_s = 0.0  # Its own time, over all passes
        self._frames_in_pass = 0

    @property
    def is_every_item(self) -> bool:
        """Whether every item counts."""
        return self._settings.delivery is Delivery.EVERY

    @property
    def description(self) -> str:
        """Return what it is."""
        return f"the video {self._settings.path}"

    def open(self) -> None:
        """Open the file. Raises ContractError `source.missing` or `source.undecodable`."""
        self.close()
        path = Path(self._settings.path)
        if not path.is_file():
            raise ContractError(
                "source.missing", f"There is no video {path}.", remedy="Check the path."
            )
        _check_readable(path)
        # One decoding thread: on small devices more of them cost memory and win nothing.
        self._capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])
        if not self._capture.isOpened():
            raise self._undecodable()
        self._frames_in_pass = 0
        fps = self._capture.get(cv2.CAP_PROP_FPS)
        fps = fps if 0.0 < fps <= VIDEO_FPS_MAX else VIDEO_FPS_DEFAULT
        self._period_s = 1.0 / fps
        self._rate = FrameRate(self._fps_max)

    def read(self, stop: threading.Event) -> Frame | None:
        """Return the next frame when it is due."""
        first = self._sequence
        pixels = self._next_pixels()
        if pixels is None and self._settings.loop:
            self.open()
            pixels = self._next_pixels()
        pause_s = (self._sequence - first) * self._period_s if self._is_paced else 0.0
        if pixels is None or not self._pacer.wait(pause_s, stop):
            return None
        at_s = self._clock.monotonic_s()
        recorded_s = self._recorded_s - self._period_s
        return Frame(pixels, self._sequence - 1, now_ms(self._clock), at_s, recorded_s)

    def close(self) -> None:
        """Let the file go."""
        if self._capture is not None:
            self._capture.release()
            self._capture = None

    def _next_pixels(self) -> NDArray[np.uint8] | None:
        """Return the next frame's pixels, of those that the rate takes; None at the end."""
        assert self._capture is not None, "open comes first"
        while self._capture.grab():
            at_s = self._frames_in_pass * self._period_s
            self._sequence += 1
            self._frames_in_pass += 1
            self._recorded_s += self._period_s
            if not self._rate.is_due(at_s):
                continue
            self._rate.take(at_s)
            is_decoded, pixels = self._capture.retrieve()
            return pixels.astype(np.uint8, copy=False) if is_decoded else None
        if not self._frames_in_pass:
            raise self._undecodable()
        return None

    def _undecodable(self) -> ContractError:
        return ContractError(
            "source.undecodable",
            f"No frame of {self._settings.path} can be decoded.",
            remedy="Check that it is a video that ffmpeg reads.",
        )


def _check_readable(path: Path) -> None:
    """Raise ContractError `source.missing`: OpenCV would only say that it cannot decode it."""
    try:
        with path.open("rb"):
            return
    except OSError as error:
        raise ContractError(
            "source.missing",
            f"Cannot read {path}: {error.strerror}.",
            remedy="Let the user that the agent runs as read it.",
        ) from error


def _list_images(folder: Path) -> list[Path]:
    try:
        names = sorted(path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)
    except OSError as error:
        raise ContractError(
            "source.missing",
            f"Cannot read the folder {folder}: {error.strerror}.",
            remedy="Check the path.",
        ) from error
    if not names:
        raise ContractError(
            "source.empty",
            f"There is no image in {folder}.",
            remedy=f"Known endings: {', '.join(sorted(IMAGE_SUFFIXES))}.",
        )
    if len(names) > IMAGES_MAX:
        raise ContractError("source.too_large", f"{folder} holds over {IMAGES_MAX} images.")
    return names


def _decode_image(path: Path) -> NDArray[np.uint8] | None:
    """Return an image's pixels; None if it is not one."""
    try:
        pixels = cv2.imread(str(path), cv2.IMREAD_COLOR)
    except cv2.error:
        return None
    return None if pixels is None else pixels.astype(np.uint8, copy=False)
