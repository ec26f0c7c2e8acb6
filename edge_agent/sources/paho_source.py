"""MqttSource and MqttTextSource: messages of a broker near the device as windows and as texts.

1. What both share is in paho_messages.py.
2. One sensor: a message that cannot be read is counted and left out; it cuts the window. So does a
   pause above the window's `gap_s_max`. When messages were lost the window starts again.
3. Rows are made of a message one after another, as they are taken: resampled, a small message may
   be of millions.
4. A text is one payload in UTF-8; one that is not, is empty or is longer than `text_bytes_max` is
   counted and left out.
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge_agent.sources.item import TextItem, Window
from edge_agent.sources.paho_messages import MessageSource
from edge_agent.sources.paho_subscription import Message, Subscription
from edge_agent.sources.readings import Readings, read_payload
from edge_agent.sources.resampling import Resampler
from edge_agent.sources.texts import to_text
from edge_agent.sources.windowing import RollingWindow
from shared.clock import Clock
from shared.errors import ContractError
from shared.pipeline.sources import MqttSettings, MqttTextSettings

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Row:
    """One row, and when the message with it came."""

    values: NDArray[np.float32]  # (C,)
    at_s: float


class MqttSource(MessageSource[Window]):
    """Implements Source for one sensor; see the rules above."""

    def __init__(self, settings: MqttSettings, clock: Clock) -> None:
        """Connect to nothing yet."""
        super().__init__(Subscription(settings, clock, topic_filter=settings.topic), clock)
        self._settings = settings
        self._window = RollingWindow(settings.window, channels_count=settings.channels)
        self._resampler = None
        if settings.resample is not None:
            self._resampler = Resampler(settings.resample, channels_count=settings.channels)
        self._rows: Iterator[_Row | None] = iter(())  # Of the last message; None: a cut
        self._last_message_s = 0.0
        self._sequence = 0
        self.bad_messages_count = 0

    def open(self) -> None:
        """Connect and subscribe. Raises TransientError `source.lost` or ContractError."""
        super().open()
        self._last_message_s = self._clock.monotonic_s()

    def _next_item(self) -> Window | None:
        for row in self._rows:
            if row is None:
                self._window.cut()
                continue
            samples = self._window.push(row.values)
            if samples is not None:
                self._sequence += 1
                at_ms = self._captured_ms(row.at_s)
                return Window(samples, self._sequence - 1, at_ms, row.at_s)
        return None

    def _read_message(self, message: Message) -> None:
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
        self._rows = self._rows_of(readings, message.at_s)

    def _rows_of(self, readings: Readings, at_s: float) -> Iterator[_Row | None]:
        if self._resampler is None:
            yield from (_Row(row, at_s) for row in readings.rows)
            return
        wall_s = self._clock.now_s() - (self._clock.monotonic_s() - at_s)
        for index, row in enumerate(readings.rows):
            time_s = wall_s if readings.times_s is None else float(readings.times_s[index])
            resampled = self._resampler.push(time_s, row)
            if resampled.is_cut:
                yield None
            yield from (_Row(made, at_s) for made in resampled.rows)

    def _cut(self) -> None:
        self._window.cut()
        if self._resampler is not None:
            self._resampler.cut()

    def _start_again(self) -> None:
        self._rows = iter(())
        self._cut()


class MqttTextSource(MessageSource[TextItem]):
    """Implements Source for short messages; see the rules above."""

    def __init__(self, settings: MqttTextSettings, clock: Clock) -> None:
        """Connect to nothing yet."""
        super().__init__(Subscription(settings, clock, topic_filter=settings.topic), clock)
        self._bytes_max = settings.text_bytes_max
        self._item: TextItem | None = None
        self._sequence = 0
        self.bad_messages_count = 0

    def _next_item(self) -> TextItem | None:
        item, self._item = self._item, None
        return item

    def _read_message(self, message: Message) -> None:
        text = to_text(message.payload, bytes_max=self._bytes_max)
        if text is None:
            self._note_bad()
            return
        at_ms = self._captured_ms(message.at_s)
        self._item = TextItem(text, self._sequence, at_ms, message.at_s)
        self._sequence += 1

    def _note_bad(self) -> None:
        if not self.bad_messages_count:
            log.warning("source.payload", extra={"detail": "No text in UTF-8, or too long."})
        self.bad_messages_count += 1

    def _start_again(self) -> None:
        """Nothing is begun with a text that the next would go on with."""
