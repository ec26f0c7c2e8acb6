"""UvicornServers: apps on bound addresses, on one event loop in one thread, within limits.

What is served and where is not its business, nor who may connect: that is uvicorn_patience.py's.
The hub's API (http_server.py) and the SuperLink (training/superlink_listeners.py) stand on it.
"""

import asyncio
import logging
import socket
import threading
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import uvicorn
from starlette.types import ASGIApp

from cloud_hub.uvicorn_patience import HEAD_BYTES_MAX, PatientProtocol, PatientServer
from shared.errors import UnavailableError

START_S_MAX = 15.0
START_POLL_S = 0.01
BACKLOG_MAX = 512
KEEP_ALIVE_S = 15


@dataclass(frozen=True, slots=True)
class Limits:
    """How many may be connected to one address at a time."""

    connections_max: int
    strangers_max: int | None = None  # Of one address, unproven; None: nobody is a stranger


class UvicornServers:
    """Owns one thread between `start` and `stop`."""

    def __init__(self, name: str, *, stop_s_max: float) -> None:
        """Args: name: whose they are, in errors' codes. stop_s_max: from stop until cut off."""
        self._name, self._stop_s_max = name, stop_s_max
        self._servers: list[tuple[PatientServer, socket.socket]] = []
        self._thread = threading.Thread(target=self._run, name="http", daemon=True)

    def add(
        self,
        app: ASGIApp,
        bound: socket.socket,
        *,
        limits: Limits,
        certificate_path: Path | None = None,
        key_path: Path | None = None,
    ) -> PatientServer:
        """Serve `app` on a bound socket once started; with TLS where a certificate is named.

        Raises UnavailableError `….certificate`.
        """
        config = uvicorn.Config(
            app,
            http=PatientProtocol,
            ws="none",
            h11_max_incomplete_event_size=HEAD_BYTES_MAX,
            log_config=None,
            access_log=False,
            lifespan="off",
            loop="asyncio",
            server_header=False,
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=int(self._stop_s_max),
            ssl_certfile=certificate_path,
            ssl_keyfile=key_path,
        )
        try:
            config.load()  # Here, not in the thread where nobody would hear of it
        except OSError as error:  # ssl.SSLError is one
            raise UnavailableError(
                f"{self._name}.certificate",
                f"Cannot use the certificate {certificate_path}: {error.strerror or error}.",
                remedy="Remove it and its key; the hub makes new ones when it starts.",
            ) from error
        server = PatientServer(
            config, connections_max=limits.connections_max, strangers_max=limits.strangers_max
        )
        self._servers.append((server, bound))
        return server

    @property
    def is_alive(self) -> bool:
        """Whether every address is served."""
        return self._thread.is_alive() and all(server.started for server, _ in self._servers)

    def start(self) -> None:
        """Return once every address answers. Raises UnavailableError `….start`."""
        # Its warnings are about what strangers send, one for each time that they do.
        logging.getLogger("uvicorn.error").setLevel(logging.ERROR)
        self._thread.start()
        waiting = threading.Event()
        for _ in range(int(START_S_MAX / START_POLL_S)):
            if self.is_alive:
                return
            if not self._thread.is_alive():
                break
            waiting.wait(START_POLL_S)
        raise UnavailableError(f"{self._name}.start", "The HTTP server did not start.")

    def stop(self) -> None:
        """End open requests and the thread, if it was started. A second call does nothing."""
        # A request that does not end in time is cut; uvicorn calls that an exception in the app.
        logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
        for server, _ in self._servers:
            server.should_exit = True
        if self._thread.is_alive():
            self._thread.join(self._stop_s_max + 1.0)

    def _run(self) -> None:
        async def serve() -> None:
            await asyncio.gather(*(s.serve(sockets=[bound]) for s, bound in self._servers))

        with suppress(KeyboardInterrupt):
            asyncio.run(serve())


def bind(host: str, port: int, *, code: str, remedy: str) -> socket.socket:
    """Return a listening socket; port 0 is any. Raises UnavailableError with `code`."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((host, port))
        bound.listen(BACKLOG_MAX)
    except OSError as error:
        bound.close()
        raise UnavailableError(
            code, f"Cannot listen on {host}:{port}: {error.strerror}.", remedy=remedy
        ) from error
    return bound
