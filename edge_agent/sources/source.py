"""Source: what every input promises.

1. `open` brings it up, `read` gives the next item, `close` lets everything go. One thread calls
   all three. `open` may be called again after `close`; sequence numbers go on.
2. `read` waits until an item is due and returns it; None means that the source has ended, or that
   `stop` was set.
3. A LiveSource can tell that an item is there without making it (a camera's frame is received and
   decoded in any case; converting and copying it is the part that can be spared).
4. TransientError means that it may come back: close, wait, open. ContractError means that the
   settings or the file are wrong: it will not.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from edge_agent.sources.item import Item


class Source(Protocol):
    """Implementations: those in opening.py; the tests' own for faults."""

    @property
    def is_every_item(self) -> bool:
        """Whether every item counts (the source waits) rather than the newest (others drop)."""
        ...

    @property
    def description(self) -> str:
        """Return what it is, for people; never a password."""
        ...

    def open(self) -> None:
        """Bring it up. Raises ContractError or TransientError, see rule 4."""
        ...

    def read(self, stop: threading.Event) -> Item | None:
        """Return the next item; see rules 2 and 4."""
        ...

    def close(self) -> None:
        """Let everything go; harmless when nothing is open."""
        ...


@runtime_checkable
class LiveSource(Source, Protocol):
    """A source that spares what nobody wants; see rule 3. Implementations: opencv_live.py."""

    def read_wanted(self, stop: threading.Event, is_wanted: Callable[[], bool]) -> Item | None:
        """Return the next item of which `is_wanted` says so; it is asked once for each.

        An item that is not wanted has its sequence number all the same. See rules 2 and 4.
        """
        ...


@runtime_checkable
class CountingSource(Source, Protocol):
    """A source of messages, some of which may be worth nothing: paho_, modbus_, file_lines.py."""

    @property
    def lost_messages_count(self) -> int:
        """Return how many were lost since it was made: a queue ran over, say."""
        ...

    @property
    def bad_messages_count(self) -> int:
        """Return how many could not be read."""
        ...


@dataclass(frozen=True, slots=True)
class Resized:
    """How often a source's pictures changed their size."""

    count: int = 0  # Since it was made
    size: str = ""  # What it is since the last time: "640x480"


@runtime_checkable
class ResizingSource(Source, Protocol):
    """A source whose pictures may change their size while it is open: opencv_live.py."""

    @property
    def resized(self) -> Resized:
        """Return how often that happened."""
        ...
