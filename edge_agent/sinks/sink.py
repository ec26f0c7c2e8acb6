"""Sink and FrameSink: who listens to a pipeline. Called in its order of items, one at a time.

1. Neither waits: what takes longer than a copy goes into a bounded queue of the sink's own thread.
2. Neither raises for the world's faults: a full disk or a lost broker costs what was to be told,
   counted, never an item.
3. A FrameSink sees the item as well; it keeps no pixels that it has not copied.
"""

from typing import Protocol, runtime_checkable

from edge_agent.decisions.decision import ItemResult
from edge_agent.sources.item import Item


class Sink(Protocol):
    """Wants to know what was decided."""

    def __call__(self, result: ItemResult) -> None:
        """Take one result; see the rules above."""
        ...


class FrameSink(Protocol):
    """Wants to see it."""

    def __call__(self, result: ItemResult, item: Item) -> None:
        """Take one result and its item; see the rules above."""
        ...


@runtime_checkable
class Starting(Protocol):
    """A sink with a thread of its own."""

    def start(self) -> None:
        """Start the thread; returns at once."""
        ...


@runtime_checkable
class Closing(Protocol):
    """A sink that holds something open."""

    def close(self) -> None:
        """Tell what is left, within a few seconds, and let everything go."""
        ...


@runtime_checkable
class Forgetting(Protocol):
    """A sink whose traces elsewhere can be taken away."""

    def forget(self) -> None:
        """Take away what it left elsewhere, when it is closed: the pipeline is gone for good."""
        ...


@runtime_checkable
class Counting(Protocol):
    """A sink that can say how it stands."""

    @property
    def lost_count(self) -> int:
        """How much that was to be told was lost, since the start."""
        ...

    @property
    def standing(self) -> str:
        """Why it cannot do its work just now, for people; empty: it can."""
        ...
