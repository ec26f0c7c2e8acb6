"""Listeners: two apps on two TLS addresses, on one event loop in one thread, within limits.

What is served is not its business; how patient it is and who may connect is uvicorn_patience.py's.
"""

import asyncio
import logging
import socket
import ssl
import threading
from contextlib import suppress
from pathlib import Path

import uvicorn
from starlette.types import ASGIApp

from cloud_hub.uvicorn_patience import HEAD_BYTES_MAX, PatientProtocol, PatientServer
from shared.errors import UnavailableError

log = logging.getLogger(__name__)

BACKLOG_MAX = 512
KEEP_ALIVE_S = 15
START_S_MAX = 15.0
STOP_S_MAX = 3.0


class Listeners:
    """Owns one thread between `start` and `stop`."""

    def __init__(self, certificate_path: Path, key_path: Path, *, connections_max: int) -> None:
        self._certificate_path, self._key_path = certificate_path, key_path
        self._connections_max = connections_max
        self._servers: list[tuple[PatientServer, socket.socket]] = []
        self._stamp = self._read_stamp()
        self._thread = threading.Thread(target=self._run, name="http", daemon=True)

    def add(self, app: ASGIApp, bound: socket.socket, *, is_open: bool) -> None:
        """Serve `app` on a bound socket; `is_open`: strangers reach it.

        Raises UnavailableError `superlink.certificate`.
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
            timeout_graceful_shutdown=int(STOP_S_MAX),
            ssl_certfile=self._certificate_path,
            ssl_keyfile=self._key_path,
        )
        try:
            config.load()
        except OSError as error:  # ssl.SSLError is one
            raise UnavailableError(
                "superlink.certificate",
                f"Cannot use the certificate {self._certificate_path}: {error}.",
                remedy="Remove it and its key; the hub makes new ones when it starts.",
            ) from error
        server = PatientServer(
            config,
            connections_max=self._connections_max,
            strangers_max=self._connections_max // 2 if is_open else None,
        )
        self._servers.append((server, bound))

    @property
    def is_alive(self) -> bool:
        """Whether both addresses are served."""
        return self._thread.is_alive() and all(server.started for server, _ in self._servers)

    def start(self) -> None:
        """Return once every address answers. Raises UnavailableError `superlink.start`."""
        logging.getLogger("uvicorn.error").setLevel(logging.ERROR)  # What strangers send
        self._thread.start()
        waiting = threading.Event()
        for _ in range(int(START_S_MAX / 0.01)):
            if self.is_alive:
                return
            waiting.wait(0.01)
        raise UnavailableError("superlink.start", "The SuperLink does not answer.")

    def renew(self) -> None:
        """Use the certificate for new connections if it is another one by now."""
        stamp = self._read_stamp()
        if stamp == self._stamp:
            return
        try:
            for server, _ in self._servers:
                assert isinstance(server.config.ssl, ssl.SSLContext)
                server.config.ssl.load_cert_chain(self._certificate_path, self._key_path)
        except OSError as error:  # Half of the pair is new: tried again at the next call
            log.warning("superlink.certificate", extra={"text": str(error)})
            return
        self._stamp = stamp
        log.info("superlink.certificate_renewed")

    def stop(self) -> None:
        """End open requests, for STOP_S_MAX at most, and the thread."""
        logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
        for server, _ in self._servers:
            server.should_exit = True
        if self._thread.is_alive():
            self._thread.join(STOP_S_MAX + 1.0)

    def _read_stamp(self) -> tuple[int, int] | None:
        try:
            stats = [path.stat() for path in (self._certificate_path, self._key_path)]
        except OSError:
            return None
        return stats[0].st_mtime_ns, stats[1].st_mtime_ns

    def _run(self) -> None:
        async def serve() -> None:
            await asyncio.gather(*(s.serve(sockets=[bound]) for s, bound in self._servers))

        with suppress(KeyboardInterrupt):
            asyncio.run(serve())


def bind(host: str, port: int) -> socket.socket:
    """Return a listening socket; port 0 is any. Raises UnavailableError `superlink.listen`."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((host, port))
        bound.listen(BACKLOG_MAX)
    except OSError as error:
        bound.close()
        raise UnavailableError(
            "superlink.listen",
            f"Cannot listen on {host}:{port}: {error.strerror}.",
            remedy="Stop what uses that port, or name another in [learning].",
        ) from error
    return bound
