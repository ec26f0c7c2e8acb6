"""Live: one stream that says what changed, never what it changed to; pages fetch that themselves.

1. One poller for all subscribers looks at the hub once a period, and only while somebody listens.
2. What changed waits per subscriber as a set: a slow one gets fewer messages, not a longer queue.
3. A stream opens once the poller knows how things stand. A page that then fetches its parts misses
   nothing: what was before is in them, what comes after is told.
4. A stream ends after `live_stream_s_max`, with its poller, or when the hub closes; the browser
   comes back by itself and is told to refresh everything.
"""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import suppress

from fastapi import APIRouter, Request
from fastapi.responses import StreamingResponse
from starlette.concurrency import run_in_threadpool

from cloud_hub.api.bodies import errors
from cloud_hub.api.settings import ApiSettings
from shared.errors import IsthmusError, TransientError

log = logging.getLogger(__name__)

KEEP_ALIVE_S = 15.0
RETRY_MS = 2000

Observe = Callable[[], Mapping[str, object]]  # Topic of the stream to anything comparable


class Subscriber:
    """One listener: what changed since it last looked. Belongs to the event loop."""

    def __init__(self) -> None:
        self._changed: set[str] = set()
        self._wake = asyncio.Event()
        self.is_closed = False

    def tell(self, changed: set[str]) -> None:
        """Add to what it has not seen yet."""
        self._changed |= changed
        self._wake.set()

    def close(self) -> None:
        """End its stream."""
        self.is_closed = True
        self._wake.set()

    async def next_changes(self, *, seconds_max: float) -> list[str]:
        """Return what changed, waiting for it; empty if nothing did in that time."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._wake.wait(), seconds_max)
        self._wake.clear()
        changed, self._changed = sorted(self._changed), set()
        return changed


class Live:
    """The shared poller and its subscribers. Belongs to the event loop, except `close`."""

    def __init__(self, observe: Observe, *, settings: ApiSettings) -> None:
        """Args: `observe` blocks; it is called in a thread."""
        self._observe = observe
        self._settings = settings
        self._subscribers: set[Subscriber] = set()
        self._poller: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._has_looked = asyncio.Event()  # The poller of now knows how things stand
        self._is_closed = False

    def close(self) -> None:
        """End every stream, from any thread: open streams would hold up the server's stop."""
        self._is_closed = True
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._end_streams)

    @property
    def subscribers_count(self) -> int:
        """Return how many listen."""
        return len(self._subscribers)

    def subscribe(self) -> Subscriber:
        """Return a new subscriber. Raises TransientError `live.full`."""
        if self._is_closed or len(self._subscribers) >= self._settings.live_subscribers_max:
            raise TransientError(
                "live.full",
                "No more live streams can be opened.",
                remedy="Close other dashboard tabs, or raise api.live_subscribers_max.",
            )
        subscriber = Subscriber()
        self._subscribers.add(subscriber)
        self._loop = asyncio.get_running_loop()
        if self._poller is None or self._poller.done():
            self._has_looked.clear()
            self._poller = self._loop.create_task(self._poll())
        return subscriber

    async def stream(self, subscriber: Subscriber) -> AsyncIterator[bytes]:
        """Return the bytes of one stream, until it ends."""
        loop = asyncio.get_running_loop()
        ends_s = loop.time() + self._settings.live_stream_s_max
        try:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._has_looked.wait(), KEEP_ALIVE_S)
            yield f"retry: {RETRY_MS}\nevent: hello\ndata: {{}}\n\n".encode()
            while not subscriber.is_closed and (left_s := ends_s - loop.time()) > 0:
                changed = await subscriber.next_changes(seconds_max=min(KEEP_ALIVE_S, left_s))
                if changed:
                    yield f"data: {json.dumps({'changed': changed})}\n\n".encode()
                else:
                    yield b": still here\n\n"
        finally:
            self._subscribers.discard(subscriber)

    async def _poll(self) -> None:
        seen: Mapping[str, object] | None = None
        try:
            while self._subscribers and not self._is_closed:
                seen = await self._look(seen)
                await asyncio.sleep(self._settings.live_period_s)
        finally:
            self._end_streams()  # If the poller dies, nobody may wait for it in vain.

    async def _look(self, seen: Mapping[str, object] | None) -> Mapping[str, object] | None:
        try:
            now = await run_in_threadpool(self._observe)
        except IsthmusError as error:
            log.warning("live.unobserved", extra={"code": error.code})
            return seen
        self._has_looked.set()
        if seen is not None:
            changed = {
                topic for topic in now.keys() | seen.keys() if now.get(topic) != seen.get(topic)
            }
            if changed:
                for subscriber in self._subscribers:
                    subscriber.tell(changed)
        return now

    def _end_streams(self) -> None:
        for subscriber in tuple(self._subscribers):
            subscriber.close()


routes = APIRouter(prefix="/api/v1/live", tags=["Live"])


@routes.get(
    "",
    summary="What changes, as it changes",
    response_class=StreamingResponse,
    responses={
        **errors(),
        200: {"content": {"text/event-stream": {"example": 'data: {"changed": ["fleet"]}\n\n'}}},
    },
)
async def live(request: Request) -> StreamingResponse:
    """Server-sent events naming what changed.

    "fleet", "device:<id>", "rollouts", "rollout:<id>", "jobs", "job:<id>", "releases", "audit". At
    most one message a second. `async def`, because a stream would otherwise hold a thread.
    """
    source: Live = request.app.state.live
    subscriber = source.subscribe()
    return StreamingResponse(source.stream(subscriber), media_type="text/event-stream")
