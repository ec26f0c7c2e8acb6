"""PahoSink: what a pipeline decides, on a broker near the device; Home Assistant finds it there.

1. The pipeline's thread only encodes and notes: decisions in a queue of QUEUE_MAX (past that the
   oldest go, counted), states by topic, of which only the newest counts. The sink's own thread
   talks to the broker (paho_broker.py).
2. After every connection decisions that were not acknowledged, the announcements and all states
   are sent again: a broker forgets.
3. The availability is "online" while connected, and "offline" by last will or by `close`.
4. A file that cannot be read and a broker that says no are told as `standing` and tried again, with
   backoff.
5. `forget` takes away what the broker keeps of the pipeline: announcements and states. It is for a
   pipeline that is gone for good; one that stops, or a device that restarts, only goes offline.
6. What a line or zone left that the settings no longer have is taken away after connecting: for
   SWEEP_S the sink hears what the broker keeps of such places.
"""

import logging
import threading
from collections import deque
from collections.abc import Collection
from contextlib import suppress
from importlib.metadata import version

import msgspec

from edge_agent.decisions.decision import Decision, ItemResult
from edge_agent.sinks.due import Due
from edge_agent.sinks.home_assistant import Announcer
from edge_agent.sinks.mqtt_states import StateBoard
from edge_agent.sinks.mqtt_topics import OFFLINE, ONLINE, State, base_topic, safe
from edge_agent.sinks.paho_broker import CONNECT_TIMEOUT_S, NeighbourBroker
from shared.backoff import Backoff
from shared.clock import Clock
from shared.pipeline.sinks import MqttSinkSettings
from shared.worker import Worker

log = logging.getLogger(__name__)

QUEUE_MAX = 1000
RECONNECT_S_MIN, RECONNECT_S_MAX = 0.5, 30.0
STABLE_S = 10.0  # A connection that lasted as long makes the next wait short again
SWEEP_S = 5.0
PASS_S = 0.5  # How long a pass waits for something to do
CLOSE_S_MAX = 8.0


class PahoSink:
    """See the rules above. Called by the pipeline's thread; owns one thread, and the broker's."""

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
        self._swept_s: float | None = None  # Until then it is heard; None: it is done
        self._settings, self._clock = settings, clock
        self._base = base_topic(settings.prefix, device, pipeline)
        self._availability = f"{self._base}/availability"
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
        self._wake = threading.Event()
        self._is_forgotten = False
        self._broker = NeighbourBroker(
            settings,
            client_id=f"isthmus-{safe(device)}-{safe(pipeline)}",
            will=(self._availability, OFFLINE.encode()),
            wake=self._wake,
        )
        self._worker = Worker("mqtt-sink", self._run, clock=clock)

    @property
    def lost_count(self) -> int:
        """How many decisions found no room while the broker was away, or were left at the end."""
        return self._lost_count

    @property
    def standing(self) -> str:
        """Why nothing reaches the broker just now; empty: it does."""
        return self._broker.standing

    @property
    def waiting_count(self) -> int:
        """How many decisions the broker has not been given."""
        return len(self._decisions)

    @property
    def is_all_heard(self) -> bool:
        """Whether the broker has acknowledged whatever it was to be told."""
        return not self._decisions and not self._changed and not self._broker.in_flight_count

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
            with suppress(OSError, ValueError):  # The broker's standing says why
                self._connect(stop)
            if self._clock.monotonic_s() - began_s > STABLE_S:
                backoff.reset()
            self._clock.wait(stop, backoff.next_delay_s())

    def _connect(self, stop: threading.Event) -> None:
        """Serve over one connection, until it ends. Raises OSError or ValueError: there is none."""
        self._broker.open()
        try:
            self._serve(stop)
        finally:
            self._end()

    def _serve(self, stop: threading.Event) -> None:
        broker, until_s = self._broker, self._clock.monotonic_s() + CONNECT_TIMEOUT_S
        while not stop.is_set() and not broker.has_ended:
            self._clock.wait(self._wake, PASS_S)
            self._wake.clear()
            if broker.is_new():
                self._begin()
            if broker.is_connected:
                self._sweep()
                self._flush()
            elif self._clock.monotonic_s() > until_s:
                broker.tell("does not answer")
                return

    def _begin(self) -> None:
        """Say everything again on a new connection."""
        log.info("mqtt_sink.connected", extra={"host": self._settings.host})
        self._swept_s = self._clock.monotonic_s() + SWEEP_S
        self._broker.subscribe(self._place_filters)
        self._announced.clear()
        with self._lock:
            older = {state.thing.topic: state for state in self._board.all()}
            self._changed = older | self._changed
        self._broker.publish(self._availability, ONLINE.encode(), retain=True)

    @property
    def _place_filters(self) -> tuple[str, str]:
        return f"{self._base}/lines/#", f"{self._base}/zones/#"

    def _sweep(self) -> None:
        """Take away what places left that are no more; see rule 6."""
        while self._broker.found:
            topic = self._broker.found.popleft().removeprefix(f"{self._base}/")
            if topic.rpartition("/")[0] in self._places:
                continue
            self._send(topic, b"")
            for announced in self._announcer.topics_of(topic) if self._announcer else ():
                self._broker.publish(announced, b"", retain=True)
        if self._swept_s is not None and self._clock.monotonic_s() >= self._swept_s:
            self._swept_s = None
            self._broker.unsubscribe(self._place_filters)

    def _flush(self) -> None:
        while self._broker.has_room() and self._broker.is_connected:
            with self._lock:
                state = self._changed.pop(next(iter(self._changed))) if self._changed else None
                is_decision = state is None and bool(self._decisions)
                payload = self._decisions[0] if is_decision else b""
            if state is not None:
                if not self._send_state(state):
                    return
            elif not is_decision or not self._send("decision", payload, back=payload):
                return
            else:
                with self._lock:
                    if self._decisions and self._decisions[0] is payload:  # Not pushed out since
                        self._decisions.popleft()

    def _send_state(self, state: State) -> bool:
        thing = state.thing
        if self._announcer is not None and thing.topic not in self._announced:
            topic, payload = self._announcer.topic(thing), self._announcer.payload(thing)
            self._broker.publish(topic, payload, retain=True)
            self._announced.add(thing.topic)
        if self._send(thing.topic, state.text.encode()):
            return True
        with self._lock:
            self._changed.setdefault(thing.topic, state)
        return False

    def _send(self, topic: str, payload: bytes, *, back: bytes | None = None) -> bool:
        """Publish below the pipeline's own topic; all but a decision is kept by the broker."""
        name = f"{self._base}/{topic}"
        return self._broker.publish(name, payload, retain=back is None, back=back)

    def _end(self) -> None:
        """Tell what is left and disconnect; queue again, in front, what was not acknowledged."""
        last = None
        if self._broker.is_connected:
            self._flush()
            if self._is_forgotten:
                self._take_away()
            last = self._availability, b"" if self._is_forgotten else OFFLINE.encode()
        unheard = self._broker.close(last)
        with self._lock:
            self._decisions.extendleft(reversed(unheard))
            while len(self._decisions) > QUEUE_MAX:
                self._decisions.popleft()
                self._lost_count += 1

    def _take_away(self) -> None:
        for thing in self._board.things():
            self._send(thing.topic, b"")
            if self._announcer is not None:
                self._broker.publish(self._announcer.topic(thing), b"", retain=True)
