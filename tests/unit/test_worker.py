"""A worker's thread survives what its work raises, says so, and ends when it is told to."""

import logging
import threading

import pytest

from shared.errors import UnavailableError
from shared.worker import HEALTHY_S, RESTART_S_MAX, RESTART_S_MIN, Worker
from tests.support.manual_clock import ManualClock
from tests.support.waiting import wait_until


class RecordingClock(ManualClock):
    """Remembers how long was waited."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[float] = []

    def wait(self, event: threading.Event, seconds: float) -> bool:
        self.waits.append(seconds)
        return super().wait(event, seconds)


def run_failing(times: int, *, lasting_s: float = 0.0) -> tuple[Worker, RecordingClock]:
    """Return a worker that failed so often, each time after `lasting_s`, and then ended well."""
    clock = RecordingClock()
    runs = iter(range(times + 1))

    def run(_stop: threading.Event) -> None:
        if next(runs) < times:
            clock.advance(lasting_s)
            raise ValueError("a bug")

    worker = Worker("test", run, clock=clock)
    worker.start()
    wait_until(lambda: not worker.is_alive)
    return worker, clock


def test_work_that_ends_well_is_not_begun_again() -> None:
    worker, clock = run_failing(0)
    assert (worker.crashes_count, worker.fatal, clock.waits) == (0, None, [])


def test_work_that_dies_is_begun_again_with_growing_delays(
    caplog: pytest.LogCaptureFixture,
) -> None:
    worker, clock = run_failing(9)
    assert worker.crashes_count == len(clock.waits) == 9
    ceilings = [min(RESTART_S_MIN * 2**n, RESTART_S_MAX) for n in range(9)]
    for waited, ceiling in zip(clock.waits, ceilings, strict=True):
        assert ceiling / 2 <= waited <= ceiling
    crashes = [record for record in caplog.records if record.message == "worker.crashed"]
    assert len(crashes) == 9
    assert crashes[0].exc_info is not None


def test_a_crash_after_a_long_healthy_run_waits_briefly() -> None:
    _, clock = run_failing(9, lasting_s=HEALTHY_S + 1)
    assert max(clock.waits) <= RESTART_S_MIN


def test_what_cannot_go_on_ends_the_worker_and_is_kept(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def run(_stop: threading.Event) -> None:
        raise UnavailableError("disk.full", "The disk is full.")

    worker = Worker("test", run, clock=ManualClock())
    with caplog.at_level(logging.ERROR):
        worker.start()
        wait_until(lambda: not worker.is_alive)
    assert worker.fatal is not None
    assert worker.fatal.code == "disk.full"
    assert worker.crashes_count == 0
    assert [record.message for record in caplog.records] == ["worker.unavailable"]


def test_stop_ends_work_that_waits_for_it() -> None:
    worker = Worker("test", lambda stop: stop.wait() and None)
    worker.start()
    assert worker.is_alive
    assert worker.stop()
    assert not worker.is_alive


def test_stop_says_when_the_work_does_not_end() -> None:
    began, release = threading.Event(), threading.Event()

    def run(_stop: threading.Event) -> None:
        began.set()
        release.wait()

    worker = Worker("test", run)
    worker.start()
    assert began.wait(5)
    assert not worker.stop(seconds_max=0.05)
    release.set()
    assert worker.stop()


def test_request_stop_returns_at_once_and_a_crash_after_it_is_the_last() -> None:
    asked = threading.Event()

    def run(stop: threading.Event) -> None:
        asked.set()
        stop.wait()
        raise ValueError("while stopping")

    worker = Worker("test", run, clock=ManualClock())
    worker.start()
    assert asked.wait(5)
    worker.request_stop()
    wait_until(lambda: not worker.is_alive)
    assert worker.crashes_count == 1


def test_a_worker_that_was_never_started_can_be_stopped() -> None:
    assert Worker("test", lambda _stop: None).stop()
