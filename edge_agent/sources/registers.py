"""Registers: which to ask of a Modbus device, and what the answers mean. Pure.

1. Values that lie next to each other in one table are asked for together, REGISTERS_MAX at most
   (Modbus Application Protocol V1.1b3, 6.3 and 6.4). What lies between values is never asked for: a
   device may refuse the whole request because of it.
2. A register is 16 bits; a value of 32 bits is two registers, in the order that its settings say.
3. A float32 that is not finite is a missing value.
"""

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass

from shared.pipeline.sources import RegisterChannel, RegisterTable, RegisterType, WordOrder

REGISTERS_MAX = 125

_FORMS = {
    RegisterType.INT16: ">h",
    RegisterType.UINT16: ">H",
    RegisterType.INT32: ">i",
    RegisterType.UINT32: ">I",
    RegisterType.FLOAT32: ">f",
}


@dataclass(frozen=True, slots=True)
class Block:
    """Registers that are asked for together."""

    table: RegisterTable
    address: int
    count: int
    channels: tuple[int, ...]  # Which values lie in it, by their place in the settings


def plan_blocks(channels: Sequence[RegisterChannel]) -> tuple[Block, ...]:
    """Return the fewest requests that read all `channels`; see rule 1."""
    order = sorted(range(len(channels)), key=lambda i: (channels[i].table, channels[i].address))
    blocks: list[Block] = []
    for index in order:
        channel = channels[index]
        end = channel.address + channel.words_count
        last = blocks[-1] if blocks else None
        if (
            last is not None
            and last.table is channel.table
            and channel.address <= last.address + last.count
            and end - last.address <= REGISTERS_MAX
        ):
            count = max(last.count, end - last.address)
            blocks[-1] = Block(last.table, last.address, count, (*last.channels, index))
        else:
            blocks.append(Block(channel.table, channel.address, channel.words_count, (index,)))
    return tuple(blocks)


def decode(channel: RegisterChannel, words: Sequence[int]) -> float:
    """Return a value from its one or two registers; NaN where it is missing."""
    if len(words) == 2 and channel.words is WordOrder.LOW_FIRST:
        words = words[::-1]
    data = struct.pack(f">{len(words)}H", *words)
    number = float(struct.unpack(_FORMS[channel.type], data)[0])
    value = number * channel.scale + channel.offset
    return value if math.isfinite(value) else math.nan
