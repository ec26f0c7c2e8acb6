"""BlockTransfer: pulls files of the hub's repository over the link, block by block.

1. The hub is asked for blocks it should send; blocks come by `deliver`, from the inbox's thread,
   into a mailbox of MAILBOX_BLOCKS_MAX. What has no room is dropped: it is asked for again.
2. Silence is answered by asking again, ever more patiently; after `tries_max` times without any
   block of use the transfer gives up (`transfer.no_answer`) and what was written stays.
3. Large files go to the disk (`fetch`) and go on where they were; small ones of unknown size into
   memory (`read`).
4. One transfer at a time; who comes second waits.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Protocol

from msgspec import Meta

from edge_agent.updates.block_map import BlockMap, Patience, Window
from edge_agent.updates.file_blocks import (
    FileBlocks,
    check_room,
    disk_errors,
    is_sound,
)
from shared.clock import Clock
from shared.errors import IntegrityError, RefusedError, TransientError
from shared.release.manifest import ARTIFACT_BYTES_MAX
from shared.settings import Settings
from shared.wire.blocks import (
    BLOCK_BYTES,
    WINDOW_BLOCKS_MAX,
    Block,
    BlockRequest,
    blocks_count,
    request_blocks,
)

MAILBOX_BLOCKS_MAX = 4 * WINDOW_BLOCKS_MAX
USELESS_BLOCKS_MAX = 64  # In a row that count as a sign of life: what a slow link brings twice
STOP_CHECK_S = 0.25
RESTARTS_MAX = 3  # Of a small file that changes while it is read

Verify = Callable[[Path], None]
Wait = Annotated[float, Meta(gt=0.0, le=3600.0)]


class TransferSettings(Settings, frozen=True):
    """How patient a transfer is, and what it may use."""

    answer_s_min: Wait = 3.0  # Silence after which blocks are asked for again, at the least
    answer_s_max: Wait = 60.0
    tries_max: Annotated[int, Meta(ge=1, le=100)] = 6
    file_bytes_max: Annotated[int, Meta(ge=1, le=ARTIFACT_BYTES_MAX)] = ARTIFACT_BYTES_MAX
    disk_reserve_bytes: Annotated[int, Meta(ge=0)] = 32 << 20

    def __post_init__(self) -> None:
        """Refuse what the types cannot."""
        if self.answer_s_min > self.answer_s_max:
            raise ValueError("answer_s_min must not be over answer_s_max")


class FileMissingError(TransientError):
    """The hub says that it has no such file (`transfer.missing`)."""


class Blocks(Protocol):
    """Where blocks go: FileBlocks or MemoryBlocks."""

    @property
    def map(self) -> BlockMap:
        """Return which blocks are here."""
        ...

    def accept(self, block: Block) -> bool:
        """Keep a block; return whether it was of use."""
        ...


class BlockTransfer:
    """See the rules above."""

    def __init__(
        self,
        publish: Callable[[BlockRequest], None],
        clock: Clock,
        settings: TransferSettings | None = None,
    ) -> None:
        """Args: `publish` sends a request to the hub and may raise TransientError `link.down`."""
        self.bytes_received = 0  # Of blocks for the transfer under way, useful or not
        self.dropped_count = 0  # Blocks that nobody waited for, or had no room
        self._publish = publish
        self._clock = clock
        self._settings = settings or TransferSettings()
        self._one_at_a_time = threading.Lock()
        self._lock = threading.Lock()
        self._path: str | None = None  # What blocks are waited for; guarded by _lock
        self._mailbox: deque[Block] = deque()  # Guarded by _lock
        self._arrived = threading.Event()

    def deliver(self, block: Block) -> None:
        """Take a block that came in; returns at once. Any thread."""
        with self._lock:
            if block.path != self._path or len(self._mailbox) >= MAILBOX_BLOCKS_MAX:
                self.dropped_count += 1
                return
            self._mailbox.append(block)
        self._arrived.set()

    def fetch(
        self,
        path: str,
        *,
        file_bytes: int,
        into: Path,
        verify: Verify,
        on_progress: Callable[[float], None],
        stop: threading.Event,
    ) -> None:
        """Bring a file of known size to the disk as `into`, going on where it was.

        `verify` gets the whole file before it has its name, and raises IntegrityError. A file
        that was resumed and does not verify is fetched once more from its beginning: the disk may
        be to blame. `on_progress` gets 0..1.

        Raises TransientError `transfer.no_answer`, `transfer.stopped`, `transfer.missing`,
        `transfer.disk_failed`, `link.down`; RefusedError `transfer.too_large`,
        `transfer.disk_full`; IntegrityError of `verify`, or `release.digest` for a wrong size.
        """
        if file_bytes > self._settings.file_bytes_max:
            raise RefusedError(
                "transfer.too_large",
                f"{path} has {file_bytes} bytes; "
                f"the limit of this device is {self._settings.file_bytes_max}.",
                remedy="Raise file_bytes_max in the device's settings if it has the room.",
            )
        with self._turn(stop), disk_errors():
            is_final = False
            while not is_final:
                is_final = self._fetch_once(path, file_bytes, into, verify, on_progress, stop)

    def read(self, path: str, *, bytes_max: int, stop: threading.Event) -> bytes:
        """Return a small file whole.

        Raises TransientError as `fetch`, or `transfer.unsteady` if it changes all the time;
        RefusedError `transfer.too_large`.
        """
        with self._turn(stop):
            for _ in range(RESTARTS_MAX):
                blocks = MemoryBlocks(path, bytes_max=bytes_max)
                self._pull(path, blocks, lambda _share: None, stop)
                if not blocks.has_changed:
                    return bytes(blocks.data)
        raise TransientError("transfer.unsteady", f"{path} changed while it was read.")

    def _fetch_once(
        self,
        path: str,
        file_bytes: int,
        into: Path,
        verify: Verify,
        on_progress: Callable[[float], None],
        stop: threading.Event,
    ) -> bool:
        """Fetch, verify and name a file; return False if it must be fetched from the beginning."""
        blocks = FileBlocks(into, path=path, file_bytes=file_bytes)
        try:
            check_room(
                into.parent,
                needed_bytes=blocks.missing_bytes(),
                reserve_bytes=self._settings.disk_reserve_bytes,
            )
            self._pull(path, blocks, on_progress, stop)
            blocks.flush()
            verify(blocks.part_path)
            blocks.commit()
        except IntegrityError:
            blocks.discard()
            if not blocks.resumed_count:
                raise
            return False
        finally:
            blocks.close()
        return True

    def _pull(
        self,
        path: str,
        blocks: Blocks,
        on_progress: Callable[[float], None],
        stop: threading.Event,
    ) -> None:
        """Ask and take until `blocks` is complete."""
        window = Window()
        patience = Patience(
            wait_s_min=self._settings.answer_s_min, wait_s_max=self._settings.answer_s_max
        )
        self._expect(path)
        try:
            useless_count, last_s = 0, self._clock.monotonic_s()
            deadline_s = last_s + patience.wait_s
            while not blocks.map.is_complete:
                wanted = window.next_request(blocks.map)
                if wanted:
                    self._publish(request_blocks(path, wanted))
                block = self._next_block(deadline_s, stop)
                now_s = self._clock.monotonic_s()
                if block is None:
                    patience.was_silent()
                    if patience.silences_count >= self._settings.tries_max:
                        raise _no_answer(path)
                    window.give_up()
                else:
                    patience.heard(gap_s=now_s - last_s)
                    last_s = now_s
                    if self._take(block, blocks):
                        useless_count = 0
                        window.arrived(block.index)
                        patience.progressed()
                        on_progress(blocks.map.share)
                    else:
                        useless_count += 1
                if useless_count <= USELESS_BLOCKS_MAX:  # Else the time runs on.
                    deadline_s = now_s + patience.wait_s
        finally:
            self._expect(None)

    def _take(self, block: Block, blocks: Blocks) -> bool:
        self.bytes_received += len(block.data)
        if block.is_missing:
            raise FileMissingError("transfer.missing", f"The hub does not have {block.path}.")
        return blocks.accept(block)

    def _next_block(self, deadline_s: float, stop: threading.Event) -> Block | None:
        """Return the next block, or None when `deadline_s` of the monotonic clock has passed."""
        while not stop.is_set():
            with self._lock:
                if self._mailbox:
                    return self._mailbox.popleft()
                self._arrived.clear()
            left_s = deadline_s - self._clock.monotonic_s()
            if left_s <= 0:
                return None
            self._clock.wait(self._arrived, min(left_s, STOP_CHECK_S))
        raise _stopped()

    @contextmanager
    def _turn(self, stop: threading.Event) -> Iterator[None]:
        """Wait until no other transfer is under way, or `stop` is set."""
        while not self._one_at_a_time.acquire(timeout=STOP_CHECK_S):
            if stop.is_set():
                raise _stopped()
        try:
            yield
        finally:
            self._one_at_a_time.release()

    def _expect(self, path: str | None) -> None:
        with self._lock:
            self._path = path
            self._mailbox.clear()


class MemoryBlocks:
    """A small file whose size the first block tells."""

    def __init__(self, path: str, *, bytes_max: int) -> None:
        """Start with nothing; more than `bytes_max` is refused."""
        self.map = BlockMap(1)
        self.data = bytearray()
        self.has_changed = False
        self._path = path
        self._bytes_max = bytes_max
        self._file_bytes: int | None = None

    def accept(self, block: Block) -> bool:
        """Keep a block; return whether it was of use. Raises RefusedError `transfer.too_large`."""
        if self._file_bytes is None:
            self._begin(block)
        if block.file_bytes != self._file_bytes:
            self.has_changed = True
            self.map = BlockMap(0)  # Complete, so that the reader begins again.
            return True
        if not is_sound(block, blocks_count=self.map.blocks_count) or self.map.has(block.index):
            return False
        start = block.index * BLOCK_BYTES
        self.data[start : start + len(block.data)] = block.data
        self.map.mark(block.index, 1)
        return True

    def _begin(self, block: Block) -> None:
        if block.file_bytes > self._bytes_max:
            raise RefusedError(
                "transfer.too_large",
                f"{self._path} has {block.file_bytes} bytes; {self._bytes_max} are allowed.",
            )
        self._file_bytes = block.file_bytes
        self.data = bytearray(block.file_bytes)
        self.map = BlockMap(max(1, blocks_count(block.file_bytes)))


def _stopped() -> TransientError:
    return TransientError("transfer.stopped", "The transfer was stopped.")


def _no_answer(path: str) -> TransientError:
    return TransientError(
        "transfer.no_answer",
        f"The hub sent no block of {path}.",
        remedy="Look whether the hub runs and this device may read its topics.",
    )
