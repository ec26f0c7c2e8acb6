"""MqttSensorsSource: the messages of many sensors of one topic as batches of windows.

1. What it shares with other sources of messages is in paho_messages.py; what becomes of each
   sensor's messages, in sensor_feed.py.
2. The level {sensor} of the topic names the sensor; the others are as they are written.
3. When messages were lost, and when it connects again, the windows of all sensors start again.
"""

from collections.abc import Iterator

from edge_agent.sources.item import WindowBatch
from edge_agent.sources.paho_messages import MessageSource
from edge_agent.sources.paho_subscription import (
    MESSAGES_MAX_OF_MANY,
    STOP_CHECK_S,
    Message,
    Subscription,
)
from edge_agent.sources.sensor_feed import SensorFeed, SensorWindows
from shared.clock import Clock
from shared.pipeline.sources import SENSOR_LEVEL, MqttSettings


class MqttSensorsSource(MessageSource[WindowBatch]):
    """Implements Source for many sensors of one topic; see the rules above."""

    def __init__(self, settings: MqttSettings, clock: Clock) -> None:
        """Connect to nothing yet. Args: the topic has a level {sensor}."""
        subscription = Subscription(
            settings,
            clock,
            topic_filter=settings.topic.replace(SENSOR_LEVEL, "+"),
            messages_max=MESSAGES_MAX_OF_MANY,
        )
        super().__init__(subscription, clock)
        self._level = settings.topic.split("/").index(SENSOR_LEVEL)
        self._feed = SensorFeed(settings)
        self._batches: Iterator[SensorWindows] = iter(())
        self._sequence = 0

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

    def _next_item(self) -> WindowBatch | None:
        batch = next(self._batches, None) or self._feed.take(self._clock.monotonic_s())
        if batch is None:
            return None
        first = self._sequence
        self._sequence += len(batch.sensors)
        at_ms = self._captured_ms(batch.at_s)
        return WindowBatch(batch.samples, batch.sensors, first, at_ms, batch.at_s)

    def _read_message(self, message: Message) -> None:
        levels = message.topic.split("/")
        name = levels[self._level] if self._level < len(levels) else ""
        wall_s = self._clock.now_s() - (self._clock.monotonic_s() - message.at_s)
        self._batches = self._feed.feed(name, message.payload, message.at_s, wall_s=wall_s)

    def _wait_s(self) -> float:
        due_s = self._feed.due_s()
        if due_s is None:
            return STOP_CHECK_S
        return min(STOP_CHECK_S, max(0.0, due_s - self._clock.monotonic_s()))

    def _start_again(self) -> None:
        self._batches = iter(())
        self._feed.cut_all()
