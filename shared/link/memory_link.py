"""Link and broker without a network: the same promises, for tests and for one-process use.

1. Messages cross as bytes, so that the codec is always in between.
2. The broker keeps sessions, what they have not acknowledged, and retained messages, also while it
   is down: like mosquitto with persistence.
3. Nothing runs by itself: a publish delivers in the publisher's thread, and a link that lost its
   broker comes back when the broker does.
4. The same topic rules as on the real brokers hold.
"""

import contextlib
import itertools
import threading
from collections import OrderedDict, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from shared.clock import Clock, now_ms
from shared.errors import TransientError
from shared.ids import DeviceId, SessionId, new_session_id
from shared.link.arrival_queue import ArrivalQueue
from shared.link.link import (
    OUTGOING_MAX,
    Arrival,
    Connected,
    Delivery,
    Disconnected,
    Rejection,
)
from shared.link.topic_rules import matches, may_leave_will, may_publish, may_receive, may_subscribe
from shared.wire.codec import encode
from shared.wire.presence import Presence
from shared.wire.topics import Message, topic_of

QUEUED_MAX = 1000  # QoS 1 messages kept for a client that is away; mosquitto's own default


@dataclass(frozen=True, slots=True)
class RawMessage:
    """One message as a broker sees it."""

    path: str
    payload: bytes
    qos: int
    retain: bool


@dataclass(slots=True)
class _Session:
    """What the broker remembers of one client, connected or not."""

    filters: tuple[tuple[str, int], ...] = ()
    unacknowledged: OrderedDict[int, RawMessage] = field(default_factory=OrderedDict)
    link: "MemoryLink | None" = None


class MemoryBroker:
    """Safe to share between threads. `kill`, `restart`, `pause`, `resume`, `cut` are for tests."""

    def __init__(self) -> None:
        self.refused_count = 0  # Publishes and subscriptions that the rules forbid
        self.dropped_count = 0  # QoS 1 messages for absent clients past QUEUED_MAX
        self._lock = threading.RLock()
        self._sessions: dict[str, _Session] = {}
        self._retained: dict[str, RawMessage] = {}
        self._started: list[MemoryLink] = []
        self._handles = itertools.count(1)
        self._is_running = True
        self._waiting: deque[tuple[str, RawMessage]] = deque()
        self._is_paused = False

    def kill(self) -> None:
        """Drop every connection, as if the process died: no last will."""
        with self._lock:
            self._is_running = False
            for link in self._started:
                self._detach(link, reason="the broker is gone", with_will=False)

    def restart(self) -> None:
        """Come back; every started link connects again."""
        with self._lock:
            self._is_running = True
            for link in self._started:
                self._attach(link)

    def pause(self) -> None:
        """Take messages from nobody; links queue them up to their limit."""
        with self._lock:
            self._is_paused = True

    def resume(self) -> None:
        """Take everything that waited."""
        with self._lock:
            self._is_paused = False
            while self._waiting:
                self.publish(*self._waiting.popleft())

    def cut(self, client: DeviceId) -> None:
        """Break `client`'s connection, as a lost network does: its last will is published."""
        with self._lock:
            link = self._sessions[client].link if client in self._sessions else None
            if link is not None:
                self._detach(link, reason="connection lost", with_will=True)

    def publish(self, client: str, message: RawMessage) -> None:
        """Take a message from `client`, if it may say that, and deliver it."""
        with self._lock:
            if not may_publish(client, message.path):
                self.refused_count += 1
                return
            if message.retain and message.payload:
                self._retained[message.path] = message
            elif message.retain:
                self._retained.pop(message.path, None)
            live = RawMessage(message.path, message.payload, message.qos, retain=False)
            for name, session in self._sessions.items():
                self._offer(name, session, live)

    def join(self, link: "MemoryLink") -> None:
        """Connect `link` now, and again whenever the broker comes back."""
        with self._lock:
            if link not in self._started:
                self._started.append(link)
            self._attach(link)

    def leave(self, link: "MemoryLink") -> None:
        """Disconnect `link` cleanly, for good."""
        with self._lock:
            if link in self._started:
                self._started.remove(link)
            self._detach(link, reason="stopped", with_will=False)

    def rejoin(self, link: "MemoryLink") -> None:
        """Disconnect `link` cleanly and connect it again."""
        with self._lock:
            self._detach(link, reason="asked to reconnect", with_will=False)
            self._attach(link)

    def acknowledge(self, client: str, handle: object) -> None:
        """Forget a QoS 1 message that `client` has dealt with."""
        with self._lock:
            if isinstance(handle, int):
                self._sessions[client].unacknowledged.pop(handle, None)

    def waits(self, link: "MemoryLink", message: RawMessage, *, session_id: SessionId) -> bool:
        """Take `message` now or, while paused, keep it; return False if too many wait.

        Raises TransientError `link.down` if the connection that it was made for is over.
        """
        with self._lock:
            if not link.is_connected or link.session_id != session_id:
                raise TransientError("link.down", "There is no connection to the broker.")
            client = link.client
            if not self._is_paused:
                self.publish(client, message)
                return True
            if sum(1 for name, _ in self._waiting if name == client) >= OUTGOING_MAX:
                return False
            self._waiting.append((client, message))
            return True

    def _attach(self, link: "MemoryLink") -> None:
        if not self._is_running or link.is_connected:
            return
        session = self._sessions.setdefault(link.client, _Session())
        if session.link is not None:
            self._detach(session.link, reason="another connection took over", with_will=True)
        if not all(may_subscribe(link.client, pattern) for pattern, _ in link.filters):
            self.refused_count += 1
            link.went_down("the broker refused a subscription")
            return
        session.link, session.filters = link, link.filters
        link.came_up()
        again = list(session.unacknowledged.values())
        session.unacknowledged.clear()
        for message in again:  # Under new handles: an old acknowledgement means nothing any more.
            handle = next(self._handles)
            session.unacknowledged[handle] = message
            link.deliver(message, handle)
        for message in list(self._retained.values()):
            self._offer(link.client, session, message)

    def _detach(self, link: "MemoryLink", *, reason: str, with_will: bool) -> None:
        session = self._sessions.get(link.client)
        if session is None or session.link is not link:
            return
        session.link = None
        link.went_down(reason)
        if with_will and link.will is not None and may_leave_will(link.client, link.will.path):
            self.publish(link.client, link.will)

    def _offer(self, client: str, session: _Session, message: RawMessage) -> None:
        granted = [qos for pattern, qos in session.filters if matches(pattern, message.path)]
        if not granted or not may_receive(client, message.path):
            return
        qos = min(message.qos, max(granted))
        if qos == 0:
            if session.link is not None:
                session.link.deliver(message, None)
            return
        if session.link is None and len(session.unacknowledged) >= QUEUED_MAX:
            self.dropped_count += 1
            return
        handle = next(self._handles)
        session.unacknowledged[handle] = message
        if session.link is not None:
            session.link.deliver(message, handle)


class MemoryLink:
    """Implements shared.link.link.Link over a MemoryBroker."""

    def __init__(
        self,
        broker: MemoryBroker,
        *,
        client: DeviceId,
        filters: Sequence[tuple[str, int]],
        clock: Clock,
        with_last_will: bool,
    ) -> None:
        """Args: see PahoLink; the broker takes the place of its settings."""
        self.client = client
        self.filters = tuple(filters)
        self.will: RawMessage | None = None
        self._broker = broker
        self._clock = clock
        self._session_id = new_session_id()
        self._queue = ArrivalQueue()
        self._is_connected = False
        self._is_started = False
        self._with_last_will = with_last_will

    @property
    def session_id(self) -> SessionId:
        """Return the id of the connection that is up, or was last."""
        return self._session_id

    @property
    def is_connected(self) -> bool:
        """Whether the link is up right now."""
        return self._is_connected

    @property
    def dropped_count(self) -> int:
        """Return how many arrivals found no room."""
        return self._queue.dropped_count

    @property
    def rejected_count(self) -> int:
        """Return how many arrivals broke the contract."""
        return self._queue.rejected_count

    def start(self) -> None:
        """Connect if the broker is there; else when it comes."""
        self._is_started = True
        self._broker.join(self)

    def stop(self) -> None:
        """Say goodbye and close."""
        if self._is_connected and self._with_last_will:
            with contextlib.suppress(TransientError):  # Else the last will has said it.
                self.publish(self.client, Presence(is_online=False, reason="stopped"))
        self._is_started = False
        self._broker.leave(self)
        self._queue.close()

    def publish(self, device: DeviceId, message: Message) -> None:
        """Send `message`. Raises as Link.publish does."""
        session_id = self._session_id
        raw = self._raw(device, message, session_id)
        if not self._broker.waits(self, raw, session_id=session_id):
            raise TransientError("link.full", f"{OUTGOING_MAX} messages wait to be sent.")

    def arrivals(self, *, wait_s: float) -> Iterator[Arrival]:
        """Yield what has arrived; end after `wait_s` without anything, or when stopped."""
        return self._queue.arrivals(wait_s=wait_s)

    def acknowledge(self, arrival: Arrival) -> None:
        """Tell the broker that a Delivery or Rejection is done with."""
        if isinstance(arrival, Delivery | Rejection):
            self._broker.acknowledge(self.client, arrival.handle)

    def reconnect(self) -> None:
        """Drop the connection and connect again."""
        if self._is_started:
            self._broker.rejoin(self)

    def came_up(self) -> None:
        """Told by the broker: subscriptions are made. A connection is a session of its own."""
        self._session_id = new_session_id()
        if self._with_last_will:
            will = Presence(is_online=False, reason="connection lost")
            self.will = self._raw(self.client, will, self._session_id)
        self._is_connected = True
        self._queue.put_notice(Connected(session_id=self._session_id))

    def went_down(self, reason: str) -> None:
        """Told by the broker: the connection is gone."""
        self._is_connected = False
        self._queue.put_notice(Disconnected(reason=reason))

    def deliver(self, message: RawMessage, handle: object) -> None:
        """Told by the broker: a message for this link."""
        self._queue.put_message(
            message.path,
            message.payload,
            is_retained=message.retain,
            is_expendable=handle is None,
            handle=handle,
        )

    def _raw(self, device: DeviceId, message: Message, session_id: SessionId) -> RawMessage:
        topic = topic_of(message)
        payload = encode(message, session_id=session_id, sent_ms=now_ms(self._clock))
        return RawMessage(topic.path(device), payload, topic.qos, topic.retain)
