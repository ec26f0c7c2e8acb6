"""Listeners: the SuperLink's two TLS addresses, which follow the hub's certificate when it changes.

How they are served is uvicorn_servers.py's business.
"""

import logging
import socket
import ssl
from pathlib import Path

from starlette.types import ASGIApp

from cloud_hub import uvicorn_servers
from cloud_hub.uvicorn_patience import PatientServer
from cloud_hub.uvicorn_servers import Limits, UvicornServers

log = logging.getLogger(__name__)

STOP_S_MAX = 3.0


class Listeners:
    """Owns one thread between `start` and `stop`."""

    def __init__(self, certificate_path: Path, key_path: Path, *, connections_max: int) -> None:
        self._certificate_path, self._key_path = certificate_path, key_path
        self._connections_max = connections_max
        self._all = UvicornServers("superlink", stop_s_max=STOP_S_MAX)
        self._servers: list[PatientServer] = []
        self._stamp = self._read_stamp()

    def add(self, app: ASGIApp, bound: socket.socket, *, is_open: bool) -> None:
        """Serve `app` on a bound socket; `is_open`: strangers reach it.

        Raises UnavailableError `superlink.certificate`.
        """
        strangers_max = self._connections_max // 2 if is_open else None
        server = self._all.add(
            app,
            bound,
            limits=Limits(self._connections_max, strangers_max),
            certificate_path=self._certificate_path,
            key_path=self._key_path,
        )
        self._servers.append(server)

    @property
    def is_alive(self) -> bool:
        """Whether both addresses are served."""
        return self._all.is_alive

    def start(self) -> None:
        """Return once every address answers. Raises UnavailableError `superlink.start`."""
        self._all.start()

    def renew(self) -> None:
        """Use the certificate for new connections if it is another one by now."""
        stamp = self._read_stamp()
        if stamp == self._stamp:
            return
        try:
            for server in self._servers:
                assert isinstance(server.config.ssl, ssl.SSLContext)
                server.config.ssl.load_cert_chain(self._certificate_path, self._key_path)
        except OSError as error:  # Half of the pair is new: tried again at the next call
            log.warning("superlink.certificate", extra={"text": str(error)})
            return
        self._stamp = stamp
        log.info("superlink.certificate_renewed")

    def stop(self) -> None:
        """End open requests, for STOP_S_MAX at most, and the thread."""
        self._all.stop()

    def _read_stamp(self) -> tuple[int, int] | None:
        try:
            stats = [path.stat() for path in (self._certificate_path, self._key_path)]
        except OSError:
            return None
        return stats[0].st_mtime_ns, stats[1].st_mtime_ns


def bind(host: str, port: int) -> socket.socket:
    """Return a listening socket; port 0 is any. Raises UnavailableError `superlink.listen`."""
    return uvicorn_servers.bind(
        host,
        port,
        code="superlink.listen",
        remedy="Stop what uses that port, or name another in [learning].",
    )
