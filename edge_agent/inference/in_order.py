"""InOrder: what several lanes finish in any order leaves in the order in which it began.

1. `begin` gives a ticket; every ticket is finished exactly once, with its value or as `None` when
   nothing came of it, which is left out.
2. A value is told once all before it were told. Who finishes the ticket that was waited for tells
   all that are ready, one at a time; the others leave theirs and go on.
3. At most `open_max` tickets are open: a lane that is far ahead waits for the one that is behind.
4. If telling raises, the value it was told of is gone, as with any bug in a listener; the next one
   that is finished goes on behind it.
"""

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class InOrder(Generic[T]):
    """See the rules above. Thread-safe."""

    def __init__(self, tell: Callable[[T], None], *, open_max: int) -> None:
        """Args: tell is called in order, never by two threads at the same time."""
        self._tell = tell
        self._open_max = open_max
        self._begun_count = 0
        self._told_count = 0  # The ticket that is told next
        self._finished: dict[int, T | None] = {}
        self._is_telling = False
        self._changed = threading.Condition()

    @property
    def open_count(self) -> int:
        """Return how many tickets are begun and not yet told."""
        return self._begun_count - self._told_count

    def wait_for_room(self, seconds_max: float) -> bool:
        """Wait until a ticket may be begun, see rule 3; return whether it may."""
        if self.open_count < self._open_max:  # Only who waits here begins tickets
            return True
        with self._changed:
            return self._changed.wait_for(lambda: self.open_count < self._open_max, seconds_max)

    def begin(self) -> int:
        """Return the next ticket. Called by one thread at a time, which knows of the room."""
        with self._changed:
            ticket = self._begun_count
            self._begun_count += 1
            return ticket

    def finish(self, ticket: int, value: T | None) -> None:
        """Leave what came of a ticket; tell it, and what waited for it, if it is its turn."""
        with self._changed:
            assert self._told_count <= ticket < self._begun_count, "an unknown ticket"
            assert ticket not in self._finished, "a ticket was finished twice"
            self._finished[ticket] = value
            if self._is_telling:
                return
            self._is_telling = True
        while self._tell_next():
            pass

    def _tell_next(self) -> bool:
        """Tell one value if it is there; return whether another may be."""
        with self._changed:
            ticket = self._told_count
            if ticket not in self._finished:
                self._is_telling = False  # Here, so that who leaves the next one now tells it
                return False
        value, is_told = self._finished[ticket], False
        try:
            if value is not None:
                self._tell(value)
            is_told = True
        finally:
            with self._changed:
                del self._finished[ticket]
                self._told_count += 1
                self._is_telling = is_told
                self._changed.notify_all()
        return True
