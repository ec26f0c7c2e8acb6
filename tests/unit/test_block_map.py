"""Blocks and windows as properties: whatever is lost or comes twice, the file becomes whole."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.updates.block_map import (
    MARK_BYTES,
    WINDOW_BLOCKS_START,
    BlockMap,
    Patience,
    Window,
    decode_marks,
    encode_mark,
    mark_of,
)
from shared.wire.blocks import (
    BLOCK_BYTES,
    WINDOW_BLOCKS_MAX,
    block_bytes,
    blocks_count,
    request_blocks,
    wanted_indexes,
)

PATH = "targets/releases/digits/1/x.onnx"


@given(st.integers(0, 2**40), st.sets(st.integers(0, WINDOW_BLOCKS_MAX - 1), min_size=1))
def test_a_request_names_exactly_the_wanted_blocks(start: int, offsets: set[int]) -> None:
    indexes = [start + offset for offset in sorted(offsets)]
    request = request_blocks(PATH, indexes)
    assert wanted_indexes(request) == tuple(indexes)
    assert len(request.wanted) <= WINDOW_BLOCKS_MAX // 8


@given(st.integers(1, 100 * BLOCK_BYTES))
def test_blocks_make_up_the_file(file_bytes: int) -> None:
    sizes = [block_bytes(index, file_bytes) for index in range(blocks_count(file_bytes))]
    assert sum(sizes) == file_bytes
    assert all(0 < size <= BLOCK_BYTES for size in sizes)


@given(st.integers(1, 200), st.sets(st.integers(0, 199)), st.sets(st.integers(0, 199)))
def test_what_is_asked_for_is_missing_not_asked_and_fits_one_request(
    count: int, here: set[int], asked: set[int]
) -> None:
    blocks = BlockMap(count)
    for index in here:
        if index < count:
            blocks.mark(index, 7)
    wanted = blocks.next_missing(asked, blocks_max=WINDOW_BLOCKS_MAX)
    open_blocks = [i for i in range(count) if i not in here and i not in asked]
    assert list(wanted) == sorted(wanted)
    assert set(wanted) <= set(open_blocks)
    assert bool(wanted) == bool(open_blocks)
    if wanted:
        assert wanted[0] == open_blocks[0]
        assert wanted[-1] - wanted[0] < WINDOW_BLOCKS_MAX
        reach = [i for i in open_blocks if i - wanted[0] < WINDOW_BLOCKS_MAX]
        assert list(wanted) == reach[:WINDOW_BLOCKS_MAX]
    assert blocks.missing_count == len([i for i in range(count) if i not in here])
    assert blocks.is_complete == (blocks.missing_count == 0)


@given(
    count=st.integers(1, 120),
    here=st.sets(st.integers(0, 119)),
    loss=st.floats(0, 0.6),
    is_reordered=st.booleans(),
    seed=st.integers(0, 2**32),
)
def test_a_file_becomes_whole_over_any_link_that_is_not_dead(
    count: int, here: set[int], loss: float, seed: int, *, is_reordered: bool
) -> None:
    """Plays a link that loses, doubles and mixes blocks; silence makes the window give up."""
    chance = random.Random(seed)
    blocks, window = BlockMap(count), Window()
    for index in here:
        if index < count:
            blocks.mark(index, 7)
    asked_total, in_flight = 0, []
    for _ in range(100_000):
        if blocks.is_complete:
            break
        wanted = window.next_request(blocks)
        assert window.asked_count <= WINDOW_BLOCKS_MAX
        assert not any(blocks.has(index) for index in wanted)
        asked_total += len(wanted)
        in_flight += [
            i for i in wanted if chance.random() >= loss for _ in range(1 + (chance.random() < 0.2))
        ]
        if is_reordered:
            chance.shuffle(in_flight)
        if not in_flight:
            window.give_up()
            continue
        index = in_flight.pop(0)
        if not blocks.has(index):
            blocks.mark(index, 7)
            window.arrived(index)
    assert blocks.is_complete
    assert blocks.share == 1.0
    if loss == 0 and not is_reordered:
        assert asked_total == len([i for i in range(count) if i not in here])


def whole(blocks: BlockMap, window: Window, indexes: range) -> list[int]:
    """Let these blocks come, one after the other; return what was asked for meanwhile."""
    asked: list[int] = []
    for index in indexes:
        blocks.mark(index, 1)
        window.arrived(index)
        asked += window.next_request(blocks)
    return asked


def test_the_window_grows_while_blocks_come_and_shrinks_with_silence() -> None:
    blocks, window = BlockMap(200), Window()
    assert window.next_request(blocks) == tuple(range(WINDOW_BLOCKS_START))
    whole(blocks, window, range(60))
    assert WINDOW_BLOCKS_MAX // 2 < window.asked_count <= WINDOW_BLOCKS_MAX
    window.give_up()
    assert window.next_request(blocks) == (60,)
    assert window.next_request(blocks) == ()
    whole(blocks, window, range(60, 90))
    assert WINDOW_BLOCKS_MAX // 2 < window.asked_count <= WINDOW_BLOCKS_MAX


def test_the_next_blocks_are_asked_for_when_half_have_come() -> None:
    blocks, window = BlockMap(200), Window()
    window.next_request(blocks)
    assert whole(blocks, window, range(200)) == list(range(4, 200))
    assert blocks.is_complete


def test_a_block_lost_long_ago_is_asked_for_again_without_silence() -> None:
    blocks, window = BlockMap(100), Window()
    window.next_request(blocks)
    assert 0 in whole(blocks, window, range(1, 20))  # Block 0 is lost.


def test_patience_follows_the_link_and_doubles_with_silence() -> None:
    patience = Patience(wait_s_min=3.0, wait_s_max=60.0)
    assert patience.wait_s == 3.0
    patience.was_silent()
    assert patience.wait_s == 6.0
    patience.heard(gap_s=6.5)
    patience.progressed()
    assert patience.wait_s == 19.5
    for _ in range(3):
        patience.was_silent()
    assert patience.wait_s == 60.0
    assert patience.silences_count == 3
    patience.progressed()
    for _ in range(50):
        patience.heard(gap_s=0.01)
    assert patience.wait_s == 3.0


@given(st.lists(st.binary(min_size=0, max_size=50), max_size=40))
def test_marks_survive_their_file(parts: list[bytes]) -> None:
    marks = [mark_of(part) for part in parts]
    assert all(marks)
    stored = b"".join(encode_mark(mark) for mark in marks)
    assert decode_marks(stored, blocks_count=len(parts)) == tuple(marks)
    cut = stored[: len(stored) // 2]
    read = decode_marks(cut, blocks_count=len(parts) + 3)
    whole = len(cut) // MARK_BYTES
    assert read[:whole] == tuple(marks[:whole])
    assert read[whole + 1 :] == (0,) * (len(parts) + 3 - whole - 1)


@pytest.mark.parametrize("seed", range(3))
def test_one_flipped_bit_changes_the_mark(seed: int) -> None:
    chance = random.Random(seed)
    data = bytearray(chance.randbytes(BLOCK_BYTES))
    before = mark_of(bytes(data))
    data[chance.randrange(BLOCK_BYTES)] ^= 1 << chance.randrange(8)
    assert mark_of(bytes(data)) != before
