"""Mailbox: between the capture thread and the lanes that decide.

1. Newest-wins: holds one item; a newer one replaces it, and the one replaced counts as dropped.
2. Every-item: holds QUEUE_ITEMS_MAX items and QUEUE_BYTES_MAX bytes, but always one; `put` waits
   for room, nothing is dropped. Once it was full it waits until only REFILL_ITEMS are left: a
   source that is woken for every single item costs a fast model several percent of its CPU.
3. `end` says that no more will come; what is inside can still be taken.
4. Newest-wins, `wants`: a source whose items cost something to make asks before it makes one. While
   every lane is busy with another item and none will be back before the item after this one, the
   answer is no, and the item counts as dropped. Both times are guessed with care, from the lanes'
   shortest and the source's longest of the last HISTORY_ITEMS: rather an item made in vain than
   one missing when a lane comes back.
5. A lane waits with `wait_for_item`, and takes later, once it may run: until then a newer item
   still replaces the one it was woken for.
"""

import threading
from collections import deque
from dataclasses import dataclass
from enum import StrEnum

from edge_agent.sources.item import Frame, Item, TextItem, Window, WindowBatch
from edge_agent.sources.source import Source
from shared.clock import Clock, SystemClock

QUEUE_ITEMS_MAX = 8
QUEUE_BYTES_MAX = 4 << 20  # Four frames of 768x432, one of 1920x1080
REFILL_ITEMS = 2  # A source that found it full goes on when so few are left
STOP_CHECK_S = 0.2  # How long a wait lasts at most before it looks whether to stop
HISTORY_ITEMS = 8


class Keep(StrEnum):
    """What happens to items that nobody took yet; see the rules above."""

    NEWEST = "newest"
    EVERY = "every"


@dataclass(frozen=True, slots=True)
class MailboxCounts:
    """Since the start."""

    items_in: int  # Items that the source gave
    items_dropped: int  # Of these, replaced before inference took them, or not wanted


def mailbox_for(source: Source, clock: Clock) -> "Mailbox":
    """Return the mailbox that keeps what `source` promises."""
    return Mailbox(Keep.EVERY if source.is_every_item else Keep.NEWEST, clock)


class Mailbox:
    """Thread-safe: one puts, one at a time waits and takes, anyone counts."""

    def __init__(self, keep: Keep, clock: Clock | None = None) -> None:
        """Args: see the rules above; `clock` is for `wants` only."""
        self._keep = keep
        self._clock = clock or SystemClock()
        self._items: deque[Item] = deque()
        self._bytes = 0
        self._items_in = 0
        self._items_dropped = 0
        self._has_ended = False
        self._lock = threading.Lock()
        self._has_item = threading.Condition(self._lock)
        self._has_room_now = threading.Condition(self._lock)
        self._is_awaited = False  # Whether somebody waits for an item, having none
        self._taken_s: dict[int, float] = {}  # By taker: since when it is busy
        self._busy_s: deque[float] = deque(maxlen=HISTORY_ITEMS)
        self._asked_s: float | None = None  # When the last item was there
        self._pauses_s: deque[float] = deque(maxlen=HISTORY_ITEMS)

    @property
    def counts(self) -> MailboxCounts:
        """Return how many items came and were dropped so far."""
        with self._lock:
            return MailboxCounts(self._items_in, self._items_dropped)

    @property
    def is_over(self) -> bool:
        """Whether no item is inside and none will come."""
        with self._lock:
            return self._has_ended and not self._items

    def wants(self) -> bool:
        """Return whether the item that is there now is worth making; see rule 4."""
        now_s = self._clock.monotonic_s()
        with self._lock:
            if self._asked_s is not None:
                self._pauses_s.append(now_s - self._asked_s)
            self._asked_s = now_s
            if self._is_taker_back_by(now_s + max(self._pauses_s, default=0.0)):
                return True
            self._items_in += 1
            self._items_dropped += 1
            return False

    def put(self, item: Item, stop: threading.Event) -> bool:
        """Hand `item` over; return False if `stop` was set while there was no room."""
        size = _bytes_of(item)
        with self._lock:
            if self._keep is Keep.NEWEST:
                self._items_dropped += len(self._items)
                self._items.clear()
                self._bytes = 0
            is_full = not self._has_room(size)
            while is_full:
                if stop.is_set():
                    return False
                self._has_room_now.wait(STOP_CHECK_S)
                is_full = len(self._items) > REFILL_ITEMS or not self._has_room(size)
            self._items.append(item)
            self._bytes += size
            self._items_in += 1
            self._has_item.notify()
            return True

    def wait_for_item(self, seconds_max: float = STOP_CHECK_S) -> bool:
        """Wait until an item is inside, at most `seconds_max`; return whether one is."""
        with self._lock:
            return self._wait_for_item(seconds_max)

    def take(self, seconds_max: float = STOP_CHECK_S) -> Item | None:
        """Return the oldest item inside; None if none came within `seconds_max` or none will."""
        with self._lock:
            if not self._wait_for_item(seconds_max):
                return None
            item = self._items.popleft()
            self._bytes -= _bytes_of(item)
            self._note_back()
            self._taken_s[threading.get_ident()] = self._clock.monotonic_s()
            if len(self._items) <= REFILL_ITEMS:
                self._has_room_now.notify()
            return item

    def end(self) -> None:
        """Say that no more items will come."""
        with self._lock:
            self._has_ended = True
            self._has_item.notify_all()

    def _wait_for_item(self, seconds_max: float) -> bool:
        """With the lock held."""
        if not self._items and not self._has_ended:
            self._note_back()
            self._is_awaited = True
            self._has_item.wait(seconds_max)
            self._is_awaited = False
        return bool(self._items)

    def _note_back(self) -> None:
        """This taker is busy no longer; note for how long it was."""
        taken_s = self._taken_s.pop(threading.get_ident(), None)
        if taken_s is not None:
            self._busy_s.append(self._clock.monotonic_s() - taken_s)

    def _is_taker_back_by(self, at_s: float) -> bool:
        if self._is_awaited or not self._taken_s or not self._busy_s:
            return True
        return at_s >= min(self._taken_s.values()) + min(self._busy_s)

    def _has_room(self, size: int) -> bool:
        if not self._items:
            return True
        return len(self._items) < QUEUE_ITEMS_MAX and self._bytes + size <= QUEUE_BYTES_MAX


def _bytes_of(item: Item) -> int:
    match item:
        case Frame(pixels=array) | Window(samples=array) | WindowBatch(samples=array):
            return int(array.nbytes)
        case TextItem(text=text):
            return len(text)
