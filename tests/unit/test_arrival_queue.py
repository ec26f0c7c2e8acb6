"""What waits between callbacks and the taking thread is bounded, ordered and decoded late."""

import threading

from shared.ids import DeviceId, SessionId
from shared.link.arrival_queue import ARRIVALS_BYTES_MAX, NOTICES_MAX, ArrivalQueue
from shared.link.link import ARRIVALS_MAX, Connected, Delivery, Disconnected, Rejection
from shared.wire.codec import encode
from shared.wire.presence import Presence
from shared.wire.topics import BY_NAME

DEVICE = DeviceId("dev-a")
SESSION = SessionId("0123456789abcdef")
PATH = BY_NAME["presence"].path(DEVICE)
PRESENCE = Presence(is_online=True)


def put(
    queue: ArrivalQueue,
    payload: bytes,
    *,
    path: str = PATH,
    handle: object = None,
    is_expendable: bool = False,
) -> bool:
    return queue.put_message(
        path, payload, is_retained=False, is_expendable=is_expendable, handle=handle
    )


def test_arrivals_come_in_order_and_end_in_silence() -> None:
    queue = ArrivalQueue()
    queue.put_notice(Connected(session_id=SESSION))
    put(queue, encode(PRESENCE, session_id=SESSION, sent_ms=5), handle="h")
    put(queue, b"garbage", handle="g")
    queue.put_notice(Disconnected(reason="lost"))
    first, second, third, fourth = queue.arrivals(wait_s=0.0)
    assert first == Connected(session_id=SESSION)
    assert isinstance(second, Delivery)
    assert second.received.message == PRESENCE
    assert second.handle == "h"
    assert isinstance(third, Rejection)
    assert (third.path, third.error.code, third.handle) == (PATH, "wire.invalid", "g")
    assert fourth == Disconnected(reason="lost")
    assert (queue.rejected_count, queue.dropped_count) == (1, 0)


def test_messages_past_the_limit_are_dropped_and_counted_but_notices_are_not() -> None:
    queue = ArrivalQueue()
    assert all(put(queue, b"x") for _ in range(ARRIVALS_MAX))
    assert not put(queue, b"x")
    assert queue.dropped_count == 1
    queue.put_notice(Disconnected(reason="lost"))
    assert len(list(queue.arrivals(wait_s=0.0))) == ARRIVALS_MAX + 1
    assert put(queue, b"x")  # There is room again.


def test_a_flood_at_qos_0_leaves_room_for_what_is_at_qos_1() -> None:
    queue = ArrivalQueue()
    flood = [put(queue, b"x", is_expendable=True) for _ in range(2 * ARRIVALS_MAX)]
    assert sum(flood) == ARRIVALS_MAX // 2
    assert all(put(queue, b"y") for _ in range(ARRIVALS_MAX // 2))
    large = ArrivalQueue()
    megabytes = [put(large, bytes(1 << 20), is_expendable=True) for _ in range(70)]
    assert sum(megabytes) == ARRIVALS_BYTES_MAX // 2 >> 20
    assert put(large, bytes(1 << 20))


def test_notices_are_bounded_too() -> None:
    queue = ArrivalQueue()
    for _ in range(ARRIVALS_MAX + NOTICES_MAX + 5):
        queue.put_notice(Disconnected(reason="lost"))
    assert queue.dropped_count == 5
    assert len(list(queue.arrivals(wait_s=0.0))) == ARRIVALS_MAX + NOTICES_MAX


def test_large_messages_are_bounded_by_their_bytes() -> None:
    queue = ArrivalQueue()
    big = bytes(1 << 20)
    taken = sum(put(queue, big) for _ in range(70))
    assert taken == ARRIVALS_BYTES_MAX // len(big)
    assert next(iter(queue.arrivals(wait_s=0.0)))
    assert put(queue, big)  # Taking one made room for one.
    assert not put(queue, big)


def test_closing_ends_the_taking_at_once_and_for_ever() -> None:
    queue = ArrivalQueue()
    ended = threading.Event()

    def take() -> None:
        assert list(queue.arrivals(wait_s=60.0)) == []
        ended.set()

    thread = threading.Thread(target=take)
    thread.start()
    queue.close()
    assert ended.wait(5)
    thread.join()
    assert not put(queue, b"x")
    queue.put_notice(Disconnected(reason="lost"))
    assert list(queue.arrivals(wait_s=0.0)) == []
