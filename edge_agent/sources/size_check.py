"""SizeCheck: when to ask whether a stream still has the size that it was opened with. Pure.

A decoder that brings every frame to the size of the first says nothing when the stream changes; to
ask costs a second connection for a moment. So it is asked when there is a reason:

1. An encoder that changes its size begins anew with a key frame. A key frame that comes after fewer
   or more frames than the one before it did is a reason.
2. A change may come just when a key frame was due: `every_s` after it was opened or asked last, a
   key frame is a reason in any case. 0: it is never asked.
3. The first reason is asked about at once, the next after PAUSE_S, and each pause after it is twice
   as long, up to `every_s`: key frames that never keep time say nothing. A reason waits so long.
"""

PAUSE_S = 30.0


class SizeCheck:
    """See the rules above. Not shared between threads."""

    def __init__(self, every_s: float) -> None:
        """Start with nothing seen. Args: see rule 2."""
        self._every_s = every_s
        self.start_again(0.0)

    def start_again(self, at_s: float) -> None:
        """Forget all of it: the stream was opened at `at_s`, with the size that it has."""
        self._known_s = at_s  # When the size was known last
        self._pause_s = 0.0
        self._has_reason = False
        self._frames_count: int | None = None  # Since the last key frame; None: there was none
        self._distance: int | None = None  # Frames between the last two of them

    def is_due(self, at_s: float, *, is_key: bool) -> bool:
        """Return whether to ask now. Call it once for every frame, in order."""
        if not self._every_s:
            return False
        if self._frames_count is not None:
            self._frames_count += 1
        if is_key:
            self._note_key(at_s)
        if not self._has_reason or at_s - self._known_s < self._pause_s:
            return False
        self._known_s = at_s
        self._pause_s = min(max(PAUSE_S, 2.0 * self._pause_s), self._every_s)
        self._has_reason = False
        return True

    def _note_key(self, at_s: float) -> None:
        before, self._distance = self._distance, self._frames_count
        self._frames_count = 0
        is_off_time = before is not None and before != self._distance
        self._has_reason |= is_off_time or at_s - self._known_s >= self._every_s
