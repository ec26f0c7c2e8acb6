"""StreamClock: when a frame was captured, by the stream's own times where they can be trusted.

A stream counts from anywhere, at its own speed, and jumps when it is started again; a frame arrives
later than it was made by a delay that varies. The least delay seen lately is taken for constant:
captured = stream time + least (arrival - stream time).

1. Without a stream time a frame is captured when it arrives.
2. Proof first: for PROOF_S frames are captured when they arrive. Then stream times must have
   advanced as arrivals did within RATE_SHARE; a format that only counts frames does not pass, and
   has to prove itself anew. A frame that came LEAD_S sooner than the first did, by the stream's
   time, starts the proof again: what waited at the server comes all at once when it is opened.
3. The least delay is that of the last HORIZON_S to 2 x HORIZON_S, so that two clocks may drift.
4. A stream time that goes back, or ahead of the arrivals by more than JUMP_S, is a jump: proof
   again.
5. A frame that would be older than DELAY_S_MAX is not believed: proof again.
6. No frame is captured after it arrived, nor before the frame in front of it.
Pure: the times are handed in.
"""

import math

PROOF_S = 5.0
RATE_SHARE = 0.05
HORIZON_S = 30.0
LEAD_S = 0.1
JUMP_S = 1.0
DELAY_S_MAX = 10.0


class StreamClock:
    """See the rules above. Not shared between threads."""

    def __init__(self) -> None:
        """Trust nothing yet."""
        self._captured_s = -math.inf
        self.start_again()

    def start_again(self) -> None:
        """Forget the stream's times: it was opened anew."""
        self._anchor: tuple[float, float] | None = None  # Stream time, arrival
        self._last = (0.0, 0.0)
        self._is_proven = False
        self._least_s = self._least_before_s = math.inf
        self._horizon_s = 0.0

    @property
    def is_proven(self) -> bool:
        """Whether the stream's times are used."""
        return self._is_proven

    def captured_s(self, stream_s: float | None, arrival_s: float) -> float:
        """Return when a frame of time `stream_s` that came at `arrival_s` was captured.

        Args: both in seconds; `arrival_s` of a monotonic clock, as is the answer.
        """
        captured_s = arrival_s
        if stream_s is not None and math.isfinite(stream_s):
            captured_s = min(arrival_s, self._from_stream(stream_s, arrival_s))
        else:
            self.start_again()
        self._captured_s = max(captured_s, self._captured_s)
        return self._captured_s

    def _from_stream(self, stream_s: float, arrival_s: float) -> float:
        if self._anchor is None or self._has_jumped(stream_s, arrival_s):
            self._start(stream_s, arrival_s)
        self._last = (stream_s, arrival_s)
        delay_s = arrival_s - stream_s
        self._note_delay(delay_s, arrival_s)
        if not self._is_proven:
            self._prove(stream_s, arrival_s)
            return arrival_s
        captured_s = stream_s + min(self._least_s, self._least_before_s)
        if arrival_s - captured_s > DELAY_S_MAX:
            self._start(stream_s, arrival_s)
            return arrival_s
        return captured_s

    def _has_jumped(self, stream_s: float, arrival_s: float) -> bool:
        before_s, arrived_s = self._last
        advance_s = stream_s - before_s
        return advance_s < 0.0 or advance_s > arrival_s - arrived_s + JUMP_S

    def _start(self, stream_s: float, arrival_s: float) -> None:
        self.start_again()
        self._anchor = (stream_s, arrival_s)
        self._last = self._anchor
        self._horizon_s = arrival_s

    def _prove(self, stream_s: float, arrival_s: float) -> None:
        assert self._anchor is not None, "started above"
        stream_advance_s, advance_s = stream_s - self._anchor[0], arrival_s - self._anchor[1]
        if stream_advance_s - advance_s > LEAD_S:
            self._start(stream_s, arrival_s)
            return
        if advance_s < PROOF_S:
            return
        if abs(stream_advance_s - advance_s) <= RATE_SHARE * advance_s:
            self._is_proven = True
        else:
            self._start(stream_s, arrival_s)

    def _note_delay(self, delay_s: float, arrival_s: float) -> None:
        if arrival_s - self._horizon_s >= HORIZON_S:
            self._least_before_s, self._least_s = self._least_s, math.inf
            self._horizon_s = arrival_s
        self._least_s = min(self._least_s, delay_s)
