"""A bare paho client that says whatever it wants: the hostile, or merely foreign, peer."""

import queue
import threading
from dataclasses import dataclass

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode

from shared.link.paho_link import LinkSettings
from shared.link.ssl_client import make_client_tls
from tests.support.waiting import wait_until

_SECONDS_MAX = 10.0


@dataclass(frozen=True, slots=True)
class RawReceived:
    path: str
    payload: bytes
    retain: bool


class RawClient:
    """A bare paho client that says what it wants: the hostile peer. A context manager."""

    def __init__(
        self,
        settings: LinkSettings,
        *,
        client_id: str,
        will_path: str | None = None,
        clean_session: bool = True,
    ) -> None:
        self.received: queue.Queue[RawReceived] = queue.Queue()
        self._settings = settings
        self._granted: list[int] = []
        self._suback = threading.Event()
        self._answered = threading.Event()
        self._lost = threading.Event()
        self._refused = False
        self._client = paho.Client(
            CallbackAPIVersion.VERSION2,
            client_id=client_id,
            clean_session=clean_session,
            protocol=paho.MQTTv311,
            reconnect_on_failure=False,
        )
        if settings.ca_path is not None:
            tls = make_client_tls(settings.ca_path)
            if settings.certificate_path is not None:
                tls.load_cert_chain(settings.certificate_path, settings.key_path)
            self._client.tls_set_context(tls)
        if will_path is not None:
            self._client.will_set(will_path, b"will", 1)
        self._client.on_connect = self._on_connect
        self._client.on_disconnect = lambda *_: self._lost.set()
        self._client.on_subscribe = self._on_subscribe
        self._client.on_message = lambda _c, _u, m: self.received.put(
            RawReceived(m.topic, bytes(m.payload), m.retain)
        )

    def __enter__(self) -> "RawClient":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def connect(self) -> None:
        """Connect, or raise ConnectionError: refused, cut off, or no answer."""
        try:
            self._client.connect(self._settings.host, self._settings.port)
        except OSError as error:
            raise ConnectionError(str(error)) from error
        self._client.loop_start()
        wait_until(lambda: self._answered.is_set() or self._lost.is_set())
        if self._refused or not self._answered.is_set():
            self.close()
            raise ConnectionError("refused")

    def is_cut(self) -> bool:
        return self._lost.is_set()

    def subscribe(self, pattern: str) -> bool:
        """Return whether the broker granted it."""
        self._suback.clear()
        self._client.subscribe(pattern, 1)
        assert self._suback.wait(_SECONDS_MAX)
        return self._granted[0] < 0x80

    def publish(self, path: str, payload: bytes, *, qos: int = 1, retain: bool = False) -> None:
        """Send, and wait until it is acknowledged (QoS 1) or on its way."""
        info = self._client.publish(path, payload, qos, retain)
        assert info.rc == MQTTErrorCode.MQTT_ERR_SUCCESS
        info.wait_for_publish(_SECONDS_MAX)

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def _on_connect(self, *arguments: object) -> None:
        self._refused = bool(getattr(arguments[3], "is_failure", True))
        self._answered.set()

    def _on_subscribe(self, *arguments: object) -> None:
        reasons = arguments[3]
        assert isinstance(reasons, list)
        self._granted = [int(reason.value) for reason in reasons]
        self._suback.set()
