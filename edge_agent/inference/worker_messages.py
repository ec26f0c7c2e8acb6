"""What the agent and an inference worker say to each other. Pure; both sides.

1. Every packet begins with a byte that says what it is. What comes in every frame has a fixed form;
   the rest is JSON.
2. A slot is one block of memory that both see: the input from offset 0, outputs from
   `output_offset`, each at a multiple of ALIGNMENT_BYTES. Whoever holds a lane owns the slot it
   names until the answer.
3. ATTACH and OVERFLOW are followed by a packet that carries the block's descriptor.
4. The worker says READY or REFUSED once on the control socket, then answers every PING.
"""

import json
import math
import struct
from collections.abc import Sequence
from typing import Any

PACKET_BYTES_MAX = 16 * 1024
ALIGNMENT_BYTES = 64
PAGE_BYTES = 4096
OUTPUTS_MAX = 256
OUTPUT_BYTES_MAX = 256 << 20  # Of one run; more is no model's answer
TEXT_CHARS_MAX = 1000

READY, REFUSED = b"Y", b"N"
PING, PONG = b"?", b"!"
ATTACH, RUN = b"A", b"R"
OUTPUTS, OVERFLOW, FAILED, ATTACHED = b"O", b"V", b"E", b"K"

_RUN = struct.Struct("<cII")
Layout = tuple[tuple[str, tuple[int, ...]], ...]  # Of each output: numpy's dtype string, shape


def run_packet(slot: int, rows: int) -> bytes:
    """Return the order to run the first `rows` of a slot's input."""
    return _RUN.pack(RUN, slot, rows)


def parse_run(packet: bytes) -> tuple[int, int]:
    """Return slot and rows."""
    _, slot, rows = _RUN.unpack(packet)
    return slot, rows


def json_packet(kind: bytes, value: object) -> bytes:
    """Return a packet of the rarer kinds."""
    return kind + json.dumps(value).encode()


def parse_json(packet: bytes) -> Any:  # noqa: ANN401 - each kind has its own form, its reader knows
    """Return what such a packet says."""
    return json.loads(packet[1:])


def parse_layout(packet: bytes) -> Layout:
    """Return the layout in an OUTPUTS or OVERFLOW packet."""
    return tuple((str(dtype), tuple(map(int, shape))) for dtype, shape in parse_json(packet))


def place_outputs(layout: Sequence[tuple[str, tuple[int, ...]]]) -> tuple[tuple[int, ...], int]:
    """Return where each output begins, from the outputs' own beginning, and how much all take."""
    offsets = []
    end = 0
    for dtype, shape in layout:
        offsets.append(end)
        size = int(dtype[2:]) * math.prod(shape)  # "<f4": 4 bytes
        end += -(-size // ALIGNMENT_BYTES) * ALIGNMENT_BYTES
    return tuple(offsets), end
