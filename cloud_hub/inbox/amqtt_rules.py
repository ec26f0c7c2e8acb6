"""amqtt's broker with our rules inside, and what amqtt 0.11 and 0.12 need to keep their word.

1. Authentication was done before: amqtt_broker.py hands over only connections whose certificate
   is the client's. Sessions are therefore not anonymous and persist.
2. Topics: shared/link/topic_rules.py, asked as a plugin and, more cheaply, in place of it.
3. A message is offered to all subscribers without letting another task in between: amqtt walks
   over a dictionary meanwhile, and a subscription made then would lose the message.
4. Retained messages go to those who subscribe (amqtt also sends them to everybody who connects).
   Only the table's retained topics are kept, so a device cannot fill the memory with them.
5. What a client with a durable session had not acknowledged when its connection ended waits for
   it, and comes again (amqtt forgets it). Not so what it left unacknowledged for five seconds:
   that amqtt gives up. What waited is sent without waiting for the client, which may want to
   subscribe first.
6. At most QUEUED_MAX messages wait for an absent client, SUBSCRIPTIONS_MAX filters a client.

Retained messages and sessions are in memory: after a restart the hub publishes its Targets again,
and devices their presence and reports.
"""

import asyncio
from typing import Any

from amqtt.broker import Broker, RetainedApplicationMessage
from amqtt.contexts import Action, BaseContext
from amqtt.mqtt.protocol.broker_handler import BrokerProtocolHandler
from amqtt.plugins.base import BaseAuthPlugin, BaseTopicPlugin
from amqtt.session import Session

from shared.errors import ContractError
from shared.ids import HUB_ID
from shared.link.topic_rules import may_publish, may_receive, may_subscribe
from shared.wire.topics import parse_path

LISTENER = "default"
QUEUED_MAX = 1000
SUBSCRIPTIONS_MAX = 32
_UNPASSED_MAX = 100  # Messages of one client, read and not passed on
_BROADCASTS_MAX = 1000
_HUB_UNACKNOWLEDGED_MAX = 200
_REFUSED = 0x80  # SUBACK's return code for a failure (section 3.9.3)

CONFIG: dict[str, Any] = {
    "listeners": {LISTENER: {"type": "external", "bind": "unused"}},
    "plugins": {f"{__name__}.CertificateRules": {}},
}


class CertificateRules(BaseAuthPlugin, BaseTopicPlugin):  # type: ignore[misc]  # amqtt has no types
    """The plugin: what amqtt asks about a session whose certificate was checked before."""

    def __init__(self, context: BaseContext) -> None:
        """Args: as amqtt gives them."""
        BaseTopicPlugin.__init__(self, context)

    async def authenticate(self, *, session: Session) -> bool | None:
        """Let in everything that came through the gate."""
        return bool(session.client_id)

    async def topic_filtering(
        self,
        *,
        session: Session | None = None,
        topic: str | None = None,
        action: Action | None = None,
    ) -> bool | None:
        """Whether this session may do that on this topic."""
        if session is None or topic is None or action is None:
            return False
        return is_allowed(session.client_id or "", topic, action)


class GuardedBroker(Broker):  # type: ignore[misc]  # amqtt has no types
    """See the rules above. Used from its own event loop only."""

    def __init__(self) -> None:
        """Load CertificateRules; nothing listens yet. Needs a running loop."""
        super().__init__(CONFIG)
        self._sending: set[asyncio.Task[Any]] = set()

    async def _topic_filtering(self, session: Session, topic: str, action: Action) -> bool:
        is_full = action == Action.RECEIVE and session.retained_messages.qsize() >= QUEUED_MAX
        return not is_full and is_allowed(session.client_id or "", topic, action)

    async def _publish_retained_messages_for_subscription(
        self, subscription: tuple[str, int], session: Session
    ) -> None:
        _, qos = subscription
        if qos > 0:  # On connect amqtt asks with QoS 0 for every filter of every session.
            await super()._publish_retained_messages_for_subscription(subscription, session)

    async def _publish_session_retained_messages(self, session: Session) -> None:
        _, handler = self.sessions[session.client_id]
        while not session.retained_messages.empty():
            message = session.retained_messages.get_nowait()
            sending = handler.mqtt_publish(message.topic, message.data, message.qos, retain=False)
            task = asyncio.create_task(sending)
            self._sending.add(task)
            task.add_done_callback(self._sending.discard)

    async def _handle_disconnect(
        self,
        client_session: Session,
        handler: BrokerProtocolHandler,
        disconnect_waiter: asyncio.Future[Any],
    ) -> None:
        # Absent from this moment on, with no task in between: what comes now waits behind it.
        client_session.transitions.disconnect()
        if not client_session.clean_session:
            self._keep_unacknowledged(client_session)
        await super()._handle_disconnect(client_session, handler, disconnect_waiter)

    def _keep_unacknowledged(self, session: Session) -> None:
        for message in session.inflight_out.values():
            held = self.retained_messages.get(message.topic)
            is_retained = held is not None and held.data == message.data  # Comes again anyway.
            if not is_retained and session.retained_messages.qsize() < QUEUED_MAX:
                session.retained_messages.put_nowait(
                    RetainedApplicationMessage(None, message.topic, message.data, message.qos)
                )

    async def retain_message(
        self,
        source_session: Session | None,
        topic_name: str | None,
        data: bytes | bytearray | None,
        qos: int | None = None,
    ) -> None:
        """Keep a retained message, if its topic is one of the table's retained ones."""
        if _is_retained_topic(topic_name or ""):
            await super().retain_message(source_session, topic_name, data, qos)

    async def add_subscription(self, subscription: tuple[str, int], session: Session) -> int:
        """Subscribe `session`, within its limit and at QoS 1 at most; return the return code."""
        pattern, qos = subscription
        filters = [
            other
            for other, sessions in self.subscriptions.items()
            if other != pattern and any(held is session for held, _ in sessions)
        ]
        if len(filters) >= SUBSCRIPTIONS_MAX:
            return _REFUSED
        return int(await super().add_subscription((pattern, min(qos, 1)), session))

    def is_passed_on(self, client_id: str) -> bool:
        """Whether everything that this client sent is on its way to the subscribers."""
        session, _ = self.sessions.get(client_id, (None, None))
        return session is None or bool(session.delivered_message_queue.empty())

    def is_busy(self, client_id: str) -> bool:
        """Whether a client should not be read from, because too much is not passed on yet.

        The hub always is: its acknowledgements are what makes room.
        """
        if client_id == HUB_ID:
            return False
        session, _ = self.sessions.get(client_id, (None, None))
        hub, _ = self.sessions.get(HUB_ID, (None, None))
        return bool(
            (session is not None and session.delivered_message_queue.qsize() >= _UNPASSED_MAX)
            or (hub is not None and hub.inflight_out_count >= _HUB_UNACKNOWLEDGED_MAX)
            or self._broadcast_queue.qsize() >= _BROADCASTS_MAX
        )


def is_allowed(client_id: str, topic: str, action: Action) -> bool:
    """Whether a client may do that on this topic (or topic filter)."""
    match action:
        case Action.PUBLISH:
            return may_publish(client_id, topic)
        case Action.SUBSCRIBE:
            return may_subscribe(client_id, topic)
        case Action.RECEIVE:
            return may_receive(client_id, topic)
        case _:
            return False


def _is_retained_topic(path: str) -> bool:
    try:
        topic, _ = parse_path(path)
    except ContractError:
        return False
    return topic.retain
