"""MessageSource: what all sources of messages of a broker near the device have in common.

1. Every item counts, behind the bounded queue of paho_subscription.py. What messages become is
   said by each kind of source: one sensor and texts in paho_source.py, many sensors in
   paho_sensors_source.py.
2. When messages were lost, and when it connects again, it starts again: what was begun with the
   messages before is given up.
3. A lost connection and a silence of `silent_s_max` are TransientErrors: the capture loop connects
   again.
"""

import threading
from abc import ABC, abstractmethod
from collections import deque
from typing import Generic, TypeVar

from edge_agent.sources.item import Item
from edge_agent.sources.paho_subscription import STOP_CHECK_S, Message, Subscription
from shared.clock import Clock, now_ms

ItemT = TypeVar("ItemT", bound=Item)


class MessageSource(ABC, Generic[ItemT]):
    """Implements Source but for what messages become; see the rules above."""

    is_every_item = True

    def __init__(self, subscription: Subscription, clock: Clock) -> None:
        """Connect to nothing yet."""
        self.subscription = subscription
        self._clock = clock
        self._messages: deque[Message] = deque()

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
        self._begin_again()
        self.subscription.open()

    def read(self, stop: threading.Event) -> ItemT | None:
        """Return the next item. Raises TransientError `source.lost`."""
        while not stop.is_set():
            item = self._next_item()
            if item is not None:
                return item
            if self._messages:
                self._read_message(self._messages.popleft())
                continue
            taken = self.subscription.take(self._wait_s())
            if taken is None:
                self._begin_again()
            else:
                self._messages.extend(taken)
        return None

    def close(self) -> None:
        """Disconnect."""
        self.subscription.close()

    @abstractmethod
    def _next_item(self) -> ItemT | None:
        """Return the next item of the messages that were read; None if there is none."""

    @abstractmethod
    def _read_message(self, message: Message) -> None:
        """Take in the next message. What cannot be read is counted and left out."""

    @abstractmethod
    def _start_again(self) -> None:
        """Give up what was begun; see rule 2."""

    def _wait_s(self) -> float:
        """Return how long the next message is waited for at most."""
        return STOP_CHECK_S

    def _begin_again(self) -> None:
        self._messages.clear()
        self._start_again()

    def _captured_ms(self, at_s: float) -> int:
        """Return the wall-clock time of a monotonic one."""
        return now_ms(self._clock) - round((self._clock.monotonic_s() - at_s) * 1000.0)
