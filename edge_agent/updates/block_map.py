"""Which blocks of a file are here, which were asked for, and how long to wait for them. Pure.

1. Each block that was written has a mark: the CRC-32 of its bytes, never 0; 0 is a block missing.
   After a restart a mark is believed only if the bytes on the disk have that CRC, so it does not
   matter which of both reached the disk first.
2. A window of blocks is on its way: WINDOW_BLOCKS_START at first, one more with each block that
   comes, up to WINDOW_BLOCKS_MAX. When half of them have come the next are asked for, so that the
   link is never idle for a round trip.
3. Links keep the order of what they carry: when a block of one request comes, what is still out
   of the request before the previous one is lost, and is asked for again.
4. Silence shrinks the window to one block. A slow link is not a dead one: asking for a whole
   window again would put it twice into the broker's queue, and make the link slower still.
5. How long silence may last follows how far apart blocks came lately, and doubles with each
   silence.
"""

import zlib
from array import array
from collections.abc import Container, Iterator

from shared.wire.blocks import WINDOW_BLOCKS_MAX

MARK_BYTES = 4
WINDOW_BLOCKS_START = 4
GAPS_PATIENT = 3.0  # Silence is so many times the largest gap lately
GAP_DECAY = 0.9  # A large gap is forgotten over the next dozen blocks
_MISSING = 0


def mark_of(data: bytes) -> int:
    """Return a block's mark: its CRC-32, with 1 for 0."""
    return zlib.crc32(data) or 1


class BlockMap:
    """The marks of one file's blocks."""

    def __init__(self, blocks_count: int) -> None:
        """Start with every block missing."""
        self._marks = array("I", [_MISSING]) * blocks_count
        self._first_missing = 0
        self.missing_count = blocks_count

    @property
    def blocks_count(self) -> int:
        """Return how many blocks the file has."""
        return len(self._marks)

    @property
    def is_complete(self) -> bool:
        """Whether no block is missing."""
        return self.missing_count == 0

    @property
    def share(self) -> float:
        """Return how much of the file is here, 0..1."""
        return 1.0 - self.missing_count / max(1, len(self._marks))

    def has(self, index: int) -> bool:
        """Whether a block is here."""
        return self._marks[index] != _MISSING

    def mark(self, index: int, mark: int) -> None:
        """Note that a block is here."""
        assert mark != _MISSING
        if not self.has(index):
            self.missing_count -= 1
        self._marks[index] = mark
        while self._first_missing < len(self._marks) and self.has(self._first_missing):
            self._first_missing += 1

    def next_missing(self, asked: Container[int], *, blocks_max: int) -> tuple[int, ...]:
        """Return the first blocks that are missing and not asked for, rising.

        At most `blocks_max`, and all within one request: the last less than WINDOW_BLOCKS_MAX
        after the first.
        """
        wanted: list[int] = []
        for index in self._missing():
            if wanted and (len(wanted) >= blocks_max or index - wanted[0] >= WINDOW_BLOCKS_MAX):
                break
            if index not in asked:
                wanted.append(index)
        return tuple(wanted[:blocks_max])

    def _missing(self) -> Iterator[int]:
        for index in range(self._first_missing, len(self._marks)):
            if not self.has(index):
                yield index


def encode_mark(mark: int) -> bytes:
    """Return a mark as it stands in a file."""
    return mark.to_bytes(MARK_BYTES, "little")


def decode_marks(data: bytes, *, blocks_count: int) -> tuple[int, ...]:
    """Return the marks of `blocks_count` blocks; those that `data` is too short for are missing."""
    whole = data[: blocks_count * MARK_BYTES].ljust(blocks_count * MARK_BYTES, b"\0")
    starts = range(0, len(whole), MARK_BYTES)
    return tuple(int.from_bytes(whole[at : at + MARK_BYTES], "little") for at in starts)


class Window:
    """Which blocks were asked for and have not come; see rules 2 to 4."""

    def __init__(self) -> None:
        """Start with nothing asked for."""
        self._asked: dict[int, int] = {}  # Block to number of the request
        self._requests_count = 0
        self._size = WINDOW_BLOCKS_START

    @property
    def asked_count(self) -> int:
        """Return how many blocks are on their way."""
        return len(self._asked)

    def next_request(self, blocks: BlockMap) -> tuple[int, ...]:
        """Return the blocks to ask for now (perhaps none), and note that they were."""
        if len(self._asked) > self._size // 2:
            return ()
        room = self._size - len(self._asked)
        indexes = blocks.next_missing(self._asked, blocks_max=room)
        if indexes:
            self._requests_count += 1
            self._asked |= dict.fromkeys(indexes, self._requests_count)
        return indexes

    def arrived(self, index: int) -> None:
        """Note that a block of use came."""
        self._size = min(self._size + 1, WINDOW_BLOCKS_MAX)
        request = self._asked.pop(index, None)
        if request is not None:
            self._asked = {i: r for i, r in self._asked.items() if r >= request - 1}

    def give_up(self) -> None:
        """Count everything on its way as lost."""
        self._size = 1
        self._asked.clear()


class Patience:
    """How long silence may last before blocks are asked for again; see rule 5."""

    def __init__(self, *, wait_s_min: float, wait_s_max: float) -> None:
        """Start with no idea of the link."""
        assert 0 < wait_s_min <= wait_s_max
        self._wait_s_min, self._wait_s_max = wait_s_min, wait_s_max
        self._gap_s = 0.0  # Between blocks; the largest lately
        self.silences_count = 0  # Since the last block of use

    @property
    def wait_s(self) -> float:
        """Return how long to wait from now for a block."""
        usual_s = max(self._wait_s_min, GAPS_PATIENT * self._gap_s)
        return min(usual_s * 2.0**self.silences_count, self._wait_s_max)

    def heard(self, *, gap_s: float) -> None:
        """Note that a block came, of use or not, so long after the one before."""
        self._gap_s = max(gap_s, GAP_DECAY * self._gap_s)

    def progressed(self) -> None:
        """Note that the block was of use."""
        self.silences_count = 0

    def was_silent(self) -> None:
        """Note that nothing came for `wait_s`."""
        self.silences_count += 1
