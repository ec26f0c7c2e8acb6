"""Waiting for something that happens in another thread or process, with an end."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def wait_until(condition: Callable[[], T], *, seconds_max: float = 10.0) -> T:
    """Return the first true value of `condition`; fail after `seconds_max`."""
    deadline = time.monotonic() + seconds_max
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not true within {seconds_max} s; last value {value!r}")
        time.sleep(0.02)
