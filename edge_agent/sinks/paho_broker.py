"""NeighbourBroker: a broker near the device, over one connection after another.

1. Each connection has a client of its own: paho would send what was in flight again after what is
   newer.
2. All goes at QoS 1, at most IN_FLIGHT_MAX messages at a time. What was not acknowledged when a
   connection ends is given back, where it was marked as worth it.
3. The password and the authority are read for each connection.
4. paho's callbacks only leave word, and set `wake`. All else is for one thread.

What must not live here: what is said (paho_sink.py), when to try again.
"""

import logging
import threading
from collections import deque
from collections.abc import Sequence
from pathlib import Path

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from shared.link.paho_socket import set_no_delay
from shared.link.ssl_client import make_client_tls
from shared.pipeline.sinks import MqttSinkSettings

log = logging.getLogger(__name__)

IN_FLIGHT_MAX = 20
CONNECT_TIMEOUT_S = 3.0
KEEPALIVE_S = 15
GOODBYE_S_MAX = 1.0
FOUND_MAX = 1024
PASSWORD_CHARS_MAX = 1024


class NeighbourBroker:
    """See the rules above. `open` and `close` by turns."""

    def __init__(
        self,
        settings: MqttSinkSettings,
        *,
        client_id: str,
        will: tuple[str, bytes],
        wake: threading.Event,
    ) -> None:
        """Connect to nothing yet. Args: will: topic and payload that the broker keeps if we die."""
        self._settings, self._client_id = settings, client_id
        self._will, self._wake = will, wake
        self._client: paho.Client | None = None
        # Given to paho, not acknowledged: with it what is given back if it never is.
        self._in_flight: deque[tuple[paho.MQTTMessageInfo, bytes | None]] = deque()
        self._has_connected = threading.Event()
        self._has_ended = threading.Event()
        self._standing = "not connected yet"
        self.is_connected = False
        self.found: deque[str] = deque(maxlen=FOUND_MAX)  # Topics that the broker keeps; subscribed

    @property
    def standing(self) -> str:
        """Why nothing reaches it just now; empty: it does."""
        return "" if self.is_connected else self._standing

    @property
    def has_ended(self) -> bool:
        """Whether the connection is lost, or was refused."""
        return self._has_ended.is_set()

    @property
    def in_flight_count(self) -> int:
        """How many messages are not known to be acknowledged."""
        return len(self._in_flight)

    def open(self) -> None:
        """Begin to connect. Raises OSError or ValueError: it cannot, and `standing` says why."""
        try:
            client = self._new_client()
        except (OSError, ValueError) as error:
            self.tell(f"a file cannot be used: {error}")
            raise
        self._has_ended.clear()
        self._has_connected.clear()
        try:
            client.connect(self._settings.host, self._settings.port, keepalive=KEEPALIVE_S)
        except (OSError, ValueError) as error:
            self.tell(f"cannot be reached: {error}")
            raise
        self._client = client
        client.loop_start()

    def is_new(self) -> bool:
        """Return whether it has connected since this was asked last."""
        is_new = self._has_connected.is_set()
        self._has_connected.clear()
        return is_new

    def subscribe(self, filters: Sequence[str]) -> None:
        """Hear what the broker keeps under `filters`: in `found`."""
        assert self._client is not None, "open comes first"
        self._client.subscribe([(topic, 1) for topic in filters])

    def unsubscribe(self, filters: Sequence[str]) -> None:
        """Hear no more."""
        assert self._client is not None, "open comes first"
        self._client.unsubscribe(list(filters))

    def has_room(self) -> bool:
        """Return whether another message may be in flight."""
        while self._in_flight and self._in_flight[0][0].is_published():
            self._in_flight.popleft()
        return len(self._in_flight) < IN_FLIGHT_MAX

    def publish(
        self, topic: str, payload: bytes, *, retain: bool, back: bytes | None = None
    ) -> bool:
        """Give a message to paho; return whether it took it. Args: back: see rule 2."""
        assert self._client is not None, "open comes first"
        info = self._client.publish(topic, payload, qos=1, retain=retain)
        if info.rc != MQTTErrorCode.MQTT_ERR_SUCCESS:
            return False
        self._in_flight.append((info, back))
        return True

    def close(self, last: tuple[str, bytes] | None = None) -> list[bytes]:
        """Disconnect; return what is given back, oldest first.

        Args: last: topic and payload of a message to be kept that is waited for.
        """
        client = self._client
        assert client is not None, "open comes first"
        if last is not None:
            info = client.publish(*last, qos=1, retain=True)
            try:
                info.wait_for_publish(GOODBYE_S_MAX)
            except (RuntimeError, ValueError) as error:  # Paho's words for a connection that broke
                log.debug("mqtt_sink.goodbye_failed", extra={"detail": str(error)})
        client.disconnect()
        client.loop_stop()
        self._client, self.is_connected = None, False
        unheard = [back for info, back in self._in_flight if back and not info.is_published()]
        self._in_flight.clear()
        return unheard

    def tell(self, reason: str) -> None:
        """Keep why it does not work; logged when it is another reason."""
        text = f"{self._settings.host}:{self._settings.port}: {reason}"
        if text != self._standing:
            log.warning("mqtt_sink.away", extra={"detail": text})
        self._standing = text

    def _new_client(self) -> paho.Client:
        settings = self._settings
        client = paho.Client(
            CallbackAPIVersion.VERSION2, client_id=self._client_id, reconnect_on_failure=False
        )
        client.connect_timeout = CONNECT_TIMEOUT_S
        client.max_inflight_messages_set(IN_FLIGHT_MAX)
        client.will_set(*self._will, qos=1, retain=True)
        if settings.username:
            client.username_pw_set(settings.username, _password(settings.password_file))
        if settings.ca_file:
            client.tls_set_context(make_client_tls(settings.ca_file))
        client.on_socket_open = set_no_delay
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_message = self._on_message
        return client

    # Below: paho's thread. It only leaves word.

    def _on_connect(
        self,
        _client: paho.Client,
        _userdata: object,
        _flags: paho.ConnectFlags,
        reason: ReasonCode,
        _properties: Properties | None,
    ) -> None:
        if reason.is_failure:
            self.tell(f"refused: {reason}")
            self._has_ended.set()
        else:
            self._has_connected.set()
            self.is_connected = True
        self._wake.set()

    def _on_disconnect(
        self,
        _client: paho.Client,
        _userdata: object,
        _flags: paho.DisconnectFlags,
        reason: ReasonCode,
        _properties: Properties | None,
    ) -> None:
        was_connected, self.is_connected = self.is_connected, False
        if was_connected and reason.is_failure:  # Else it was us, or why it never was is known
            self.tell(f"lost: {reason}")
        self._has_ended.set()
        self._wake.set()

    def _on_message(
        self, _client: paho.Client, _userdata: object, message: paho.MQTTMessage
    ) -> None:
        if message.retain and message.payload:  # Not what it says itself just now
            self.found.append(message.topic)
            self._wake.set()


def _password(path: str) -> str | None:
    if not path:
        return None
    text = Path(path).read_text("utf-8").strip()
    if len(text) > PASSWORD_CHARS_MAX:
        raise ValueError(f"{path} is over {PASSWORD_CHARS_MAX} characters")
    return text
