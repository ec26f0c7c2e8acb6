"""FrameSettings: what becomes of a camera's frames before a model sees them.

1. Places in a frame are shares of its width and height, 0..1, so that they hold at any resolution.
2. `region` is cut out: the model sees nothing else, and boxes are told in shares of the whole frame
   all the same. `masks` are polygons painted over in one gray.
3. Motion: where nothing moves in what the model would see, it is not asked; what was detected last
   is told again ("held"), for at most `hold_s_max`, and the model is asked again every `refresh_s`.
4. `fps_max` chooses frames by their time, so that the rate is exact over time; the others are
   neither decoded further nor counted as dropped.
5. A picture that does not change in a single pixel for `frozen_s` is that of a camera that hangs
   (a live one has noise). Off by default: a drawn picture may stand still.
"""

from typing import Annotated

from msgspec import Meta

from shared.settings import Settings
from shared.wire.limits import Share

POINTS_MAX = 64
MASKS_MAX = 32

Point = tuple[Share, Share]
Polygon = Annotated[tuple[Point, ...], Meta(min_length=3, max_length=POINTS_MAX)]
GateSeconds = Annotated[float, Meta(ge=0.0, le=3600.0)]


class MotionSettings(Settings, frozen=True):
    """When a frame counts as moving; see rule 3. The frame is compared at `width` pixels."""

    difference_min: Annotated[int, Meta(ge=1, le=255)] = 18  # Gray levels, of one pixel
    area_min: Share = 0.002  # Of the pixels: as many must differ
    width: Annotated[int, Meta(ge=16, le=640)] = 96
    settle_s: GateSeconds = 1.0  # After the last motion the model is asked for as long
    refresh_s: GateSeconds = 5.0  # Asked at least so often; 0: only when something moves
    hold_s_max: GateSeconds = 60.0


class FrameSettings(Settings, frozen=True):
    """See the rules above."""

    fps_max: Annotated[float, Meta(ge=0.0, le=1000.0)] = 0.0  # 0: as many as come
    region: tuple[Share, Share, Share, Share] | None = None  # Left, top, right, bottom
    masks: Annotated[tuple[Polygon, ...], Meta(max_length=MASKS_MAX)] = ()
    motion: MotionSettings | None = None
    frozen_s: GateSeconds = 0.0  # 0: never looked at

    def __post_init__(self) -> None:
        """Refuse what the types cannot."""
        if self.region is not None:
            left, top, right, bottom = self.region
            if not (left < right and top < bottom):
                raise ValueError("region must be left, top, right, bottom, and not empty")
