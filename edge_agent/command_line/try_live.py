"""TryLive: what a try sees, in a browser: the view that [live] gives the pipelines of an agent.

1. On loopback, with a token of its own for each try: whoever has the printed address may look.
2. It ends with the try. Nothing is kept.
"""

import secrets
from types import TracebackType
from typing import Self

from edge_agent.decisions.decision import Decision
from edge_agent.inference.item_runner import ItemRun
from edge_agent.sinks.file_live_token import TOKEN_BYTES
from edge_agent.sinks.http_live import LiveServer
from edge_agent.sinks.live_feeds import LiveFeeds
from edge_agent.sinks.live_settings import LiveSettings
from edge_agent.sinks.opencv_viewing import ViewedFrames
from edge_agent.sinks.opening import LiveView
from edge_agent.sources.item import Item
from shared.clock import Clock

PIPELINE = "try"
FPS_MAX = 15.0  # For one viewer on this machine


class TryLive:
    """Serves between `with` and its end."""

    def __init__(self, port: int, *, clock: Clock) -> None:
        """Bind the port, 0: any free one. Raises RefusedError `live.port`."""
        settings, feeds = LiveSettings(port=port, fps_max=FPS_MAX), LiveFeeds()
        self.view = LiveView(settings, feeds)
        token = secrets.token_urlsafe(TOKEN_BYTES)
        self._server = LiveServer(settings, feeds, token=token)
        self._frames: ViewedFrames | None = None  # Made with the first item that is shown
        self._clock = clock
        self.address = f"{self._server.url}?token={token}"

    def __enter__(self) -> Self:
        """Begin to serve."""
        self._server.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End every stream and close the port."""
        if self._frames is not None:
            self._frames.close()
        self._server.stop()

    def show(self, item: Item, run: ItemRun, *, model: str) -> None:
        """Show what was concluded from an item, as the pipeline "try"."""
        if self._frames is None:
            self._frames = self._open_frames()
        decision = Decision(
            pipeline=PIPELINE,
            model=model,
            version=0,
            item=item.sequence,
            captured_ms=item.captured_ms,
            outcome=run.conclusion.outcome,
            confidence=run.conclusion.confidence,
            latency_ms=(self._clock.monotonic_s() - item.captured_s) * 1000.0,
            inference_ms=run.inference_ms,
        )
        self._frames(decision, item)

    def _open_frames(self) -> ViewedFrames:
        view = self.view
        frames = ViewedFrames(view.settings, view.feeds, pipeline=PIPELINE, clock=self._clock)
        frames.start()
        return frames
