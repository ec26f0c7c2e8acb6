"""MqttSource, MqttSensorsSource and MqttTextSource: messages of a broker near the device as items.

1. Every item counts, behind the bounded queue of paho_subscription.py. When messages were lost,
   windows start again; texts go on.
2. One sensor: a message that cannot be read is counted and left out; it cuts the window. So does a
   pause above the window's `gap_s_max`.
3. Many sensors ({sensor} in the topic): the rules are in sensor_feed.py; items are WindowBatches.
4. A text is one payload in UTF-8; one that is not, is empty or is longer than `text_bytes_max` is
   counted and left out.
5. A lost connection and a silence of `silent_s_max` are TransientErrors: the capture loop connects
   again, with empty windows.
"""

import logging
import threading
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge_agent.sources.item import TextItem, Window, WindowBatch
from edge_agent.sources.paho_subscription import (
    MESSAGES_MAX_OF_MANY,
    STOP_CHECK_S,
    Message,
    Subscription,
)
from edge_agent.sources.readings import read_payload
from edge_agent.sources.resampling import Resampler
from edge_agent.sources.sensor_feed import SensorFeed, SensorWindows
from edge_agent.sources.texts import to_text
from edge_agent.sources.windowing import RollingWindow
from shared.clock import Clock, now_ms
from shared.errors import ContractError
from shared.pipeline.sources import SENSOR_LEVEL, MqttSettings, MqttTextSettings

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Row:
    """One row, and when the message with it came."""

    values: NDArray[np.float32]  # (C,)
    at_s: float


class MqttSource:
    """Implements Source for one sensor; see the rules above."""

    is_every_item = True

    def __init__(self, settings: MqttSettings, clock: Clock) -> None:
        """Connect to nothing yet."""
        self._settings = settings
        self._clock = clock
        self.subscription = Subscription(settings, clock, topic_filter=settings.topic)
        self._window = RollingWindow(settings.window, channels_count=settings.channels)
        self._resampler = None
        if settings.resample is not None:
            self._resampler = Resampler(settings.resample, channels_count=settings.channels)
        self._messages: deque[Message] = deque()
        self._rows: deque[_Row | None] = deque()  # None: a cut
        self._last_message_s = 0.0
        self._sequence = 0
        self.bad_messages_count = 0

    @property
    def description(self) -> str:
        """Return what it is."""
        return self.subscription.description

    @property
    def lost_messages_count(self) -> int:
        """Return how many messages were lost because the queue ran over."""
        return self.subscription.lost_messages_count

    def open(self) -> None:
        """Connect and subscribe. Raises TransientError `source.lost` or ContractError."""
        self._start_again()
        self.subscription.open()
        self._last_message_s = self._clock.monotonic_s()

    def read(self, stop: threading.Event) -> Window | None:
        """Return the next window. Raises TransientError `source.lost`."""
        while not stop.is_set():
            window = self._next_window()
            if window is not None:
                return window
            if self._messages:
                self._read_message(self._messages.popleft())
                continue
            taken = self.subscription.take()
            if taken is None:
                self._start_again()
            else:
                self._messages.extend(taken)
        return None

    def close(self) -> None:
        """Disconnect."""
        self.subscription.close()

    def _next_window(self) -> Window | None:
        while self._rows:
            row = self._rows.popleft()
            if row is None:
                self._window.cut()
                continue
            samples = self._window.push(row.values)
            if samples is not None:
                self._sequence += 1
                age_ms = round((self._clock.monotonic_s() - row.at_s) * 1000.0)
                return Window(samples, self._sequence - 1, now_ms(self._clock) - age_ms, row.at_s)
        return None

    def _read_message(self, message: Message) -> None:
        """Turn a message into rows."""
        settings = self._settings
        gap_s_max = settings.window.gap_s_max
        if gap_s_max and message.at_s - self._last_message_s > gap_s_max:
            self._cut()
        self._last_message_s = message.at_s
        try:
            readings = read_payload(
                message.payload, settings.payload, channels_count=settings.channels
            )
        except ContractError as error:
            if not self.bad_messages_count:
                log.warning("source.payload", extra={"detail": str(error), "code": error.code})
            self.bad_messages_count += 1
            self._cut()
            return
        if self._resampler is None:
            self._rows.extend(_Row(row, message.at_s) for row in readings.rows)
            return
        wall_s = self._clock.now_s() - (self._clock.monotonic_s() - message.at_s)
        for index, row in enumerate(readings.rows):
            time_s = wall_s if readings.times_s is None else float(readings.times_s[index])
            resampled = self._resampler.push(time_s, row)
            if resampled.is_cut:
                self._rows.append(None)
            self._rows.extend(_Row(made, message.at_s) for made in resampled.rows)

    def _cut(self) -> None:
        self._rows.append(None)
        if self._resampler is not None:
            self._resampler.cut()

    def _start_again(self) -> None:
        self._messages.clear()
        self._rows.clear()
        self._cut()


class MqttSensorsSource:
    """Implements Source for many sensors of one topic; see the rules above."""

    is_every_item = True

    def __init__(self, settings: MqttSettings, clock: Clock) -> None:
        """Connect to nothing yet. Args: the topic has a level {sensor}."""
        self._clock = clock
        self._level = settings.topic.split("/").index(SENSOR_LEVEL)
        self.subscription = Subscription(
            settings,
            clock,
            topic_filter=settings.topic.replace(SENSOR_LEVEL, "+"),
            messages_max=MESSAGES_MAX_OF_MANY,
        )
        self._feed = SensorFeed(settings)
        self._messages: deque[Message] = deque()
        self._batches: Iterator[SensorWindows] = iter(())
        self._sequence = 0

    @property
    def description(self) -> str:
        """Return what it is."""
        return self.subscription.description

    @property
    def lost_messages_count(self) -> int:
        """Return how many messages were lost: the queue ran over, or too many sensors."""
        return self.subscription.lost_messages_count + self._feed.lost_messages_count

    @property
    def bad_messages_count(self) -> int:
        """Return how many messages could not be read."""
        return self._feed.bad_messages_count

    @property
    def sensors_count(self) -> int:
        """Return how many sensors are known."""
        return self._feed.sensors_count

    def open(self) -> None:
        """Connect and subscribe. Raises TransientError `source.lost` or ContractError."""
        self._start_again()
        self.subscription.open()

    def read(self, stop: threading.Event) -> WindowBatch | None:
        """Return the next windows. Raises TransientError `source.lost`."""
        while not stop.is_set():
            batch = next(self._batches, None) or self._feed.take(self._clock.monotonic_s())
            if batch is not None:
                return self._to_item(batch)
            if self._messages:
                self._batches = self._feed_message(self._messages.popleft())
                continue
            taken = self.subscription.take(self._wait_s())
            if taken is None:
                self._start_again()
            else:
                self._messages.extend(taken)
        return None

    def close(self) -> None:
        """Disconnect."""
        self.subscription.close()

    def _feed_message(self, message: Message) -> Iterator[SensorWindows]:
        levels = message.topic.split("/")
        name = levels[self._level] if self._level < len(levels) else ""
        wall_s = self._clock.now_s() - (self._clock.monotonic_s() - message.at_s)
        return self._feed.feed(name, message.payload, message.at_s, wall_s=wall_s)

    def _wait_s(self) -> float:
        due_s = self._feed.due_s()
        if due_s is None:
            return STOP_CHECK_S
        return min(STOP_CHECK_S, max(0.0, due_s - self._clock.monotonic_s()))

    def _to_item(self, batch: SensorWindows) -> WindowBatch:
        first = self._sequence
        self._sequence += len(batch.sensors)
        age_ms = round((self._clock.monotonic_s() - batch.at_s) * 1000.0)
        at_ms = now_ms(self._clock) - age_ms
        return WindowBatch(batch.samples, batch.sensors, first, at_ms, batch.at_s)

    def _start_again(self) -> None:
        self._messages.clear()
        self._batches = iter(())
        self._feed.cut_all()


class MqttTextSource:
    """Implements Source for short messages; see the rules above."""

    is_every_item = True

    def __init__(self, settings: MqttTextSettings, clock: Clock) -> None:
        """Connect to nothing yet."""
        self._settings = settings
        self._clock = clock
        self.subscription = Subscription(settings, clock, topic_filter=settings.topic)
        self._messages: deque[Message] = deque()
        self._sequence = 0
        self.bad_messages_count = 0

    @property
    def description(self) -> str:
        """Return what it is."""
        return self.subscription.description

    @property
    def lost_messages_count(self) -> int:
        """Return how many messages were lost because the queue ran over."""
        return self.subscription.lost_messages_count

    def open(self) -> None:
        """Connect and subscribe. Raises TransientError `source.lost` or ContractError."""
        self.subscription.open()

    def read(self, stop: threading.Event) -> TextItem | None:
        """Return the next text. Raises TransientError `source.lost`."""
        while not stop.is_set():
            if not self._messages:
                self._messages.extend(self.subscription.take() or ())
                continue
            message = self._messages.popleft()
            text = to_text(message.payload, bytes_max=self._settings.text_bytes_max)
            if text is None:
                self._note_bad()
                continue
            self._sequence += 1
            age_ms = round((self._clock.monotonic_s() - message.at_s) * 1000.0)
            at_ms = now_ms(self._clock) - age_ms
            return TextItem(text, self._sequence - 1, at_ms, message.at_s)
        return None

    def close(self) -> None:
        """Disconnect."""
        self.subscription.close()

    def _note_bad(self) -> None:
        if not self.bad_messages_count:
            log.warning("source.payload", extra={"detail": "No text in UTF-8, or too long."})
        self.bad_messages_count += 1
