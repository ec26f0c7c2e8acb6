"""MqttSource: a sensor that publishes to a broker near the device.

1. paho's thread only puts payloads into a queue of MESSAGES_MAX; everything else happens in the
   thread that reads. (An exception in a callback would end paho's thread without a trace.)
2. When the queue runs over, what is in it is worth nothing as a series any more: it is emptied, the
   window is cut, and the messages are counted as lost.
3. A message that cannot be read is counted and left out; it cuts the window.
4. A lost connection and a sensor that is silent for `silent_s_max` are TransientErrors: the capture
   loop connects again. The window is cut.
"""

import logging
import queue
import ssl
import threading
from collections import deque
from pathlib import Path

import numpy as np
import paho.mqtt.client as mqtt
from numpy.typing import NDArray
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from edge_agent.sources.item import Window
from edge_agent.sources.readings import parse_readings
from edge_agent.sources.settings import MqttSettings
from edge_agent.sources.windowing import RollingWindow
from shared.clock import Clock, now_ms
from shared.errors import ContractError, TransientError

log = logging.getLogger(__name__)

MESSAGES_MAX = 1024
CONNECT_TIMEOUT_S = 10.0
KEEPALIVE_S = 30
STOP_CHECK_S = 0.2


class MqttSource:
    """Implements Source; see the rules above."""

    is_every_item = True

    def __init__(self, settings: MqttSettings, clock: Clock) -> None:
        """Connect to nothing yet."""
        self._settings = settings
        self._clock = clock
        self._window = RollingWindow(settings.window, channels_count=settings.channels)
        self._messages: queue.Queue[bytes] = queue.Queue(maxsize=MESSAGES_MAX)
        self._has_run_over = threading.Event()
        self._lost_reason = ""  # Set by paho's thread when the connection ends
        self._rows: deque[NDArray[np.float32]] = deque()
        self._client: mqtt.Client | None = None
        self._last_message_s = 0.0
        self._sequence = 0
        self.lost_messages_count = 0
        self.bad_messages_count = 0

    @property
    def description(self) -> str:
        """Return what it is."""
        settings = self._settings
        return f"the topic {settings.topic} at {settings.host}:{settings.port}"

    def open(self) -> None:
        """Connect and subscribe. Raises TransientError `source.lost` or ContractError."""
        self.close()
        self._messages = queue.Queue(maxsize=MESSAGES_MAX)
        self._has_run_over.clear()
        self._lost_reason = ""
        self._cut()
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

    def read(self, stop: threading.Event) -> Window | None:
        """Return the next window. Raises TransientError `source.lost`."""
        while not stop.is_set():
            while self._rows:
                samples = self._window.push(self._rows.popleft())
                if samples is not None:
                    self._sequence += 1
                    at_s = self._clock.monotonic_s()
                    return Window(samples, self._sequence - 1, now_ms(self._clock), at_s)
            self._take_message()
        return None

    def close(self) -> None:
        """Disconnect."""
        client, self._client = self._client, None
        if client is not None:
            client.disconnect()
            client.loop_stop()

    def _take_message(self) -> None:
        """Turn the next message into rows; come back after STOP_CHECK_S without one."""
        if self._has_run_over.is_set():
            self._drop_all()
        try:
            message = self._messages.get(timeout=STOP_CHECK_S)
        except queue.Empty:
            self._check_connection()
            return
        now_s = self._clock.monotonic_s()
        gap_s_max = self._settings.window.gap_s_max
        if gap_s_max and now_s - self._last_message_s > gap_s_max:
            self._cut()
        self._last_message_s = now_s
        try:
            self._rows.extend(parse_readings(message, channels_count=self._settings.channels))
        except ContractError as error:
            if not self.bad_messages_count:
                log.warning("source.payload", extra={"detail": str(error), "code": error.code})
            self.bad_messages_count += 1
            self._cut()

    def _check_connection(self) -> None:
        """Asked when the queue is empty, so that what came before the end is used."""
        if self._lost_reason:
            raise TransientError("source.lost", f"Lost {self.description}: {self._lost_reason}.")
        silent_s = self._clock.monotonic_s() - self._last_message_s
        if self._settings.silent_s_max and silent_s > self._settings.silent_s_max:
            raise TransientError(
                "source.lost", f"No message on {self.description} for {silent_s:.0f} s."
            )

    def _drop_all(self) -> None:
        """See rule 2."""
        self._has_run_over.clear()
        while not self._messages.empty():
            self._messages.get_nowait()
            self.lost_messages_count += 1
        log.warning("source.run_over", extra={"lost_messages": self.lost_messages_count})
        self._cut()

    def _cut(self) -> None:
        self._rows.clear()
        self._window.cut()

    def _new_client(self) -> mqtt.Client:
        client = mqtt.Client(CallbackAPIVersion.VERSION2, reconnect_on_failure=False)
        client.connect_timeout = CONNECT_TIMEOUT_S
        client.on_connect = self._on_connect
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
            client.subscribe(self._settings.topic, qos=1)

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
        try:
            self._messages.put_nowait(bytes(message.payload))
        except queue.Full:
            self._has_run_over.set()
