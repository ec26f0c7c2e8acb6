"""Mailbox: what is kept, what is dropped, who waits."""

import threading

import numpy as np

from edge_agent.sources.item import Frame
from edge_agent.sources.mailbox import (
    QUEUE_BYTES_MAX,
    QUEUE_ITEMS_MAX,
    Keep,
    Mailbox,
    MailboxCounts,
    mailbox_for,
)
from shared.clock import SystemClock
from tests.support.fake_sources import ScriptedSource, frame_of
from tests.support.manual_clock import ManualClock
from tests.support.waiting import wait_until

NEVER = threading.Event()


def test_newest_wins_and_the_replaced_are_counted() -> None:
    mailbox = Mailbox(Keep.NEWEST)
    for sequence in range(5):
        assert mailbox.put(frame_of(sequence), NEVER)
    taken = mailbox.take(0.0)
    assert taken is not None
    assert taken.sequence == 4
    assert mailbox.take(0.0) is None
    assert mailbox.counts == MailboxCounts(items_in=5, items_dropped=4)


def test_every_item_arrives_in_order_though_the_taker_is_slow() -> None:
    mailbox = Mailbox(Keep.EVERY)
    count = 5 * QUEUE_ITEMS_MAX

    def put_all() -> None:
        for sequence in range(count):
            assert mailbox.put(frame_of(sequence), NEVER)
        mailbox.end()

    putter = threading.Thread(target=put_all)
    putter.start()
    wait_until(lambda: mailbox.counts.items_in == QUEUE_ITEMS_MAX)  # Full: the putter waits
    taken = []
    while not mailbox.is_over:
        item = mailbox.take(1.0)
        if item is not None:
            taken.append(item.sequence)
    putter.join(5.0)
    assert taken == list(range(count))
    assert mailbox.counts == MailboxCounts(items_in=count, items_dropped=0)


def test_a_full_mailbox_lets_go_of_the_putter_on_stop() -> None:
    mailbox, stop = Mailbox(Keep.EVERY), threading.Event()
    for sequence in range(QUEUE_ITEMS_MAX):
        mailbox.put(frame_of(sequence), stop)
    stop.set()
    assert not mailbox.put(frame_of(99), stop)
    assert mailbox.counts.items_in == QUEUE_ITEMS_MAX


def test_what_is_inside_at_the_end_can_still_be_taken() -> None:
    mailbox = Mailbox(Keep.EVERY)
    mailbox.put(frame_of(0), NEVER)
    mailbox.end()
    assert not mailbox.is_over
    assert mailbox.take(0.0) is not None
    assert mailbox.is_over
    assert mailbox.take(60.0) is None  # Returns at once: nothing will come


def test_a_taker_that_waits_is_woken() -> None:
    mailbox = Mailbox(Keep.NEWEST)
    got: list[object] = []
    taker = threading.Thread(target=lambda: got.append(mailbox.take(30.0)))
    taker.start()
    mailbox.put(frame_of(7), NEVER)
    taker.join(5.0)
    assert len(got) == 1
    assert got[0] is not None


def test_a_source_gets_the_mailbox_it_promises() -> None:
    live = mailbox_for(ScriptedSource([], is_every_item=False), SystemClock())
    live.put(frame_of(0), NEVER)
    live.put(frame_of(1), NEVER)
    assert live.counts.items_dropped == 1
    recorded = mailbox_for(ScriptedSource([], is_every_item=True), SystemClock())
    recorded.put(frame_of(0), NEVER)
    recorded.put(frame_of(1), NEVER)
    assert recorded.counts.items_dropped == 0


def test_large_frames_fill_it_sooner_but_one_always_fits() -> None:
    mailbox, stop = Mailbox(Keep.EVERY), threading.Event()
    stop.set()  # A full one says no instead of waiting
    half = Frame(np.zeros((QUEUE_BYTES_MAX // 2,), np.uint8), 0, captured_ms=0, captured_s=0.0)
    assert [mailbox.put(half, stop) for _ in range(3)] == [True, True, False]
    assert mailbox.take(0.0) is not None
    assert mailbox.put(half, stop)
    empty = Mailbox(Keep.EVERY)
    larger = Frame(np.zeros((QUEUE_BYTES_MAX + 1,), np.uint8), 0, captured_ms=0, captured_s=0.0)
    assert empty.put(larger, stop)
    assert not empty.put(frame_of(1), stop)


def serve(mailbox: Mailbox, clock: ManualClock, *, pause_s: float, busy_s: float) -> list[bool]:
    """Ask for 60 items, `pause_s` apart, with a taker busy for `busy_s` with each; the answers."""
    answers: list[bool] = []
    free_s = clock.monotonic_s()

    def take_if_free() -> None:
        nonlocal free_s
        now_s = clock.monotonic_s()
        if now_s >= free_s and (taken := mailbox.take(0.0)) is not None:
            assert now_s - taken.captured_s <= pause_s + 1e-9  # Never older than one pause
            free_s = now_s + busy_s

    for sequence in range(60):
        take_if_free()
        answers.append(mailbox.wants())
        if answers[-1]:
            mailbox.put(frame_of(sequence, captured_s=clock.monotonic_s()), NEVER)
        take_if_free()
        clock.advance(pause_s)
    return answers


def test_items_that_a_busy_taker_would_not_see_are_not_wanted() -> None:
    clock = ManualClock()
    mailbox = Mailbox(Keep.NEWEST, clock)
    answers = serve(mailbox, clock, pause_s=0.01, busy_s=0.1)
    assert sum(answers[20:]) <= 14  # Of 40: one or two for each of the taker's rounds
    counts = mailbox.counts
    assert counts.items_in == 60
    assert counts.items_dropped >= answers.count(False)


def test_every_item_is_wanted_while_the_taker_is_the_faster_one() -> None:
    clock = ManualClock()
    assert all(serve(Mailbox(Keep.NEWEST, clock), clock, pause_s=0.1, busy_s=0.01))


def test_every_item_is_wanted_while_nobody_comes() -> None:
    clock = ManualClock()
    mailbox = Mailbox(Keep.NEWEST, clock)
    serve(mailbox, clock, pause_s=0.01, busy_s=0.1)
    clock.advance(60.0)  # No release serves
    for sequence in range(5):
        clock.advance(0.01)
        assert mailbox.wants()
        mailbox.put(frame_of(sequence), NEVER)
    taken = mailbox.take(0.0)
    assert taken is not None
    assert taken.sequence == 4
