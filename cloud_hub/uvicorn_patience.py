"""Uvicorn within limits: how long a client may take, and who accepts its connections.

1. A request's head must be whole HEAD_S_MAX after the connection is made or the last request was
   answered, in HEAD_BYTES_MAX; its body must come at BODY_BYTES_PER_S_MIN at least. Uvicorn alone
   waits for ever, so that anybody could hold every connection that the hub has.
2. Who was answered before the whole body came (too large, not allowed) has LINGER_S to read that.
3. Connections come in through a Door (tcp_door.py). They speak HTTP/1.1, no websockets; where
   there is TLS, it is 1.2 or newer, without renegotiation.
"""

import asyncio
import ssl
from asyncio.base_events import Server as AsyncioServer
from collections.abc import Callable
from socket import socket
from typing import Any, cast

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from cloud_hub.tcp_door import Door, Guest

HEAD_S_MAX = 15.0
HEAD_BYTES_MAX = 32 * 1024
BODY_BYTES_PER_S_MIN = 16 * 1024
LINGER_S = 2.0
HANDSHAKE_S_MAX = 5.0
CLOSE_S_MAX = 3.0
STOP_S_MAX = 2.0


class PatientProtocol(H11Protocol):
    """One connection whose client may take its time, but not for ever."""

    def __init__(self, *arguments: Any, **options: Any) -> None:  # noqa: ANN401  (uvicorn's own)
        super().__init__(*arguments, **options)
        self.lost = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._awaited: object = None  # What the timer is for: h11's state of the client

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's
        """Begin to wait for a request."""
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        """Take what came, and see what is still to come."""
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        """Wait for the next request, or for the rest of a body that nobody reads."""
        super().on_response_complete()
        if self.conn.their_state is h11.SEND_BODY:
            self._set_timer(LINGER_S)
        else:
            self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """End."""
        self._cancel_timer()
        super().connection_lost(exc)
        self.lost.set()

    def _watch(self) -> None:
        """Give the client time for what it owes us, once for each thing that it owes."""
        owed = self.conn.their_state
        if owed is self._awaited or self.transport.is_closing():
            return
        self._cancel_timer()
        self._awaited = owed
        if owed is h11.IDLE:
            self._set_timer(HEAD_S_MAX)
        elif owed is h11.SEND_BODY:
            self._set_timer(HEAD_S_MAX + self._body_bytes() / BODY_BYTES_PER_S_MIN)

    def _body_bytes(self) -> int:
        lengths = [value for name, value in self.headers if name == b"content-length"]
        return int(lengths[0]) if lengths else 0  # h11 has checked that it is a number

    def _set_timer(self, seconds: float) -> None:
        self._cancel_timer()
        self._timer = self.loop.call_later(seconds, self.transport.abort)

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class PatientServer(uvicorn.Server):
    """Serves one listener through a Door."""

    def __init__(
        self, config: uvicorn.Config, *, connections_max: int, strangers_max: int | None
    ) -> None:
        """Args: see Door. `config` must name PatientProtocol."""
        super().__init__(config)
        self.refused_count = 0
        self._connections_max, self._strangers_max = connections_max, strangers_max

    async def startup(self, sockets: list[socket] | None = None) -> None:
        """Open the doors in place of uvicorn's own asyncio servers."""
        await self.lifespan.startup()
        if self.config.ssl is not None:
            self.config.ssl.minimum_version = ssl.TLSVersion.TLSv1_2
            self.config.ssl.options |= ssl.OP_NO_RENEGOTIATION
        doors = []
        for listener in sockets or []:
            listener.setblocking(False)
            door = Door(
                listener,
                self._greet,
                connections_max=self._connections_max,
                strangers_max=self._strangers_max,
                on_refused=self._count_refused,
            )
            door.open()
            doors.append(_DoorServer(door))
        self.servers = cast("list[AsyncioServer]", doors)
        self.started = True

    async def _greet(self, connection: socket, _guest: Guest) -> None:
        loop = asyncio.get_running_loop()
        tls: ssl.SSLContext | None = self.config.ssl
        seconds = {"ssl_handshake_timeout": HANDSHAKE_S_MAX, "ssl_shutdown_timeout": CLOSE_S_MAX}
        try:
            transport, protocol = await loop.connect_accepted_socket(
                self._make_protocol, connection, ssl=tls, **(seconds if tls else {})
            )
        except OSError:  # No TLS, or gone meanwhile
            self.refused_count += 1
            connection.close()
            return
        try:
            await protocol.lost.wait()
        finally:
            transport.abort()

    def _make_protocol(self) -> PatientProtocol:
        return PatientProtocol(
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )

    def _count_refused(self, _reason: str, _who: str) -> None:
        self.refused_count += 1


class _DoorServer:
    """A Door as uvicorn expects a server of asyncio's."""

    def __init__(self, door: Door) -> None:
        self.close: Callable[[], None] = door.close
        self._door = door

    async def wait_closed(self) -> None:
        """Return once nobody is left."""
        await self._door.empty(seconds_max=STOP_S_MAX)
