"""LiveFeeds: what the live view can show, by pipeline. Feeds come and go while it serves."""

import threading
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from edge_agent.decisions.decision import ItemResult


@dataclass(frozen=True, slots=True)
class LivePicture:
    """One picture of a pipeline."""

    jpeg: bytes
    number: int  # Rises with each


class Feed(Protocol):
    """One pipeline, as a viewer sees it. Called by viewers' threads."""

    @property
    def latest(self) -> ItemResult | None:
        """What was decided last; None: nothing yet."""
        ...

    @property
    def has_pictures(self) -> bool:
        """Whether its items are frames."""
        ...

    def watching(self) -> AbstractContextManager[None]:
        """Return a context in which pictures are made."""
        ...

    def next_picture(self, after: int, *, wait_s: float) -> LivePicture | None:
        """Return a picture later than number `after`, or None after `wait_s`. While `watching`."""
        ...


class LiveFeeds:
    """Thread-safe."""

    def __init__(self) -> None:
        """Begin without any."""
        self._feeds: dict[str, Feed] = {}
        self._lock = threading.Lock()

    def add(self, pipeline: str, feed: Feed) -> None:
        """Show `pipeline` by `feed`, from now on."""
        with self._lock:
            self._feeds[pipeline] = feed

    def remove(self, pipeline: str, feed: Feed) -> None:
        """Show `pipeline` no more, unless another feed has taken its place."""
        with self._lock:
            if self._feeds.get(pipeline) is feed:
                del self._feeds[pipeline]

    def all(self) -> dict[str, Feed]:
        """Return the feeds by pipeline, in order of names."""
        with self._lock:
            return dict(sorted(self._feeds.items()))
