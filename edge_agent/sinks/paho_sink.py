"""PahoSink: what a pipeline decides, on a broker near the device; Home Assistant finds it there.

1. The pipeline's thread only encodes and notes: decisions in a queue of QUEUE_MAX (past that the
   oldest go, counted), states by topic, of which only the newest counts. The sink's own thread
   talks to paho; paho's callbacks only leave word.
2. All at QoS 1, at most IN_FLIGHT_MAX at a time, over a client of its own for each connection: paho
   would send what was in flight again after what is newer. After every connection decisions that
   were not acknowledged, the announcements and all states are sent again: a broker forgets.
3. The availability is "online" while connected, and "offline" by last will or by `close`.
4. The password and the authority are read for each connection. A file that cannot be read
   and a broker that says no are told as `standing` and tried again, with backoff.
5. `forget` takes away what the broker keeps of the pipeline: announcements and states. It is for a
   pipeline that is gone for good; one that stops, or a device that restarts, only goes offline.
6. What a line or zone left that the settings no longer have is taken away after connecting: for
   SWEEP_S the sink hears what the broker keeps of such places.
"""

import logging
import threading
from collections import deque
from collections.abc import Collection
from importlib.metadata import version
from pathlib import Path

import msgspec
import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from edge_agent.decisions.decision import Decision, ItemResult
from edge_agent.sinks.due import Due
from edge_agent.sinks.home_assistant import Announcer
from edge_agent.sinks.mqtt_states import StateBoard
from edge_agent.sinks.mqtt_topics import OFFLINE, ONLINE, State, base_topic, safe
from shared.backoff import Backoff
from shared.clock import Clock
from shared.link.paho_socket import set_no_delay
from shared.link.ssl_client import make_client_tls
from shared.pipeline.sinks import MqttSinkSettings
from shared.worker import Worker

log = logging.getLogger(__name__)

QUEUE_MAX = 1000
IN_FLIGHT_MAX = 20
CONNECT_TIMEOUT_S = 3.0
KEEPALIVE_S = 15
RECONNECT_S_MIN, RECONNECT_S_MAX = 0.5, 30.0
STABLE_S = 10.0  # A connection that lasted as long makes the next wait short again
SWEEP_S = 5.0
SWEPT_MAX = 1024
PASS_S = 0.5  # How long a pass waits for something to do
GOODBYE_S_MAX = 1.0
CLOSE_S_MAX = 8.0
PASSWORD_CHARS_MAX = 1024


class PahoSink:
    """See the rules above. Called by the pipeline's thread; owns one thread, and paho's."""

    def __init__(
        self,
        settings: MqttSinkSettings,
        *,
        pipeline: str,
        device: str,
        model: str,
        clock: Clock,
        places: Collection[str] = (),
    ) -> None:
        """Connect to nothing yet. Args: places: the topics of its lines and zones; see rule 6."""
        self._places = frozenset(places)
        self._found: deque[str] = deque(maxlen=SWEPT_MAX)  # Of places, as the broker keeps them
        self._swept_s: float | None = None  # Until then it is heard; None: it is done
        self._settings, self._clock = settings, clock
        self._base = base_topic(settings.prefix, device, pipeline)
        self._client_id = f"isthmus-{safe(device)}-{safe(pipeline)}"
        self._due = Due(settings.which, settings.repeat_s)
        self._announcer = None
        if settings.discovery_prefix:
            self._announcer = Announcer(
                discovery_prefix=settings.discovery_prefix,
                base=self._base,
                device=device,
                pipeline=pipeline,
                model=model,
                agent_version=version("isthmus"),
            )
        self._lock = threading.Lock()  # Of the four below
        self._board = StateBoard()
        self._decisions: deque[bytes] = deque()
        self._changed: dict[str, State] = {}  # By topic: to be sent
        self._lost_count = 0
        self._announced: set[str] = set()  # Topics of things; of this connection
        # Given to paho, not acknowledged: with it the decision, if it is one.
        self._in_flight: deque[tuple[paho.MQTTMessageInfo, bytes | None]] = deque()
        self._has_ended = threading.Event()
        self._wake = threading.Event()
        self._has_connected = threading.Event()
        self._is_connected = False
        self._is_forgotten = False
        self._standing = "not connected yet"
        self._client: paho.Client | None = None
        self._worker = Worker("mqtt-sink", self._run, clock=clock)

    @property
    def lost_count(self) -> int:
        """How many decisions found no room while the broker was away, or were left at the end."""
        return self._lost_count

    @property
    def standing(self) -> str:
        """Why nothing reaches the broker just now; empty: it does."""
        return "" if self._is_connected else self._standing

    def start(self) -> None:
        """Begin to connect; returns at once."""
        self._worker.start()

    def forget(self) -> None:
        """Let `close` take away what the broker keeps; see rule 5."""
        self._is_forgotten = True

    def close(self) -> None:
        """Tell what is left, if the broker is there, say goodbye and disconnect."""
        self._worker.request_stop()
        self._wake.set()
        if self._worker.is_alive and not self._worker.stop(seconds_max=CLOSE_S_MAX):
            log.warning("mqtt_sink.close_timeout", extra={"host": self._settings.host})
        with self._lock:
            self._lost_count += len(self._decisions)
            self._decisions.clear()

    def __call__(self, result: ItemResult) -> None:
        """Note `result` if it is a Decision."""
        if not isinstance(result, Decision):
            return
        now_s = self._clock.monotonic_s()
        payload = msgspec.json.encode(result) if self._due.is_due(result, now_s=now_s) else None
        with self._lock:
            for state in self._board.update(result, now_s=now_s):
                self._changed[state.thing.topic] = state
            if payload is not None:
                self._decisions.append(payload)
                if len(self._decisions) > QUEUE_MAX:
                    self._decisions.popleft()
                    self._lost_count += 1
            is_something = bool(self._changed) or payload is not None
        if is_something:
            self._wake.set()

    # The sink's own thread.

    def _run(self, stop: threading.Event) -> None:
        backoff = Backoff(delay_s_min=RECONNECT_S_MIN, delay_s_max=RECONNECT_S_MAX)
        while not stop.is_set():
            began_s = self._clock.monotonic_s()
            try:
                self._connect(stop)
            except (OSError, ValueError) as error:
                self._tell(f"cannot be reached: {error}")
            if self._clock.monotonic_s() - began_s > STABLE_S:
                backoff.reset()
            self._clock.wait(stop, backoff.next_delay_s())

    def _connect(self, stop: threading.Event) -> None:
        """Serve over one connection, until it ends. Raises OSError or ValueError: there is none."""
        try:
            client = self._new_client()
        except (OSError, ValueError) as error:
            self._tell(f"a file cannot be used: {error}")
            return
        self._has_ended.clear()
        self._has_connected.clear()
        client.connect(self._settings.host, self._settings.port, keepalive=KEEPALIVE_S)
        self._client = client
        client.loop_start()
        try:
            self._serve(client, stop)
        finally:
            self._end(client)

    def _serve(self, client: paho.Client, stop: threading.Event) -> None:
        until_s = self._clock.monotonic_s() + CONNECT_TIMEOUT_S
        while not stop.is_set() and not self._has_ended.is_set():
            self._clock.wait(self._wake, PASS_S)
            self._wake.clear()
            if self._has_connected.is_set():
                self._has_connected.clear()
                self._begin(client)
            if self._is_connected:
                self._sweep(client)
                self._flush(client)
            elif self._clock.monotonic_s() > until_s:
                self._tell("does not answer")
                return

    def _begin(self, client: paho.Client) -> None:
        """Say everything again on a new connection."""
        log.info("mqtt_sink.connected", extra={"host": self._settings.host})
        self._swept_s = self._clock.monotonic_s() + SWEEP_S
        client.subscribe([(topic, 1) for topic in self._place_filters])
        self._announced.clear()
        with self._lock:
            older = {state.thing.topic: state for state in self._board.all()}
            self._changed = older | self._changed
        self._send(client, "availability", ONLINE.encode(), retain=True)

    @property
    def _place_filters(self) -> tuple[str, str]:
        return f"{self._base}/lines/#", f"{self._base}/zones/#"

    def _sweep(self, client: paho.Client) -> None:
        """Take away what places left that are no more; see rule 6."""
        while self._found:
            topic = self._found.popleft().removeprefix(f"{self._base}/")
            if topic.rpartition("/")[0] in self._places:
                continue
            self._send(client, topic, b"", retain=True)
            for announced in self._announcer.topics_of(topic) if self._announcer else ():
                self._publish(client, announced, b"", retain=True)
        if self._swept_s is not None and self._clock.monotonic_s() >= self._swept_s:
            self._swept_s = None
            client.unsubscribe(list(self._place_filters))

    def _flush(self, client: paho.Client) -> None:
        while self._has_room() and self._is_connected:
            with self._lock:
                state = self._changed.pop(next(iter(self._changed))) if self._changed else None
                is_decision = state is None and bool(self._decisions)
                payload = self._decisions[0] if is_decision else b""
            if state is not None:
                if not self._send_state(client, state):
                    return
            elif not is_decision or not self._send(client, "decision", payload, retain=False):
                return
            else:
                self._in_flight[-1] = (self._in_flight[-1][0], payload)
                with self._lock:
                    if self._decisions and self._decisions[0] is payload:  # Not pushed out since
                        self._decisions.popleft()

    def _send_state(self, client: paho.Client, state: State) -> bool:
        thing = state.thing
        if self._announcer is not None and thing.topic not in self._announced:
            topic, payload = self._announcer.topic(thing), self._announcer.payload(thing)
            self._publish(client, topic, payload, retain=True)
            self._announced.add(thing.topic)
        if self._send(client, thing.topic, state.text.encode(), retain=True):
            return True
        with self._lock:
            self._changed.setdefault(thing.topic, state)
        return False

    def _has_room(self) -> bool:
        while self._in_flight and _is_done(self._in_flight[0][0]):
            self._in_flight.popleft()
        return len(self._in_flight) < IN_FLIGHT_MAX

    def _send(self, client: paho.Client, topic: str, payload: bytes, *, retain: bool) -> bool:
        return self._publish(client, f"{self._base}/{topic}", payload, retain=retain)

    def _publish(self, client: paho.Client, topic: str, payload: bytes, *, retain: bool) -> bool:
        """Give a message to paho; return whether it took it."""
        info = client.publish(topic, payload, qos=1, retain=retain)
        if info.rc != MQTTErrorCode.MQTT_ERR_SUCCESS:
            return False
        self._in_flight.append((info, None))
        return True

    def _end(self, client: paho.Client) -> None:
        """Tell what is left and disconnect."""
        if self._is_connected:
            self._flush(client)
            if self._is_forgotten:
                self._take_away(client)
            last = client.publish(
                f"{self._base}/availability",
                b"" if self._is_forgotten else OFFLINE.encode(),
                qos=1,
                retain=True,
            )
            try:
                last.wait_for_publish(GOODBYE_S_MAX)
            except (RuntimeError, ValueError) as error:  # Paho's words for a connection that broke
                log.debug("mqtt_sink.goodbye_failed", extra={"detail": str(error)})
        client.disconnect()
        client.loop_stop()
        self._is_connected = False
        self._take_back()

    def _take_back(self) -> None:
        """Queue again what was not acknowledged, in front; states are sent again in any case."""
        unheard = [payload for info, payload in self._in_flight if payload and not _is_done(info)]
        self._in_flight.clear()
        with self._lock:
            self._decisions.extendleft(reversed(unheard))
            while len(self._decisions) > QUEUE_MAX:
                self._decisions.popleft()
                self._lost_count += 1

    def _take_away(self, client: paho.Client) -> None:
        for thing in self._board.things():
            self._send(client, thing.topic, b"", retain=True)
            if self._announcer is not None:
                self._publish(client, self._announcer.topic(thing), b"", retain=True)

    def _new_client(self) -> paho.Client:
        """Return a client that is not connected. Raises OSError or ValueError for its files."""
        settings = self._settings
        client = paho.Client(
            CallbackAPIVersion.VERSION2, client_id=self._client_id, reconnect_on_failure=False
        )
        client.connect_timeout = CONNECT_TIMEOUT_S
        client.max_inflight_messages_set(IN_FLIGHT_MAX)
        client.will_set(f"{self._base}/availability", OFFLINE.encode(), qos=1, retain=True)
        if settings.username:
            client.username_pw_set(settings.username, _password(settings.password_file))
        if settings.ca_file:
            client.tls_set_context(make_client_tls(settings.ca_file))
        client.on_socket_open = set_no_delay
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_message = self._on_message
        return client

    def _tell(self, reason: str) -> None:
        """Keep why it does not work; logged when it is another reason."""
        text = f"{self._settings.host}:{self._settings.port}: {reason}"
        if text != self._standing:
            log.warning("mqtt_sink.away", extra={"detail": text})
        self._standing = text

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
            self._tell(f"refused: {reason}")
            self._has_ended.set()
            self._wake.set()
            return
        self._has_connected.set()
        self._is_connected = True
        self._wake.set()

    def _on_disconnect(
        self,
        _client: paho.Client,
        _userdata: object,
        _flags: paho.DisconnectFlags,
        reason: ReasonCode,
        _properties: Properties | None,
    ) -> None:
        was_connected, self._is_connected = self._is_connected, False
        if was_connected and reason.is_failure:  # Else it was us, or why it never was is known
            self._tell(f"lost: {reason}")
        self._has_ended.set()
        self._wake.set()

    def _on_message(
        self, _client: paho.Client, _userdata: object, message: paho.MQTTMessage
    ) -> None:
        if message.retain and message.payload:  # Not what it says itself just now
            self._found.append(message.topic)
            self._wake.set()


def _is_done(info: paho.MQTTMessageInfo) -> bool:
    """Return whether the broker has acknowledged it."""
    return info.is_published()


def _password(path: str) -> str | None:
    if not path:
        return None
    text = Path(path).read_text("utf-8").strip()
    if len(text) > PASSWORD_CHARS_MAX:
        raise ValueError(f"{path} is over {PASSWORD_CHARS_MAX} characters")
    return text
