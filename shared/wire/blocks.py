"""BlockRequest and Block: how a device pulls files of the release repository over MQTT.

1. A file is cut in blocks of BLOCK_BYTES; the last one is shorter.
2. The device asks for up to WINDOW_BLOCKS_MAX blocks: `first`, and a bitmap of which of the blocks
   from there on it wants (bit 0 of byte 0 is `first` itself).
3. The hub sends each wanted block; a file it does not have is one Block with `is_missing`.
4. Blocks are QoS 0: what is lost the device asks for again. What was written stays written.
"""

from collections.abc import Sequence
from typing import Annotated, ClassVar

import msgspec
from msgspec import Meta

from shared.wire.limits import Count

BLOCK_BYTES = 64 * 1024
WINDOW_BLOCKS_MAX = 16
PATH_CHARS_MAX = 200
# "metadata/timestamp.json", "targets/releases/digits/3/<digest>.manifest.json"
RepositoryPath = Annotated[
    str,
    Meta(
        max_length=PATH_CHARS_MAX, pattern=r"^(metadata|targets)(/[A-Za-z0-9_][A-Za-z0-9_.-]*)+\Z"
    ),
]


class BlockRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Send me these blocks of that file."""

    schema: ClassVar[int] = 1

    path: RepositoryPath
    first: Count
    wanted: Annotated[bytes, Meta(min_length=1, max_length=WINDOW_BLOCKS_MAX // 8)]


class Block(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One block of one file."""

    schema: ClassVar[int] = 1

    path: RepositoryPath
    index: Count
    file_bytes: Count
    data: Annotated[bytes, Meta(max_length=BLOCK_BYTES)]
    is_missing: bool = False


def request_blocks(path: str, indexes: Sequence[int]) -> BlockRequest:
    """Return a request for these blocks.

    `indexes` rise, and the last is less than WINDOW_BLOCKS_MAX after the first.
    """
    first = indexes[0]
    bits = sum(1 << (index - first) for index in indexes)
    bytes_count = (bits.bit_length() + 7) // 8
    return BlockRequest(path=path, first=first, wanted=bits.to_bytes(bytes_count, "little"))


def wanted_indexes(request: BlockRequest) -> tuple[int, ...]:
    """Return which blocks a request asks for, rising. The inverse of `request_blocks`."""
    bits = int.from_bytes(request.wanted, "little")
    return tuple(request.first + bit for bit in range(bits.bit_length()) if bits >> bit & 1)


def blocks_count(file_bytes: int) -> int:
    """Return how many blocks a file has."""
    return -(-file_bytes // BLOCK_BYTES)


def block_bytes(index: int, file_bytes: int) -> int:
    """Return how many bytes a block of a file has: BLOCK_BYTES, but for the last one."""
    return min(BLOCK_BYTES, file_bytes - index * BLOCK_BYTES)
