"""Link: what a connection to the broker promises, whichever technology carries it.

1. What comes in is one stream of arrivals, taken by one thread: `arrivals()` yields Connected,
   Disconnected, Delivery and Rejection in the order they happened. Callbacks of the library only
   enqueue; the queue holds ARRIVALS_MAX, and past that what comes in is dropped and counted. At
   QoS 1 it comes again: the link drops its connection, and connects anew.
2. QoS 1 deliveries are acknowledged to the broker only by `acknowledge`, after the work is done:
   a crash in between makes the broker send it again.
3. `publish` never blocks on the network. It raises when the message is over its topic's limit,
   and when the link is down or its outgoing queue is full: durability is the outbox's work.
4. A lost connection comes back by itself with jittered backoff; subscriptions are made again on
   every connect.
5. The last will is the topic `presence` with is_online false, for a device's link.
6. Every connection is a session of its own: its last will, its Connected and every envelope sent
   on it bear the same new session id. So the death of a connection that was lost, however late it
   comes, is never taken for the death of the next one.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from shared.errors import ContractError
from shared.ids import DeviceId, SessionId
from shared.wire.codec import Received
from shared.wire.topics import Message

ARRIVALS_MAX = 4096
OUTGOING_MAX = 1000


@dataclass(frozen=True, slots=True)
class Connected:
    """The link is up, and subscriptions are made."""

    session_id: SessionId


@dataclass(frozen=True, slots=True)
class Disconnected:
    """The link is down; it comes back by itself."""

    reason: str


@dataclass(frozen=True, slots=True)
class Delivery:
    """A message that keeps the contract."""

    received: Received
    is_retained: bool
    handle: object  # The link's own; give the Delivery back to `acknowledge`


@dataclass(frozen=True, slots=True)
class Rejection:
    """A message that does not."""

    path: str
    error: ContractError
    handle: object


Arrival = Connected | Disconnected | Delivery | Rejection


class Link(Protocol):
    """See the rules above. Implementations: paho_link.PahoLink, memory_link.MemoryLink."""

    @property
    def session_id(self) -> SessionId:
        """Return the id of the connection that is up or was last; it stands in every envelope."""
        ...

    @property
    def is_connected(self) -> bool:
        """Whether the link is up right now."""
        ...

    def start(self) -> None:
        """Begin to connect; returns at once."""
        ...

    def stop(self) -> None:
        """Say goodbye (a device publishes its death) and close; `arrivals` ends."""
        ...

    def publish(self, device: DeviceId, message: Message) -> None:
        """Send `message` on its topic of `device`.

        Raises ContractError `wire.too_large` or `wire.invalid`; TransientError `link.down` or
        `link.full`.
        """
        ...

    def arrivals(self, *, wait_s: float) -> Iterator[Arrival]:
        """Yield what has arrived; end after `wait_s` seconds without anything, or when stopped."""
        ...

    def acknowledge(self, arrival: Arrival) -> None:
        """Tell the broker that a Delivery or Rejection is done with; others need nothing."""
        ...

    def reconnect(self) -> None:
        """Drop the connection and connect again (with renewed credentials)."""
        ...
