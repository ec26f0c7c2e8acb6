"""FrameRate: chooses frames by their time so that at most so many a second are taken. Pure.

1. Frames are due on a grid of 1 / `fps_max`, so that the rate is exact over time: a frame that is
   taken late does not delay the next.
2. A frame may be early by EARLY_SHARE of a period: a camera's own jitter must not halve the rate
   of one that runs at `fps_max` itself.
3. After a pause of more than a period the grid starts again at the frame: no burst follows.
4. A frame whose time is before that of the last one taken starts the grid again.
5. A frame that is due and that nobody wants is not taken: the next one is due as well.
"""

import math

EARLY_SHARE = 0.25


class FrameRate:
    """See the rules above. Not shared between threads."""

    def __init__(self, fps_max: float) -> None:
        """Args: `fps_max` frames a second; 0: every frame is due."""
        self._period_s = 1.0 / fps_max if fps_max else 0.0
        self._due_s = -math.inf
        self._taken_s = -math.inf

    def is_due(self, at_s: float) -> bool:
        """Return whether a frame of time `at_s` may be taken."""
        return at_s >= self._due_s - EARLY_SHARE * self._period_s or at_s < self._taken_s

    def take(self, at_s: float) -> None:
        """Say that a frame that was due is taken."""
        is_on_grid = self._taken_s <= at_s <= self._due_s + self._period_s
        self._due_s = (self._due_s if is_on_grid else at_s) + self._period_s
        self._taken_s = at_s
