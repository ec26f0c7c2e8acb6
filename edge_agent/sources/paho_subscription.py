"""Subscription: one topic filter at a broker near the device, as a queue of messages.

1. paho's thread only puts messages into the queue; everything else happens in the thread that
   reads. (An exception in a callback would end paho's thread without a trace.)
2. The queue holds MESSAGES_MAX messages and QUEUE_BYTES_MAX bytes. When it runs over, what is in it
   is worth nothing as a series any more: it is emptied, its messages are counted as lost, and the
   reader is told.
3. A lost connection, a subscription that the broker refuses, and no message for `silent_s_max` are
   TransientErrors, told once everything that came before was read.
"""

import logging
import math
import ssl
import threading
from collections import deque
from dataclasses import dataclass
from pathlib import Path

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from shared.clock import Clock
from shared.errors import ContractError, TransientError
from shared.pipeline.sources import MqttSettings, MqttTextSettings

log = logging.getLogger(__name__)

MESSAGES_MAX = 1024
MESSAGES_MAX_OF_MANY = 16_384
QUEUE_BYTES_MAX = 32 << 20
CONNECT_TIMEOUT_S = 10.0
KEEPALIVE_S = 30
STOP_CHECK_S = 0.2
RUN_OVER_TOLD_S = 60.0


@dataclass(frozen=True, slots=True)
class Message:
    """One that came."""

    topic: str
    payload: bytes
    at_s: float  # When, monotonic


class Subscription:
    """See the rules above. `open`, `take` and `close` by one thread."""

    def __init__(
        self,
        settings: MqttSettings | MqttTextSettings,
        clock: Clock,
        *,
        topic_filter: str,
        messages_max: int = MESSAGES_MAX,
    ) -> None:
        """Connect to nothing yet."""
        self._settings = settings
        self._clock = clock
        self._filter = topic_filter
        self._messages_max = messages_max
        self._messages: deque[Message] = deque()
        self._bytes = 0
        self._is_run_over = False
        self._changed = threading.Condition()
        self._lost_reason = ""  # Set by paho's thread when the connection ends
        self._client: mqtt.Client | None = None
        self._last_message_s = 0.0
        self._run_over_told_s = -math.inf
        self.lost_messages_count = 0

    @property
    def description(self) -> str:
        """Return what it is."""
        settings = self._settings
        return f"the topic {settings.topic} at {settings.host}:{settings.port}"

    @property
    def waiting_count(self) -> int:
        """Return how many messages wait to be read."""
        with self._changed:
            return len(self._messages)

    @property
    def is_run_over(self) -> bool:
        """Whether messages were lost that the reader has not been told of."""
        return self._is_run_over

    def open(self) -> None:
        """Connect and subscribe. Raises TransientError `source.lost` or ContractError."""
        self.close()
        with self._changed:
            self._messages.clear()
            self._bytes = 0
            self._is_run_over = False
        self._lost_reason = ""
        self._last_message_s = self._clock.monotonic_s()
        client = self._new_client()
        try:
            client.connect(self._settings.host, self._settings.port, keepalive=KEEPALIVE_S)
        except (OSError, ValueError) as error:
            raise TransientError(
                "source.lost",
                f"Cannot reach {self.description}: {error}.",
                remedy="Check that the broker runs there.",
            ) from error
        self._client = client
        client.loop_start()

    def take(self, seconds_max: float = STOP_CHECK_S) -> list[Message] | None:
        """Return all messages that wait, once there is one or `seconds_max` are over.

        None: messages were lost, and those that waited with them; see rule 2. Raises
        TransientError `source.lost`.
        """
        with self._changed:
            if not self._messages and not self._is_run_over:
                self._changed.wait(seconds_max)
            taken = list(self._messages)
            self._messages.clear()
            self._bytes = 0
            was_run_over, self._is_run_over = self._is_run_over, False
        if was_run_over:
            self.lost_messages_count += len(taken)
            self._tell_run_over()
            return None
        if taken:
            self._last_message_s = taken[-1].at_s
        else:
            self._check_connection()
        return taken

    def _tell_run_over(self) -> None:
        """Log it, at most every RUN_OVER_TOLD_S: under a load that is too much it never ends."""
        now_s = self._clock.monotonic_s()
        if now_s - self._run_over_told_s >= RUN_OVER_TOLD_S:
            self._run_over_told_s = now_s
            log.warning("source.run_over", extra={"lost_messages": self.lost_messages_count})

    def close(self) -> None:
        """Disconnect."""
        client, self._client = self._client, None
        if client is not None:
            client.disconnect()
            client.loop_stop()

    def _check_connection(self) -> None:
        """Asked when nothing waits; see rule 3."""
        if self._lost_reason:
            raise TransientError("source.lost", f"Lost {self.description}: {self._lost_reason}.")
        silent_s = self._clock.monotonic_s() - self._last_message_s
        if self._settings.silent_s_max and silent_s > self._settings.silent_s_max:
            raise TransientError(
                "source.lost", f"No message on {self.description} for {silent_s:.0f} s."
            )

    def _new_client(self) -> mqtt.Client:
        client = mqtt.Client(CallbackAPIVersion.VERSION2, reconnect_on_failure=False)
        client.connect_timeout = CONNECT_TIMEOUT_S
        client.on_connect = self._on_connect
        client.on_subscribe = self._on_subscribe
        client.on_disconnect = self._on_disconnect
        client.on_message = self._on_message
        settings = self._settings
        try:
            if settings.username:
                password = Path(settings.password_file) if settings.password_file else None
                client.username_pw_set(
                    settings.username, password.read_text("utf-8").strip() if password else None
                )
            if settings.ca_file:
                client.tls_set(ca_certs=settings.ca_file, cert_reqs=ssl.CERT_REQUIRED)
        except (OSError, ValueError) as error:
            raise ContractError(
                "source.missing", f"Cannot read a file of {self.description}: {error}."
            ) from error
        return client

    # Below: paho's thread. It only leaves word.

    def _on_connect(
        self,
        client: mqtt.Client,
        _userdata: object,
        _flags: mqtt.ConnectFlags,
        reason: ReasonCode,
        _properties: Properties | None,
    ) -> None:
        if reason.is_failure:
            self._lost_reason = str(reason)
        else:
            client.subscribe(self._filter, qos=1)

    def _on_subscribe(
        self,
        _client: mqtt.Client,
        _userdata: object,
        _mid: int,
        reasons: list[ReasonCode],
        _properties: Properties | None,
    ) -> None:
        refused = [str(reason) for reason in reasons if reason.is_failure]
        if refused:
            self._lost_reason = f"the broker refuses the subscription ({refused[0]})"

    def _on_disconnect(
        self,
        _client: mqtt.Client,
        _userdata: object,
        _flags: mqtt.DisconnectFlags,
        reason: ReasonCode,
        _properties: Properties | None,
    ) -> None:
        self._lost_reason = str(reason)

    def _on_message(
        self, _client: mqtt.Client, _userdata: object, message: mqtt.MQTTMessage
    ) -> None:
        kept = Message(message.topic, bytes(message.payload), self._clock.monotonic_s())
        with self._changed:
            self._messages.append(kept)
            self._bytes += len(kept.payload)
            if len(self._messages) > self._messages_max or self._bytes > QUEUE_BYTES_MAX:
                self.lost_messages_count += len(self._messages)
                self._messages.clear()
                self._bytes = 0
                self._is_run_over = True
            self._changed.notify()
