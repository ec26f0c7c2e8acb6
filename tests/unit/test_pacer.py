"""Pacer: when the next item is due."""

import threading

from edge_agent.sources.pacer import Pacer
from tests.support.manual_clock import ManualClock


def test_items_come_at_the_pace_whatever_was_spent_between_them() -> None:
    clock, stop = ManualClock(), threading.Event()
    pacer, start_s = Pacer(clock), clock.monotonic_s()
    at = []
    for spent_s in (0.0, 0.3, 0.9, 0.1):
        assert pacer.wait(1.0, stop)
        at.append(clock.monotonic_s() - start_s)
        clock.advance(spent_s)
    assert at == [0.0, 1.0, 2.0, 3.0]


def test_a_little_lateness_is_caught_up() -> None:
    clock, stop = ManualClock(), threading.Event()
    pacer, start_s = Pacer(clock), clock.monotonic_s()
    pacer.wait(1.0, stop)
    clock.advance(1.5)
    pacer.wait(1.0, stop)
    assert clock.monotonic_s() - start_s == 1.5
    pacer.wait(1.0, stop)
    assert clock.monotonic_s() - start_s == 2.0


def test_after_a_long_wait_there_is_no_burst() -> None:
    clock, stop = ManualClock(), threading.Event()
    pacer = Pacer(clock)
    pacer.wait(1.0, stop)
    clock.advance(100.0)
    pacer.wait(1.0, stop)
    before_s = clock.monotonic_s()
    pacer.wait(1.0, stop)
    assert clock.monotonic_s() - before_s == 1.0


def test_no_pause_never_waits() -> None:
    clock, stop = ManualClock(), threading.Event()
    pacer, start_s = Pacer(clock), clock.monotonic_s()
    assert all(pacer.wait(0.0, stop) for _ in range(5))
    assert clock.monotonic_s() == start_s


def test_stop_ends_the_wait() -> None:
    stop = threading.Event()
    stop.set()
    assert not Pacer(ManualClock()).wait(1.0, stop)
