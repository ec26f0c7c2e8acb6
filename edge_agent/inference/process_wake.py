"""Wake: what a thread waits with that watches descriptors and can be woken by others."""

import os
import select
from collections.abc import Sequence
from contextlib import suppress


class Wake:
    """One thread waits; any thread, also a finalizer, wakes it or has it end. Takes no lock."""

    def __init__(self) -> None:
        """Raises OSError: no descriptor is left."""
        self.is_over = False  # Whether who waits is to end
        self._event = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)

    def __del__(self) -> None:
        """Close the descriptor: nobody waits any more."""
        if hasattr(self, "_event"):
            os.close(self._event)

    def wake(self) -> None:
        """Wake who waits, or have the next wait end at once."""
        with suppress(OSError):
            os.eventfd_write(self._event, 1)

    def end(self) -> None:
        """Have who waits end; for good."""
        self.is_over = True
        self.wake()

    def wait(self, descriptors: Sequence[int], seconds: float) -> set[int]:
        """Return which of `descriptors` can be read, when one can, or someone woke this thread."""
        poller = select.poll()
        for descriptor in (*descriptors, self._event):
            poller.register(descriptor, select.POLLIN)
        ready = {descriptor for descriptor, _ in poller.poll(seconds * 1000)}
        if self._event in ready:
            with suppress(BlockingIOError):
                os.eventfd_read(self._event)
        return ready - {self._event}
