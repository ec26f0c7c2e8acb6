"""HttpServer: one app on several addresses, plain and TLS, on one event loop in one thread."""

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from fastapi import FastAPI

from cloud_hub.config import ListenSettings
from cloud_hub.uvicorn_servers import Limits, UvicornServers, bind

STOP_S_MAX = 5.0
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
        self._servers = UvicornServers("http", stop_s_max=STOP_S_MAX)
        with ExitStack() as bound:
            self._sockets = [
                bound.enter_context(
                    bind(
                        listener.address.host,
                        listener.address.port,
                        code="http.listen",
                        remedy="Stop what uses that port, or name another with --http and --https.",
                    )
                )
                for listener in listeners
            ]
            bound.pop_all()

    @property
    def ports(self) -> tuple[int, ...]:
        """Return the port of each listener."""
        return tuple(int(bound.getsockname()[1]) for bound in self._sockets)

    @property
    def is_alive(self) -> bool:
        """Whether every address is served."""
        return self._servers.is_alive

    def start(self, app: FastAPI) -> None:
        """Serve `app`; return once every address answers.

        Raises UnavailableError `http.certificate` or `http.start`.
        """
        for listener, bound in zip(self._listeners, self._sockets, strict=True):
            # The plain listener is for this machine, and for a proxy through which everybody comes.
            is_open = listener.certificate_path is not None
            strangers_max = STRANGERS_PER_ADDRESS_MAX if is_open else None
            self._servers.add(
                app,
                bound,
                limits=Limits(CONNECTIONS_MAX, strangers_max),
                certificate_path=listener.certificate_path,
                key_path=listener.key_path,
            )
        self._servers.start()

    def stop(self) -> None:
        """End open requests and the thread, if it was started. A second call does nothing."""
        self._servers.stop()
        for bound in self._sockets:
            bound.close()
