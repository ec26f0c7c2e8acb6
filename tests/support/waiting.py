"""Waiting for something that happens in another thread or process, with an end."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

# To ask costs the processor time that the answer needs: after a long wait it is asked less often.
PAUSE_S_MIN = 0.02
PAUSE_S_MAX = 0.05
PAUSE_SHARE = 0.04  # Of the time that was waited so far


def wait_until(condition: Callable[[], T], *, seconds_max: float = 10.0) -> T:
    """Return the first true value of `condition`; fail after `seconds_max`."""
    started = time.monotonic()
    while True:
        value = condition()
        if value:
            return value
        waited_s = time.monotonic() - started
        if waited_s > seconds_max:
            raise AssertionError(f"not true within {seconds_max} s; last value {value!r}")
        time.sleep(min(max(PAUSE_S_MIN, PAUSE_SHARE * waited_s), PAUSE_S_MAX))
