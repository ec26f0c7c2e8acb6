"""CaptureLoop: a source that comes and goes, and what is told about it."""

import logging
import threading

import pytest

from edge_agent.sources.capture import CaptureLoop, CaptureState
from edge_agent.sources.mailbox import Keep, Mailbox
from shared.errors import ContractError, TransientError
from tests.support.fake_sources import ScriptedSource, frame_of
from tests.support.manual_clock import ManualClock

LOST = TransientError("source.lost", "No frame comes.")
WRONG = ContractError("source.missing", "There is no video.")


def capture(source: ScriptedSource) -> tuple[CaptureLoop, Mailbox, ManualClock]:
    mailbox, clock = Mailbox(Keep.NEWEST), ManualClock()
    loop = CaptureLoop(source, mailbox, clock, name="door")
    loop.run(threading.Event())
    return loop, mailbox, clock


def test_a_source_that_ends_ends_the_mailbox() -> None:
    source = ScriptedSource([frame_of(0), frame_of(1)])
    loop, mailbox, _ = capture(source)
    assert loop.status.state is CaptureState.ENDED
    assert mailbox.counts.items_in == 2
    assert mailbox.take(0.0) is not None
    assert mailbox.is_over
    assert source.closed_count >= 1


def test_a_lost_source_is_opened_again_and_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    source = ScriptedSource([frame_of(0), LOST, frame_of(1), LOST, frame_of(2)])
    loop, mailbox, _ = capture(source)
    assert mailbox.counts.items_in == 3
    assert source.opened_count == 3
    assert loop.interruptions_count == 2
    events = [record.message for record in caplog.records]
    assert events == [
        "source.running",
        "source.lost",
        "source.back",
        "source.lost",
        "source.back",
        "source.ended",
    ]


def test_tries_that_fail_are_one_interruption_with_growing_pauses(
    caplog: pytest.LogCaptureFixture,
) -> None:
    source = ScriptedSource([frame_of(0)], opens=[LOST] * 10)
    loop, _, clock = capture(source)
    assert loop.interruptions_count == 1
    assert sum(record.message == "source.lost" for record in caplog.records) == 1
    # 0.5, 1, 2, 4, 8, 16, 30, 30, 30, 30 seconds, each between half and all of it.
    assert 75.0 < clock.monotonic_s() - 1000.0 < 152.0


def test_while_it_is_away_the_state_says_so_and_why() -> None:
    mailbox, clock, seen = Mailbox(Keep.NEWEST), ManualClock(), []
    source = ScriptedSource([frame_of(0), LOST, frame_of(1)])
    loop = CaptureLoop(source, mailbox, clock)
    wait = clock.wait

    def watch(event: threading.Event, seconds: float) -> bool:
        seen.append(loop.status)
        return wait(event, seconds)

    clock.wait = watch  # type: ignore[method-assign]
    loop.run(threading.Event())
    assert [status.state for status in seen] == [CaptureState.RECONNECTING]
    assert seen[0].code == "source.lost"
    assert "No frame comes" in seen[0].detail


def test_wrong_settings_are_not_tried_again() -> None:
    source = ScriptedSource([frame_of(0)], opens=[WRONG])
    loop, mailbox, clock = capture(source)
    assert source.opened_count == 1
    assert loop.status.state is CaptureState.FAILED
    assert loop.status.code == "source.missing"
    assert mailbox.is_over
    assert clock.monotonic_s() == 1000.0


def test_stop_is_not_the_end_of_the_source() -> None:
    stop = threading.Event()
    source = ScriptedSource([frame_of(0), stop, LOST])
    mailbox = Mailbox(Keep.NEWEST)
    loop = CaptureLoop(source, mailbox, ManualClock())
    loop.run(stop)
    assert loop.status.state is CaptureState.STOPPED
    assert not mailbox.is_over
    assert source.closed_count >= 1


def test_no_item_is_read_before_somebody_takes_items_and_none_while_nobody_does() -> None:
    source = ScriptedSource([frame_of(0), frame_of(1), frame_of(2)])
    mailbox, answers, read = Mailbox(Keep.EVERY), [False, False, True, False, True, True, True], []

    def wait(seconds: float) -> bool:
        assert 0.0 < seconds < 1.0
        read.append((source.opened_count, mailbox.counts.items_in))
        return answers.pop(0)

    loop = CaptureLoop(source, mailbox, ManualClock(), wait_for_taker=wait)
    loop.run(threading.Event())
    assert read == [(1, 0), (1, 0), (1, 0), (1, 1), (1, 1), (1, 2), (1, 3)]
    assert loop.status.state is CaptureState.ENDED
    assert mailbox.counts.items_in == 3


def test_what_is_wrong_with_a_source_is_said_before_anybody_takes_items() -> None:
    source = ScriptedSource([], opens=[WRONG])
    loop = CaptureLoop(source, Mailbox(Keep.EVERY), ManualClock(), wait_for_taker=lambda _: False)
    loop.run(threading.Event())
    assert loop.status.state is CaptureState.FAILED


def test_a_stop_ends_the_wait_for_somebody_who_takes_items() -> None:
    stop = threading.Event()

    def wait(_: float) -> bool:
        stop.set()
        return False

    loop = CaptureLoop(
        ScriptedSource([frame_of(0)]), Mailbox(Keep.EVERY), ManualClock(), wait_for_taker=wait
    )
    loop.run(stop)
    assert loop.status.state is CaptureState.STOPPED
