"""Link over paho-mqtt 2: MQTT 3.1.1 with TLS and a client certificate.

1. One thread (a Worker) connects, pumps paho's loop and waits between attempts; paho starts no
   thread of its own, so its reconnecting without jitter is never used.
2. Callbacks only enqueue or set a flag. Other threads only hand packets to paho, which wakes the
   pump: `on_socket_register_write` is set so that paho does not write to the TLS socket from them.
3. Up means that the SUBACK came. A connection that is not up after `connect_timeout_s` is dropped.
4. Every failed attempt, refused certificate and refused subscription waits for the backoff; only
   a connection that lasted STABLE_S makes it short again, so two clients with one certificate
   cannot chase each other in a tight loop.
5. What paho had in flight at QoS 1 is sent again after a reconnect, with the session id that it
   was made with; receivers drop duplicates. While the link is down nothing is given to paho, which
   would keep it in memory.
6. The certificate files are read at every attempt: renewed ones are used from `reconnect` on.

Without `ca_path` the connection is plain TCP: for tests, and brokers on the same machine.
"""

import logging
import socket
import ssl
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated

import paho.mqtt.client as paho
from msgspec import Meta
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from shared.backoff import Backoff
from shared.clock import Clock, now_ms
from shared.errors import TransientError
from shared.ids import DeviceId, SessionId, new_session_id
from shared.link.arrival_queue import ArrivalQueue
from shared.link.link import (
    Arrival,
    Connected,
    Delivery,
    Disconnected,
    Rejection,
)
from shared.link.outgoing_limit import OutgoingLimit
from shared.link.paho_socket import set_no_delay
from shared.link.ssl_client import make_client_tls
from shared.settings import Settings
from shared.wire.codec import encode
from shared.wire.presence import Presence
from shared.wire.topics import Message, topic_of
from shared.worker import Worker

log = logging.getLogger(__name__)

PUMP_S = 0.5  # How long one pass of the pump may wait; other threads wake it
STABLE_S = 30.0
GOODBYE_S_MAX = 2.0
CLOSE_S_MAX = 1.0
_Positive = Annotated[float, Meta(gt=0.0, le=3600.0)]


class LinkSettings(Settings, frozen=True):
    """Where the broker is, and who we are to it."""

    host: str
    port: Annotated[int, Meta(ge=1, le=65535)]
    ca_path: str | None = None
    certificate_path: str | None = None
    key_path: str | None = None
    keepalive_s: Annotated[int, Meta(ge=1, le=3600)] = 30
    connect_timeout_s: _Positive = 10.0
    backoff_s_min: _Positive = 1.0
    backoff_s_max: _Positive = 60.0


@dataclass(frozen=True, slots=True)
class _Handle:
    """Which message of which connection: a packet id means nothing to the next connection."""

    connection: int
    packet_id: int
    qos: int


class PahoLink:
    """Implements shared.link.link.Link. Owns one thread between `start` and `stop`."""

    def __init__(
        self,
        *,
        settings: LinkSettings,
        client: DeviceId,
        filters: Sequence[tuple[str, int]],
        clock: Clock,
        with_last_will: bool,
    ) -> None:
        """Args: see below.

        client: the MQTT client id: the device's id, or HUB_ID; the certificate's name.
        filters: (topic filter, QoS) to subscribe to: topics.device_filters or hub_filters.
        with_last_will: for a device's link: death is announced, by the broker or by `stop`.
        """
        self._settings = settings
        self._device = client
        self._filters = list(filters)
        self._clock = clock
        self._with_last_will = with_last_will
        self._session_id = new_session_id()
        self._queue = ArrivalQueue()
        self._outgoing = OutgoingLimit()
        self._publishing = threading.Lock()
        self._wake = threading.Event()
        self._must_reconnect = threading.Event()
        self._is_connected = False
        self._connection = 0
        self._up_since_s: float | None = None
        self._end_reason = ""
        self._told_reason: str | None = None
        self._tls: ssl.SSLContext | None = None
        self._client = self._new_client()
        self._worker = Worker("mqtt-link", self._serve, clock=clock)

    @property
    def session_id(self) -> SessionId:
        """Return the id of the connection that is up, being tried, or was last."""
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
        """Begin to connect; returns at once."""
        self._worker.start()

    def stop(self) -> None:
        """Say goodbye if connected, close, and end `arrivals`. A second call does nothing."""
        if self._is_connected and self._with_last_will:
            self._say_goodbye()
        self._worker.request_stop()
        self._wake.set()
        self._client.disconnect()  # Wakes the pump.
        seconds_max = self._settings.connect_timeout_s + CLOSE_S_MAX + PUMP_S
        if not self._worker.stop(seconds_max=seconds_max):
            log.warning("link.stop_timeout", extra={"host": self._settings.host})
        self._queue.close()

    def publish(self, device: DeviceId, message: Message) -> None:
        """Send `message` on its topic of `device`. Raises as Link.publish says."""
        self._send(device, message)

    def arrivals(self, *, wait_s: float) -> Iterator[Arrival]:
        """Yield what has arrived; end after `wait_s` seconds without anything, or when stopped."""
        return self._queue.arrivals(wait_s=wait_s)

    def acknowledge(self, arrival: Arrival) -> None:
        """Tell the broker that a Delivery or Rejection is done with; others need nothing."""
        if not isinstance(arrival, Delivery | Rejection):
            return
        handle = arrival.handle
        assert isinstance(handle, _Handle), "an arrival of another link"
        if handle.qos > 0 and handle.connection == self._connection:
            self._client.ack(handle.packet_id, handle.qos)

    def reconnect(self) -> None:
        """Drop the connection and connect again at once, with the certificate files as they are."""
        self._must_reconnect.set()
        self._wake.set()
        self._client.disconnect()  # Wakes the pump; a clean end, so no last will.

    # The publisher's side.

    def _send(self, device: DeviceId, message: Message) -> paho.MQTTMessageInfo:
        topic = topic_of(message)
        session_id = self._session_id
        payload = encode(message, session_id=session_id, sent_ms=now_ms(self._clock))
        with self._publishing:
            if not self._is_connected or session_id != self._session_id:
                raise TransientError("link.down", "There is no connection to the broker.")
            self._outgoing.refuse_if_full(len(payload))
            info = self._client.publish(topic.path(device), payload, topic.qos, topic.retain)
            if info.rc == MQTTErrorCode.MQTT_ERR_NO_CONN and topic.qos == 0:
                raise TransientError("link.down", "The connection to the broker just broke.")
            if info.rc == MQTTErrorCode.MQTT_ERR_QUEUE_SIZE:
                raise TransientError("link.full", "Every packet id is in use.")
            self._outgoing.add(info.mid, len(payload), topic.qos)
        return info

    def _say_goodbye(self) -> None:
        try:
            info = self._send(self._device, Presence(is_online=False, reason="stopped"))
            info.wait_for_publish(timeout=GOODBYE_S_MAX)
        except (TransientError, RuntimeError, ValueError):
            log.info("link.goodbye_lost")  # The broker's last will says it instead.

    # The pump: everything below runs in the worker's thread.

    def _serve(self, stop: threading.Event) -> None:
        backoff = Backoff(
            delay_s_min=self._settings.backoff_s_min, delay_s_max=self._settings.backoff_s_max
        )
        while not stop.is_set():
            self._wake.clear()
            self._must_reconnect.clear()
            reason = self._serve_one_connection(stop)
            lasted_s = self._mark_down(reason)
            if lasted_s > STABLE_S:
                backoff.reset()
            if not stop.is_set() and not self._must_reconnect.is_set():
                self._clock.wait(self._wake, backoff.next_delay_s())

    def _serve_one_connection(self, stop: threading.Event) -> str:
        """Connect and serve until it ends; return why it ended."""
        with self._publishing:  # So that nothing leaves on this connection with the last one's id.
            self._session_id = new_session_id()
        self._connection += 1
        self._end_reason = ""
        settings = self._settings
        try:
            self._load_credentials()
            self._set_will()
            self._client.connect(settings.host, settings.port, settings.keepalive_s)
        except (OSError, ValueError) as error:  # ssl's errors are one or both of these
            return f"cannot connect: {error}"
        deadline_s = self._clock.monotonic_s() + settings.connect_timeout_s
        code = MQTTErrorCode.MQTT_ERR_SUCCESS
        while code == MQTTErrorCode.MQTT_ERR_SUCCESS and not self._end_reason:
            if stop.is_set() or self._must_reconnect.is_set():
                self._end_reason = "stopped"
            elif not self._is_connected and self._clock.monotonic_s() > deadline_s:
                self._end_reason = "the broker did not answer in time"
            else:
                code = self._client.loop(PUMP_S)
        self._close()
        if self._must_reconnect.is_set():
            return "asked to reconnect"
        return self._end_reason or f"connection lost: {paho.error_string(code)}"

    def _close(self) -> None:
        """Send DISCONNECT if the connection can still carry it, and make sure it is closed."""
        self._client.disconnect()
        deadline_s = self._clock.monotonic_s() + CLOSE_S_MAX
        while self._client.socket() is not None and self._clock.monotonic_s() < deadline_s:
            if self._client.loop(0.1) != MQTTErrorCode.MQTT_ERR_SUCCESS:
                break
        left = self._client.socket()
        if isinstance(left, socket.socket):
            left.close()

    def _mark_down(self, reason: str) -> float:
        """Note that the link is down; return how many seconds it was up."""
        self._is_connected = False
        with self._publishing:
            self._outgoing.forget_unsaved()
        lasted_s = 0.0
        if self._up_since_s is not None:
            lasted_s = self._clock.monotonic_s() - self._up_since_s
        if self._up_since_s is not None or reason != self._told_reason:
            log.warning("link.down", extra={"client": self._device, "reason": reason})
            self._queue.put_notice(Disconnected(reason=reason))
        self._told_reason = reason
        self._up_since_s = None
        return lasted_s

    def _mark_up(self) -> None:
        self._up_since_s = self._clock.monotonic_s()
        self._told_reason = None
        log.info("link.up", extra={"client": self._device, "host": self._settings.host})
        # The notice first: who sees `is_connected` can count on the notice being there.
        self._queue.put_notice(Connected(session_id=self._session_id))
        self._is_connected = True

    def _new_client(self) -> paho.Client:
        client = paho.Client(
            CallbackAPIVersion.VERSION2,
            client_id=self._device,
            clean_session=False,
            protocol=paho.MQTTv311,
            reconnect_on_failure=False,
            manual_ack=True,
        )
        client.connect_timeout = self._settings.connect_timeout_s
        client.on_connect = self._on_connect
        client.on_subscribe = self._on_subscribe
        client.on_message = self._on_message
        client.on_publish = self._on_publish
        client.on_disconnect = self._on_disconnect
        client.on_socket_open = set_no_delay
        client.on_socket_register_write = _leave_to_the_pump
        return client

    def _load_credentials(self) -> None:
        settings = self._settings
        if settings.ca_path is None:
            return
        if self._tls is None:
            self._tls = make_client_tls(settings.ca_path)
            self._client.tls_set_context(self._tls)
        if settings.certificate_path is not None:
            self._tls.load_cert_chain(settings.certificate_path, settings.key_path)

    def _set_will(self) -> None:
        if self._with_last_will:
            will = Presence(is_online=False, reason="connection lost")
            topic = topic_of(will)
            payload = encode(will, session_id=self._session_id, sent_ms=now_ms(self._clock))
            self._client.will_set(topic.path(self._device), payload, topic.qos, topic.retain)

    # paho's callbacks: enqueue, set a flag, nothing else; none may raise.

    def _on_connect(
        self,
        client: paho.Client,
        _userdata: object,
        _flags: paho.ConnectFlags,
        reason: ReasonCode,
        _properties: Properties | None,
    ) -> None:
        if reason.is_failure:
            self._end_reason = f"the broker refused the connection: {reason}"
        elif self._filters:
            client.subscribe(self._filters)
        else:
            self._mark_up()

    def _on_subscribe(
        self,
        _client: paho.Client,
        _userdata: object,
        _packet_id: int,
        reasons: list[ReasonCode],
        _properties: Properties | None,
    ) -> None:
        if any(reason.is_failure for reason in reasons):
            self._end_reason = "the broker refused a subscription"
            log.error("link.subscription_refused", extra={"client": self._device})
        else:
            self._mark_up()

    def _on_message(
        self, _client: paho.Client, _userdata: object, message: paho.MQTTMessage
    ) -> None:
        try:
            path = message.topic
        except UnicodeDecodeError:
            path = "(not UTF-8)"  # Becomes a Rejection like any other unknown topic.
        is_taken = self._queue.put_message(
            path,
            bytes(message.payload),
            is_retained=message.retain,
            is_expendable=message.qos == 0,
            handle=_Handle(self._connection, message.mid, message.qos),
        )
        if not is_taken and message.qos > 0:
            # It will never be acknowledged. On this connection it would not come again, either,
            # and would take one of the few places that the broker has for such messages.
            self._end_reason = "more came than there was room for"

    def _on_publish(
        self,
        _client: paho.Client,
        _userdata: object,
        packet_id: int,
        _reason: ReasonCode,
        _properties: Properties | None,
    ) -> None:
        self._outgoing.done.append(packet_id)

    def _on_disconnect(
        self,
        _client: paho.Client,
        _userdata: object,
        _flags: paho.DisconnectFlags,
        reason: ReasonCode,
        _properties: Properties | None,
    ) -> None:
        self._is_connected = False
        self._end_reason = self._end_reason or f"connection lost: {reason}"


def _leave_to_the_pump(_client: paho.Client, _userdata: object, _opened: object) -> None:
    """Be there, so that paho does not write from the publisher's thread."""
