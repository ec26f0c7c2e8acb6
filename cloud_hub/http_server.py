"""HttpServer: one app on several addresses, plain and TLS, on one event loop in one thread."""

import asyncio
import contextlib
import logging
import socket
import threading
from dataclasses import dataclass
from pathlib import Path

import uvicorn
from fastapi import FastAPI

from cloud_hub.config import ListenSettings
from shared.errors import UnavailableError

log = logging.getLogger(__name__)

START_S_MAX = 15.0
STOP_S_MAX = 5.0
BACKLOG_MAX = 512
KEEP_ALIVE_S = 15


@dataclass(frozen=True, slots=True)
class Listener:
    """One address; with TLS where a certificate is named."""

    address: ListenSettings
    certificate_path: Path | None = None
    key_path: Path | None = None


class HttpServer:
    """Owns one thread between `start` and `stop`."""

    def __init__(self, app: FastAPI, listeners: tuple[Listener, ...]) -> None:
        """Bind every address, so that a busy port is known before anything starts.

        Raises UnavailableError `http.listen`.
        """
        self._app = app
        self._sockets = [_bind(listener.address) for listener in listeners]
        self._servers = [_server(app, listener) for listener in listeners]
        self._thread = threading.Thread(target=self._run, name="http", daemon=True)

    @property
    def ports(self) -> tuple[int, ...]:
        """Return the port of each listener."""
        return tuple(int(bound.getsockname()[1]) for bound in self._sockets)

    @property
    def is_alive(self) -> bool:
        """Whether every address is served."""
        return self._thread.is_alive() and all(server.started for server in self._servers)

    def start(self) -> None:
        """Serve; return once every address answers. Raises UnavailableError `http.start`."""
        self._thread.start()
        waiting = threading.Event()
        for _ in range(int(START_S_MAX / 0.01)):
            if all(server.started for server in self._servers):
                return
            if not self._thread.is_alive():
                break
            waiting.wait(0.01)
        raise UnavailableError("http.start", "The HTTP server did not start.")

    def stop(self) -> None:
        """End open requests and the thread."""
        for server in self._servers:
            server.should_exit = True
        self._thread.join(STOP_S_MAX + 1.0)
        for bound in self._sockets:
            bound.close()

    def _run(self) -> None:
        async def serve() -> None:
            await asyncio.gather(
                *(
                    server.serve(sockets=[bound])
                    for server, bound in zip(self._servers, self._sockets, strict=True)
                )
            )

        with contextlib.suppress(KeyboardInterrupt):
            asyncio.run(serve())


def _server(app: FastAPI, listener: Listener) -> uvicorn.Server:
    return uvicorn.Server(
        uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            lifespan="off",
            loop="asyncio",
            server_header=False,
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=int(STOP_S_MAX),
            ssl_certfile=listener.certificate_path,
            ssl_keyfile=listener.key_path,
        )
    )


def _bind(address: ListenSettings) -> socket.socket:
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((address.host, address.port))
        bound.listen(BACKLOG_MAX)
    except OSError as error:
        bound.close()
        raise UnavailableError(
            "http.listen",
            f"Cannot listen on {address.host}:{address.port}: {error.strerror}.",
            remedy="Stop what uses that port, or name another with --http and --https.",
        ) from error
    bound.set_inheritable(False)
    return bound
