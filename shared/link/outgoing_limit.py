"""How much may wait to leave this process, in messages and bytes.

What must not live here: the network library; it is told packet ids only.
"""

from collections import deque

from shared.errors import TransientError
from shared.link.link import OUTGOING_MAX

OUTGOING_BYTES_MAX = 64 << 20


class OutgoingLimit:
    """What was given to paho and has not left: bounded in number and bytes.

    Everything but `done` is used under the publisher's lock. `done` is not: paho calls back
    holding its own locks, which a publisher may be waiting for.
    """

    def __init__(self) -> None:
        self.done: deque[int] = deque()  # Packet ids
        self._waiting: dict[int, tuple[int, int]] = {}  # Packet id -> (bytes, QoS)
        self._bytes_count = 0

    def refuse_if_full(self, size: int) -> None:
        """Raise TransientError `link.full` if `size` more bytes have no room."""
        while self.done:
            self._remove(self.done.popleft())
        is_full = len(self._waiting) >= OUTGOING_MAX
        if is_full or self._bytes_count + size > OUTGOING_BYTES_MAX:
            raise TransientError("link.full", f"{len(self._waiting)} messages wait to be sent.")

    def add(self, packet_id: int, size: int, qos: int) -> None:
        """Note a message that paho took."""
        self._waiting[packet_id] = (size, qos)
        self._bytes_count += size

    def forget_unsaved(self) -> None:
        """Note a lost connection: QoS 0 messages are gone, the others will be sent again."""
        for packet_id in [i for i, (_, qos) in self._waiting.items() if qos == 0]:
            self._remove(packet_id)

    def _remove(self, packet_id: int) -> None:
        size, _ = self._waiting.pop(packet_id, (0, 0))
        self._bytes_count -= size
