"""HttpServer: one app on several addresses, plain and TLS, on one event loop in one thread."""

import asyncio
import logging
import socket
import threading
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

import uvicorn
from fastapi import FastAPI

from cloud_hub.config import ListenSettings
from cloud_hub.uvicorn_patience import HEAD_BYTES_MAX, PatientProtocol, PatientServer
from shared.errors import UnavailableError

log = logging.getLogger(__name__)

START_S_MAX = 15.0
STOP_S_MAX = 5.0
BACKLOG_MAX = 512
KEEP_ALIVE_S = 15
CONNECTIONS_MAX = 512  # Of each listener
STRANGERS_PER_ADDRESS_MAX = 128  # With TLS; nobody is anything but a stranger here


@dataclass(frozen=True, slots=True)
class Listener:
    """One address; with TLS where a certificate is named."""

    address: ListenSettings
    certificate_path: Path | None = None
    key_path: Path | None = None


class HttpServer:
    """Owns one thread between `start` and `stop`."""

    def __init__(self, listeners: tuple[Listener, ...]) -> None:
        """Bind every address, so that its port, or that it is busy, is known before all starts.

        Raises UnavailableError `http.listen`.
        """
        self._listeners = listeners
        self._servers: list[PatientServer] = []
        with ExitStack() as bound:
            self._sockets = [bound.enter_context(_bind(listener.address)) for listener in listeners]
            bound.pop_all()
        self._thread = threading.Thread(target=self._run, name="http", daemon=True)

    @property
    def ports(self) -> tuple[int, ...]:
        """Return the port of each listener."""
        return tuple(int(bound.getsockname()[1]) for bound in self._sockets)

    @property
    def is_alive(self) -> bool:
        """Whether every address is served."""
        return self._thread.is_alive() and all(server.started for server in self._servers)

    def start(self, app: FastAPI) -> None:
        """Serve `app`; return once every address answers.

        Raises UnavailableError `http.certificate` or `http.start`.
        """
        self._servers = [_server(app, listener) for listener in self._listeners]
        # Its warnings are about what strangers send, one for each time that they do.
        logging.getLogger("uvicorn.error").setLevel(logging.ERROR)
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
        """End open requests and the thread, if it was started. A second call does nothing."""
        # A request that does not end in time is cut; uvicorn calls that an exception in the app.
        logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
        for server in self._servers:
            server.should_exit = True
        if self._thread.is_alive():
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

        with suppress(KeyboardInterrupt):
            asyncio.run(serve())


def _server(app: FastAPI, listener: Listener) -> PatientServer:
    # The plain listener is for this machine, and for a proxy through which everybody comes.
    is_open = listener.certificate_path is not None
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
        timeout_graceful_shutdown=int(STOP_S_MAX),
        ssl_certfile=listener.certificate_path,
        ssl_keyfile=listener.key_path,
    )
    try:
        config.load()  # Here, not in the thread where nobody would hear of it
    except OSError as error:  # ssl.SSLError is one
        raise UnavailableError(
            "http.certificate",
            f"Cannot use the certificate {listener.certificate_path}: {error.strerror or error}.",
            remedy="Remove it and its key; the hub makes new ones when it starts.",
        ) from error
    return PatientServer(
        config,
        connections_max=CONNECTIONS_MAX,
        strangers_max=STRANGERS_PER_ADDRESS_MAX if is_open else None,
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
