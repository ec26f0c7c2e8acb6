"""Source: what every input promises.

1. `open` brings it up, `read` gives the next item, `close` lets everything go. One thread calls
   all three. `open` may be called again after `close`; sequence numbers go on.
2. `read` waits until an item is due and returns it; None means that the source has ended, or that
   `stop` was set.
3. TransientError means that it may come back: close, wait, open. ContractError means that the
   settings or the file are wrong: it will not.
"""

import threading
from typing import Protocol

from edge_agent.sources.item import Item


class Source(Protocol):
    """Implementations: opencv_*.py, csv_source.py, paho_source.py; the tests' own for faults."""

    @property
    def is_every_item(self) -> bool:
        """Whether every item counts (the source waits) rather than the newest (others drop)."""
        ...

    @property
    def description(self) -> str:
        """Return what it is, for people; never a password."""
        ...

    def open(self) -> None:
        """Bring it up. Raises ContractError or TransientError, see rule 3."""
        ...

    def read(self, stop: threading.Event) -> Item | None:
        """Return the next item; see rules 2 and 3."""
        ...

    def close(self) -> None:
        """Let everything go; harmless when nothing is open."""
        ...
