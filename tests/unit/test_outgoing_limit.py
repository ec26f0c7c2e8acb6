"""What waits to be sent is bounded in number and bytes, and what left makes room."""

import pytest

from shared.errors import TransientError
from shared.link.link import OUTGOING_MAX
from shared.link.outgoing_limit import OUTGOING_BYTES_MAX, OutgoingLimit


def is_full(limit: OutgoingLimit, size: int = 1) -> bool:
    try:
        limit.refuse_if_full(size)
    except TransientError as error:
        return error.code == "link.full"
    return False


def test_the_number_of_waiting_messages_is_bounded() -> None:
    limit = OutgoingLimit()
    for packet_id in range(OUTGOING_MAX):
        limit.refuse_if_full(1)
        limit.add(packet_id, 1, 1)
    with pytest.raises(TransientError, match=str(OUTGOING_MAX)):
        limit.refuse_if_full(1)
    limit.done.append(17)
    limit.refuse_if_full(1)


def test_their_bytes_are_bounded() -> None:
    limit = OutgoingLimit()
    limit.add(1, OUTGOING_BYTES_MAX - 10, 1)
    assert not is_full(limit, 10)
    assert is_full(limit, 11)
    limit.done.append(1)
    assert not is_full(limit, OUTGOING_BYTES_MAX)


def test_a_lost_connection_loses_qos_0_only() -> None:
    limit = OutgoingLimit()
    limit.add(1, OUTGOING_BYTES_MAX - 20, 0)
    limit.add(2, 20, 1)
    assert is_full(limit)
    limit.forget_unsaved()
    assert not is_full(limit, OUTGOING_BYTES_MAX - 20)
    assert is_full(limit, OUTGOING_BYTES_MAX - 19)


def test_a_packet_that_left_before_it_was_noted_does_no_harm() -> None:
    limit = OutgoingLimit()
    limit.done.extend([5, 5, 6])
    assert not is_full(limit)
    limit.add(5, 10, 1)
    limit.done.append(5)
    assert not is_full(limit, OUTGOING_BYTES_MAX)
