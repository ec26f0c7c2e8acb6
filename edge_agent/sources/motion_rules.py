"""MotionRules: whether the model is asked about a frame, by how much of it moves. Pure.

1. The first frame is asked about, and every one of which `area_min` or more moves; so is the one
   after `ask_again`.
2. Settling: so is every frame up to `settle_s` after the last that moved, so that what came to
   rest is seen at rest.
3. Refreshing: so is a frame that comes `refresh_s` or more after the last one asked about.
4. Any other is held: what was concluded last is told again. `hold_s_max` after the last frame asked
   about it is too old to be told: the hold is over, until a rule above asks again.
5. A frame earlier than the one before it (a source that began again) is a first frame.
"""

import math
from enum import StrEnum

from shared.pipeline.frames import MotionSettings


class Look(StrEnum):
    """What becomes of a frame."""

    ASK = "ask"
    HOLD = "hold"  # Tell the last conclusion again
    REST = "rest"  # Rule 4: tell nothing


class MotionRules:
    """See the rules above. Not shared between threads."""

    def __init__(self, settings: MotionSettings) -> None:
        """Start before the first frame."""
        self._settings = settings
        self.start_again()

    def start_again(self) -> None:
        """Make the next frame a first one."""
        self._seen_s = -math.inf
        self._moved_s = -math.inf
        self._asked_s = -math.inf

    def ask_again(self) -> None:
        """Ask about the next frame, whatever moves; from any thread."""
        self._asked_s = -math.inf

    def look(self, moving_share: float, at_s: float) -> Look:
        """Return what becomes of a frame of time `at_s` of which `moving_share` (0..1) moves."""
        if at_s < self._seen_s:
            self.start_again()
        self._seen_s = at_s
        settings = self._settings
        if moving_share >= settings.area_min and moving_share > 0.0:
            self._moved_s = at_s
        since_asked_s = at_s - self._asked_s
        is_due = since_asked_s >= settings.refresh_s if settings.refresh_s else False
        is_first = math.isinf(self._asked_s)
        if is_first or is_due or at_s - self._moved_s <= settings.settle_s:
            self._asked_s = at_s
            return Look.ASK
        return Look.HOLD if since_asked_s <= settings.hold_s_max else Look.REST
