"""Mailbox: between the capture thread and the inference thread.

1. Newest-wins: holds one item; a newer one replaces it, and the one replaced counts as dropped.
2. Every-item: holds QUEUE_ITEMS_MAX; `put` waits for room, nothing is dropped.
3. `end` says that no more will come; what is inside can still be taken.
"""

import threading
from collections import deque
from dataclasses import dataclass
from enum import StrEnum

from edge_agent.sources.item import Item
from edge_agent.sources.source import Source

QUEUE_ITEMS_MAX = 8
STOP_CHECK_S = 0.2  # How long a wait lasts at most before it looks whether to stop


class Keep(StrEnum):
    """What happens to items that nobody took yet; see the rules above."""

    NEWEST = "newest"
    EVERY = "every"


@dataclass(frozen=True, slots=True)
class MailboxCounts:
    """Since the start."""

    items_in: int  # Items that the source gave
    items_dropped: int  # Of these, replaced before inference took them


def mailbox_for(source: Source) -> "Mailbox":
    """Return the mailbox that keeps what `source` promises."""
    return Mailbox(Keep.EVERY if source.is_every_item else Keep.NEWEST)


class Mailbox:
    """Thread-safe: one puts, one takes, anyone counts."""

    def __init__(self, keep: Keep) -> None:
        """Args: see the rules above."""
        self._keep = keep
        self._items: deque[Item] = deque()
        self._items_in = 0
        self._items_dropped = 0
        self._has_ended = False
        self._changed = threading.Condition()

    @property
    def counts(self) -> MailboxCounts:
        """Return how many items came and were dropped so far."""
        with self._changed:
            return MailboxCounts(self._items_in, self._items_dropped)

    @property
    def is_over(self) -> bool:
        """Whether no item is inside and none will come."""
        with self._changed:
            return self._has_ended and not self._items

    def put(self, item: Item, stop: threading.Event) -> bool:
        """Hand `item` over; return False if `stop` was set while there was no room."""
        with self._changed:
            if self._keep is Keep.NEWEST:
                self._items_dropped += len(self._items)
                self._items.clear()
            while len(self._items) >= QUEUE_ITEMS_MAX:
                if stop.is_set():
                    return False
                self._changed.wait(STOP_CHECK_S)
            self._items.append(item)
            self._items_in += 1
            self._changed.notify_all()
            return True

    def take(self, seconds_max: float = STOP_CHECK_S) -> Item | None:
        """Return the oldest item inside; None if none came within `seconds_max` or none will."""
        with self._changed:
            if not self._items and not self._has_ended:
                self._changed.wait(seconds_max)
            if not self._items:
                return None
            item = self._items.popleft()
            self._changed.notify_all()
            return item

    def end(self) -> None:
        """Say that no more items will come."""
        with self._changed:
            self._has_ended = True
            self._changed.notify_all()
