"""FrameStage: a camera's frame to the picture that the model sees, or to the word that it need not.

1. The region is a view of the frame; it is resized straight to the model's size, in one pass.
   The frame itself is never written to: snapshots and the live view show all of it.
2. Masks are painted into the resized picture, in the colour of the padding, and only those that
   meet the region. What is masked never counts as motion.
3. Motion: the region as a small gray picture beside a background that follows it within
   BACKGROUND_S. What becomes of the frame is said by motion_rules.py. The background is asked
   about before anything is resized for the model.
4. A frame of another size starts motion and freezing again; the pipeline goes on.
5. Frozen: sampled pixels that are all the same for `frozen_s` of the source's time. Logged where it
   begins and where it ends.
6. `prepare` must be asked in the order of frames; `resize` may be called by several threads.
"""

import logging
import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_agent.sources.item import Frame, own_time_s
from edge_agent.sources.motion_rules import Look, MotionRules
from edge_agent.sources.region import PixelRegion, masks_within, to_pixels
from shared.errors import RefusedError
from shared.model.preprocess import Placement, place
from shared.model.spec import ImageInput
from shared.pipeline.frames import FrameSettings, MotionSettings

log = logging.getLogger(__name__)

Pixels = NDArray[np.uint8]

BACKGROUND_S = 1.0  # How fast the background follows the picture
FREEZE_SAMPLES = 64  # A side of the grid of pixels that are compared for freezing


@dataclass(frozen=True, slots=True)
class Prepared:
    """What the model sees of a frame."""

    pixels: Pixels  # (H, W, 3) BGR of the model's size
    placement: Placement  # Back to shares of the whole frame


@dataclass(frozen=True, slots=True)
class Held:
    """The model need not be asked."""

    is_told: bool  # Whether what was concluded last is told again, rather than nothing


@dataclass(frozen=True, slots=True)
class _Geometry:
    """Everything that depends on a frame's size only."""

    region: PixelRegion
    placement: Placement
    masks: tuple[NDArray[np.int32], ...]  # In pixels of the model's input
    is_padded: bool


class FrameStage:
    """See the rules above."""

    def __init__(self, settings: FrameSettings, image: ImageInput) -> None:
        """Args: `image` is the input of the model that is asked."""
        self._settings = settings
        self._image = image
        self._geometry: _Geometry | None = None
        self._motion = _Motion(settings, settings.motion) if settings.motion else None
        self._freezing = _Freezing(settings.frozen_s) if settings.frozen_s else None

    @property
    def is_frozen(self) -> bool:
        """Whether the picture has not changed in a single pixel for `frozen_s`."""
        return self._freezing is not None and self._freezing.is_frozen

    def ask_again(self) -> None:
        """Have the model asked about the next frame, whether or not anything moves."""
        if self._motion is not None:
            self._motion.ask_again()

    def prepare(self, frame: Frame, out: Pixels | None = None) -> Prepared | Held:
        """Return what the model sees of `frame`, or that it need not be asked.

        Args:
            frame: the next one of its source.
            out: uint8 (H, W, 3) of the model's size, contiguous, to write into.

        Raises RefusedError `inference.input` for an empty frame.
        """
        geometry = self._geometry_of(frame.pixels)
        if self._freezing is not None:
            self._freezing.look(frame.pixels, own_time_s(frame))
        if self._motion is not None:
            look = self._motion.look(_cut(frame.pixels, geometry.region), geometry.region, frame)
            if look is not Look.ASK:
                return Held(is_told=look is Look.HOLD)
        return self._resize(frame.pixels, geometry, out)

    def resize(self, frame: Frame, out: Pixels | None = None) -> Prepared:
        """Return what the model sees of `frame` whatever moves: for a companion. See `prepare`."""
        return self._resize(frame.pixels, self._geometry_of(frame.pixels), out)

    def _geometry_of(self, pixels: Pixels) -> _Geometry:
        height, width = pixels.shape[:2]
        known = self._geometry
        if known is not None and (width, height) == (
            known.region.frame_width,
            known.region.frame_height,
        ):
            return known
        if not width or not height:
            raise RefusedError("inference.input", f"A frame of {width}x{height} is empty.")
        self._geometry = known = _geometry(self._settings, self._image, width, height)
        return known

    def _resize(self, pixels: Pixels, geometry: _Geometry, out: Pixels | None) -> Prepared:
        image, placement = self._image, geometry.placement
        cut = _cut(pixels, geometry.region)
        if cut.shape[:2] == (image.height, image.width) and out is None and not geometry.masks:
            return Prepared(cut, placement)
        if out is None:
            out = np.empty((image.height, image.width, 3), dtype=np.uint8)
        if geometry.is_padded:
            _pad(out, placement, image.pad_value)
        rows = slice(placement.top, placement.top + placement.height)
        columns = slice(placement.left, placement.left + placement.width)
        size = (placement.width, placement.height)
        cv2.resize(cut, size, dst=out[rows, columns], interpolation=cv2.INTER_LINEAR)
        if geometry.masks:
            gray = (image.pad_value,) * 3
            cv2.fillPoly(out, list(geometry.masks), gray)
        return Prepared(out, placement)


class _Motion:
    """Rule 3: how much of the region differs from its background."""

    def __init__(self, settings: FrameSettings, motion: MotionSettings) -> None:
        self._settings = settings
        self._motion = motion
        self._rules = MotionRules(motion)
        self._region: PixelRegion | None = None
        self._background: NDArray[np.float32] | None = None
        self._shown: Pixels | None = None  # 255 where no mask is; None: nowhere is one
        self._size = (0, 0)
        self._seen_s = 0.0

    def look(self, cut: Pixels, region: PixelRegion, frame: Frame) -> Look:
        """Return what becomes of `frame`, whose `region` is `cut`."""
        if region != self._region:
            self._start_again(region)
        gray = cv2.cvtColor(
            cv2.resize(cut, self._size, interpolation=cv2.INTER_LINEAR), cv2.COLOR_BGR2GRAY
        )
        at_s = own_time_s(frame)
        return self._rules.look(self._moving_share(gray, at_s), at_s)

    def ask_again(self) -> None:
        """Make the next frame one that is asked about."""
        self._rules.ask_again()

    def _start_again(self, region: PixelRegion) -> None:
        self._region = region
        width, height = region.right - region.left, region.bottom - region.top
        small_width = min(self._motion.width, width)
        self._size = (small_width, max(1, round(height * small_width / width)))
        masks = masks_within(
            self._settings.masks, region, width=self._size[0], height=self._size[1]
        )
        self._shown = None
        if masks:
            self._shown = np.full(self._size[::-1], 255, dtype=np.uint8)
            cv2.fillPoly(self._shown, masks, (0,))
        self._background = None
        self._rules.start_again()

    def _moving_share(self, gray: cv2.typing.MatLike, at_s: float) -> float:
        pause_s = max(0.0, at_s - self._seen_s)
        self._seen_s = at_s
        if self._background is None:
            self._background = gray.astype(np.float32)
            return 0.0
        difference = cv2.absdiff(gray, cv2.convertScaleAbs(self._background))
        if self._shown is not None:
            difference = cv2.bitwise_and(difference, self._shown)
        least = self._motion.difference_min - 1  # cv2 counts what is above
        moving = cv2.threshold(difference, least, 255, cv2.THRESH_BINARY)[1]
        weight = min(1.0, pause_s / BACKGROUND_S)
        cv2.accumulateWeighted(gray, self._background, weight)
        return cv2.countNonZero(moving) / moving.size


class _Freezing:
    """Rule 5."""

    def __init__(self, frozen_s: float) -> None:
        self._frozen_s = frozen_s
        self._samples: Pixels | None = None
        self._changed_s = -math.inf
        self.is_frozen = False

    def look(self, pixels: Pixels, at_s: float) -> None:
        """Compare a frame with the one before."""
        height, width = pixels.shape[:2]
        steps = max(1, height // FREEZE_SAMPLES), max(1, width // FREEZE_SAMPLES)
        samples = pixels[:: steps[0], :: steps[1]]
        is_same = self._samples is not None and np.array_equal(samples, self._samples)
        if not is_same or at_s < self._changed_s:
            self._samples = samples.copy()
            self._changed_s = at_s
        was_frozen, self.is_frozen = self.is_frozen, at_s - self._changed_s >= self._frozen_s
        if self.is_frozen and not was_frozen:
            log.warning("source.frozen", extra={"unchanged_s": round(at_s - self._changed_s, 1)})
        elif was_frozen and not self.is_frozen:
            log.info("source.moving_again")


def _geometry(settings: FrameSettings, image: ImageInput, width: int, height: int) -> _Geometry:
    region = to_pixels(settings.region, width, height)
    placed = place(region.right - region.left, region.bottom - region.top, image)
    inside = masks_within(settings.masks, region, width=placed.width, height=placed.height)
    offset = np.array([placed.left, placed.top], dtype=np.int32)
    return _Geometry(
        region=region,
        placement=Placement(
            left=placed.left,
            top=placed.top,
            width=placed.width,
            height=placed.height,
            input_width=placed.input_width,
            input_height=placed.input_height,
            region=region.shares,
        ),
        masks=tuple(mask + offset for mask in inside),
        is_padded=(placed.width, placed.height) != (image.width, image.height),
    )


def _cut(pixels: Pixels, region: PixelRegion) -> Pixels:
    """Return the region of a frame, as a view."""
    return pixels[region.top : region.bottom, region.left : region.right]


def _pad(out: Pixels, placement: Placement, value: int) -> None:
    """Fill what lies around the frame."""
    out[: placement.top] = value
    out[placement.top + placement.height :] = value
    out[:, : placement.left] = value
    out[:, placement.left + placement.width :] = value
