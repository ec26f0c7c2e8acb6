"""BlockQueue: turns, limits, duplicates."""

import pytest

from cloud_hub.inbox import block_queue
from cloud_hub.inbox.block_queue import BlockQueue, wanted_indices
from cloud_hub.inbox.log_limit import LogLimit
from shared.ids import DeviceId
from shared.wire.blocks import WINDOW_BLOCKS_MAX, BlockRequest

A, B = DeviceId("dev-a"), DeviceId("dev-b")
PATH = "targets/models/digits/1/model.onnx"


def ask(first: int, wanted: bytes = b"\xff\xff", *, path: str = PATH) -> BlockRequest:
    return BlockRequest(path=path, first=first, wanted=wanted)


def drain(queue: BlockQueue) -> list[tuple[str, int]]:
    taken = []
    while (block := queue.take()) is not None:
        taken.append((block.device, block.index))
    return taken


@pytest.mark.parametrize(
    ("first", "wanted", "indices"),
    [
        (0, b"\x01", (0,)),
        (5, b"\x05", (5, 7)),
        (10, b"\x00\x80", (25,)),
        (0, b"\xff\xff", tuple(range(16))),
        (3, b"\x00\x00", ()),
    ],
)
def test_the_bitmap_names_blocks_from_first_on(
    first: int, wanted: bytes, indices: tuple[int, ...]
) -> None:
    assert wanted_indices(ask(first, wanted)) == indices


def test_devices_take_turns_block_by_block() -> None:
    queue = BlockQueue()
    queue.add(A, ask(0, b"\x0f"))
    queue.add(B, ask(0, b"\x03"))
    assert drain(queue) == [(A, 0), (B, 0), (A, 1), (B, 1), (A, 2), (A, 3)]


def test_a_block_that_waits_already_is_not_sent_twice() -> None:
    queue = BlockQueue()
    queue.add(A, ask(0, b"\x0f"))
    queue.add(A, ask(2, b"\x0f"))
    assert len(queue) == 6
    assert [index for _, index in drain(queue)] == [0, 1, 2, 3, 4, 5]


def test_a_request_for_nothing_is_nothing() -> None:
    queue = BlockQueue()
    queue.add(A, ask(0, b"\x00"))
    assert len(queue) == 0
    assert queue.take() is None


def test_of_a_greedy_device_the_newest_wishes_stay() -> None:
    queue = BlockQueue()
    for window in range(6):
        queue.add(A, ask(window * WINDOW_BLOCKS_MAX))
    queue.add(B, ask(0, b"\x01"))
    assert queue.dropped_count == 2 * WINDOW_BLOCKS_MAX
    assert queue.take() == block_queue.WantedBlock(A, PATH, 2 * WINDOW_BLOCKS_MAX)
    assert queue.take() == block_queue.WantedBlock(B, PATH, 0), "and others wait one block"


def test_all_devices_together_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(block_queue, "BLOCKS_MAX", 20)
    queue = BlockQueue()
    for number in range(10):
        queue.add(DeviceId(f"dev-{number}"), ask(0, b"\x07"))
        assert len(queue) <= 20
    assert queue.dropped_count == 10
    assert len(drain(queue)) == 20
    assert len(queue) == 0


def test_a_line_is_allowed_once_per_period_and_key() -> None:
    limit = LogLimit(period_s=60.0, keys_max=10)
    assert limit.allows("a", 0.0)
    assert not limit.allows("a", 59.0)
    assert limit.allows("b", 59.0)
    assert limit.allows("a", 60.0)
    assert not limit.allows("a", 119.0)


def test_the_keys_a_limit_remembers_are_bounded() -> None:
    limit = LogLimit(period_s=60.0, keys_max=3)
    for key in range(1000):
        assert limit.allows(key, 0.0)
    assert len(limit._logged_s) == 3
    assert not limit.allows(999, 1.0)
