"""Mailbox: what is kept, what is dropped, who waits."""

import threading

from edge_agent.sources.mailbox import QUEUE_ITEMS_MAX, Keep, Mailbox, MailboxCounts, mailbox_for
from tests.support.fake_sources import ScriptedSource, frame_of
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
    live = mailbox_for(ScriptedSource([], is_every_item=False))
    live.put(frame_of(0), NEVER)
    live.put(frame_of(1), NEVER)
    assert live.counts.items_dropped == 1
    recorded = mailbox_for(ScriptedSource([], is_every_item=True))
    recorded.put(frame_of(0), NEVER)
    recorded.put(frame_of(1), NEVER)
    assert recorded.counts.items_dropped == 0
