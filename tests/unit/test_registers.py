"""Registers: as few requests as may be, and every kind of number."""

import math
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.sources.registers import REGISTERS_MAX, decode, plan_blocks
from shared.pipeline.sources import RegisterChannel, RegisterTable, RegisterType, WordOrder

INPUT = RegisterTable.INPUT
FORMS = {"int16": "h", "uint16": "H", "int32": "i", "uint32": "I", "float32": "f"}


def test_neighbours_are_asked_for_together_and_gaps_never() -> None:
    channels = [
        RegisterChannel(address=12),
        RegisterChannel(address=10, type=RegisterType.FLOAT32),
        RegisterChannel(address=14),
        RegisterChannel(address=13, table=INPUT),
        RegisterChannel(address=11),
    ]
    blocks = plan_blocks(channels)
    assert [(b.table, b.address, b.count, b.channels) for b in blocks] == [
        ("holding", 10, 3, (1, 4, 0)), ("holding", 14, 1, (2,)), ("input", 13, 1, (3,)),
    ]  # fmt: skip


@given(
    st.lists(
        st.builds(
            RegisterChannel,
            address=st.integers(0, 400),
            type=st.sampled_from(RegisterType),
            table=st.sampled_from(RegisterTable),
        ),
        min_size=1,
        max_size=120,
    )
)
def test_every_value_lies_in_one_request_of_allowed_size(channels: list[RegisterChannel]) -> None:
    blocks = plan_blocks(channels)
    assert sorted(i for block in blocks for i in block.channels) == list(range(len(channels)))
    for block in blocks:
        assert block.count <= REGISTERS_MAX
        wanted = set()
        for channel in (channels[i] for i in block.channels):
            assert channel.table is block.table
            wanted |= set(range(channel.address, channel.address + channel.words_count))
        assert wanted == set(range(block.address, block.address + block.count))


@pytest.mark.parametrize("order", WordOrder)
@pytest.mark.parametrize(
    ("kind", "number"),
    [("int16", -2), ("uint16", 65_534), ("int32", -70_000), ("uint32", 4e9), ("float32", -1.5)],
)
def test_numbers_are_read_scaled_and_moved(kind: str, number: float, order: WordOrder) -> None:
    value = number if kind == "float32" else int(number)
    data = struct.pack(">" + FORMS[kind], value)
    words = list(struct.unpack(f">{len(data) // 2}H", data))
    if order is WordOrder.LOW_FIRST:
        words.reverse()
    channel = RegisterChannel(
        address=0, type=RegisterType(kind), words=order, scale=0.5, offset=3.0
    )
    assert decode(channel, words) == number * 0.5 + 3.0


def test_a_float_that_is_none_is_missing() -> None:
    channel = RegisterChannel(address=0, type=RegisterType.FLOAT32)
    for word in (0x7FC0, 0x7F80, 0xFF80):
        assert math.isnan(decode(channel, [word, 0]))


def test_a_value_behind_the_last_register_is_refused() -> None:
    RegisterChannel(address=65_535)
    with pytest.raises(ValueError, match="last register"):
        RegisterChannel(address=65_535, type=RegisterType.INT32)
