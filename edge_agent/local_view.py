"""LocalView: what people beside the device are served: the live view and the metrics.

Each only where the owner's file wants it. A port that is in use ends nothing: it is logged, and
`edge-agent status` says so.
"""

import logging
from collections.abc import Callable
from pathlib import Path

from edge_agent.config import AgentConfig
from edge_agent.http_metrics import MetricsServer
from edge_agent.local_servers import LIVE, METRICS, LocalServer
from edge_agent.sinks.file_live_token import live_token_path, load_live_token
from edge_agent.sinks.http_live import LiveServer
from edge_agent.sinks.live_feeds import LiveFeeds
from edge_agent.sinks.opening import LiveView
from edge_agent.telemetry.numbers import AgentNumbers
from shared.errors import RefusedError

log = logging.getLogger(__name__)


class LocalView:
    """See above. `start` once, `stop` once."""

    def __init__(
        self, config: AgentConfig, folder: Path, numbers: Callable[[], AgentNumbers | None]
    ) -> None:
        """Bind the ports; nothing is served yet.

        Args: folder: where the live view's token is kept; numbers: those of now, for the metrics.
        """
        self._config = config
        self.servers: tuple[LocalServer, ...] = ()
        self._metrics = self._open_metrics(numbers)
        self._server, self.live = self._open_live(folder)

    def start(self) -> None:
        """Begin to serve; returns at once."""
        for server in (self._metrics, self._server):
            if server is not None:
                server.start()

    def stop(self) -> None:
        """Close the ports."""
        for server in (self._server, self._metrics):
            if server is not None:
                server.stop()

    def _open_metrics(self, numbers: Callable[[], AgentNumbers | None]) -> MetricsServer | None:
        if self._config.metrics is None:
            self._note(METRICS)
            return None
        try:
            server = MetricsServer(self._config.metrics, numbers)
        except RefusedError as error:
            log.error("metrics.unavailable", extra={"code": error.code, "text": str(error)})
            self._note(METRICS, trouble=str(error))
            return None
        self._note(METRICS, url=server.url)
        return server

    def _open_live(self, folder: Path) -> tuple[LiveServer | None, LiveView | None]:
        settings = self._config.live
        if settings is None:
            self._note(LIVE)
            return None, None
        feeds = LiveFeeds()
        try:
            token = load_live_token(settings.token_file, folder=folder)
            server = LiveServer(settings, feeds, token=token)
        except RefusedError as error:
            log.error("live.unavailable", extra={"code": error.code, "text": str(error)})
            self._note(LIVE, trouble=str(error))
            return None, None
        token_path = live_token_path(settings.token_file, folder=folder)
        self._note(LIVE, url=server.url, token_path=str(token_path.absolute()))
        return server, LiveView(settings, feeds)

    def _note(self, name: str, *, url: str = "", token_path: str = "", trouble: str = "") -> None:
        server = LocalServer(name=name, url=url, token_path=token_path, trouble=trouble)
        self.servers = (*self.servers, server)
