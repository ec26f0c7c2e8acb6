"""How long to wait before trying again: exponential, with equal jitter.

Source: M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015 ("equal jitter").
"""

import random


class Backoff:
    """Delays for one thing that is retried. Not shared between threads."""

    def __init__(self, *, delay_s_min: float, delay_s_max: float, seed: int | None = None) -> None:
        """Args: the first delay is at most `delay_s_min`; no delay is over `delay_s_max`."""
        assert 0 < delay_s_min <= delay_s_max
        self._delay_s_min = delay_s_min
        self._delay_s_max = delay_s_max
        self._random = random.Random(seed)  # noqa: S311  (spreads load, keeps no secret)
        self._ceiling_s = delay_s_min

    def next_delay_s(self) -> float:
        """Return the next delay: between half and all of a ceiling that doubles each time."""
        ceiling_s = self._ceiling_s
        self._ceiling_s = min(ceiling_s * 2, self._delay_s_max)
        return ceiling_s * self._random.uniform(0.5, 1.0)

    def reset(self) -> None:
        """Start again from the shortest delay, after a success."""
        self._ceiling_s = self._delay_s_min
