"""The queue between a link's callbacks and the one thread that takes its arrivals.

1. Putting never blocks and never raises: it is called from the network library's thread.
2. Messages past ARRIVALS_MAX, or past ARRIVALS_BYTES_MAX in all, are dropped and counted; a notice
   (Connected, Disconnected) is only dropped past NOTICES_MAX more. Of both limits messages at
   QoS 0 get EXPENDABLE_SHARE: a broker sends any number of them, but only so many at QoS 1 before
   they are acknowledged. So whoever floods us at QoS 0 takes no room from the others' records.
3. Bytes are decoded by the thread that takes them: a costly message delays no keep-alive.

What must not live here: anything that knows a broker.
"""

import threading
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from shared.errors import ContractError
from shared.link.link import (
    ARRIVALS_MAX,
    Arrival,
    Connected,
    Delivery,
    Disconnected,
    Rejection,
)
from shared.wire.codec import decode

ARRIVALS_BYTES_MAX = 64 << 20
NOTICES_MAX = 100
EXPENDABLE_SHARE = 0.5  # For messages at QoS 0


@dataclass(frozen=True, slots=True)
class _Message:
    path: str
    payload: bytes
    is_retained: bool
    handle: object


class ArrivalQueue:
    """First in, first out; any thread may put, one thread takes."""

    def __init__(self) -> None:
        self.dropped_count = 0  # Messages that found no room
        self.rejected_count = 0  # Messages that broke the contract
        self._items: deque[_Message | Connected | Disconnected] = deque()
        self._bytes_count = 0
        self._is_closed = False
        self._changed = threading.Condition()

    def put_notice(self, notice: Connected | Disconnected) -> None:
        """Add a change of the connection."""
        with self._changed:
            if len(self._items) >= ARRIVALS_MAX + NOTICES_MAX:
                self.dropped_count += 1
                return
            self._items.append(notice)
            self._changed.notify()

    def put_message(
        self, path: str, payload: bytes, *, is_retained: bool, is_expendable: bool, handle: object
    ) -> bool:
        """Add a message as it came in (expendable: at QoS 0); return whether there was room."""
        share = EXPENDABLE_SHARE if is_expendable else 1.0
        with self._changed:
            is_full = (
                len(self._items) >= share * ARRIVALS_MAX
                or self._bytes_count + len(payload) > share * ARRIVALS_BYTES_MAX
            )
            if is_full or self._is_closed:
                self.dropped_count += 1
                return False
            self._items.append(_Message(path, payload, is_retained, handle))
            self._bytes_count += len(payload)
            self._changed.notify()
            return True

    def arrivals(self, *, wait_s: float) -> Iterator[Arrival]:
        """Yield what is there; end after `wait_s` without anything, or when closed."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._items or self._is_closed, timeout=wait_s)
                if self._is_closed or not self._items:
                    return
                item = self._items.popleft()
                if isinstance(item, _Message):
                    self._bytes_count -= len(item.payload)
            yield self._decoded(item) if isinstance(item, _Message) else item

    def close(self) -> None:
        """End `arrivals`, now and for ever."""
        with self._changed:
            self._is_closed = True
            self._items.clear()
            self._changed.notify_all()

    def _decoded(self, message: _Message) -> Delivery | Rejection:
        try:
            received = decode(message.path, message.payload)
        except ContractError as error:
            self.rejected_count += 1
            return Rejection(path=message.path, error=error, handle=message.handle)
        return Delivery(received=received, is_retained=message.is_retained, handle=message.handle)
