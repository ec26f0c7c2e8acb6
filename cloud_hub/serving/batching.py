"""Batcher: waiting items, handed out in batches by size and time.

1. A batch begins with the first item that waits; it is handed out when it is full or when
   `wait_s` have passed since then, whatever comes first. Items that already wait are taken at once.
2. Whoever puts is never blocked: how many may wait is the hub's business, before it sends.
"""

import queue
import time
from typing import Generic, TypeVar

T = TypeVar("T")


class Batcher(Generic[T]):
    """See the rules above. One taker, any number of putters."""

    def __init__(self, *, batch_max: int, wait_s: float) -> None:
        """Start empty."""
        self._items: queue.SimpleQueue[T | None] = queue.SimpleQueue()
        self._batch_max = batch_max
        self._wait_s = wait_s
        self._is_closed = False

    def put(self, item: T) -> None:
        """Add an item."""
        self._items.put(item)

    def close(self) -> None:
        """Let `take` return what waits, then nothing more."""
        self._items.put(None)

    def take(self) -> list[T]:
        """Return the next batch; an empty one after the last."""
        if self._is_closed:
            return []
        first = self._items.get()
        if first is None:
            self._is_closed = True
            return []
        batch = [first]
        deadline_s = time.monotonic() + self._wait_s
        while len(batch) < self._batch_max:
            item = self._next(deadline_s - time.monotonic())
            if item is None:
                break
            batch.append(item)
        return batch

    def _next(self, left_s: float) -> T | None:
        try:
            item = self._items.get(timeout=left_s) if left_s > 0 else self._items.get_nowait()
        except queue.Empty:
            return None
        self._is_closed = item is None
        return item
