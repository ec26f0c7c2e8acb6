"""Door: takes TCP connections in for a server, within limits that a stranger cannot use up.

1. At most `connections_max` are held, those in their handshake included; more are closed unread.
2. Of these at most `strangers_max` come from one address and were not admitted (`Guest.admit`), so
   that one machine cannot keep everybody else out. An IPv6 address counts by its first 64 bits:
   whoever has one has all that begin like it.
3. When the system has no more sockets it waits for a moment instead of trying at once.

What must not live here: what is said on a connection.
"""

import asyncio
import contextlib
import functools
import ipaddress
import resource
import socket
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any

ACCEPT_PAUSE_S = 0.1
OPEN_FILES_WANTED = 16_384
_IPV6_PREFIX_BITS = 64
FULL, CROWDED, NO_SOCKETS = "full", "crowded", "no_sockets"

Greet = Callable[[socket.socket, "Guest"], Coroutine[Any, Any, None]]


class Guest:
    """One connection, a stranger until it is admitted."""

    def __init__(self, strangers: Counter[str], network: str) -> None:
        self._strangers, self._network = strangers, network
        self._is_stranger = True
        strangers[network] += 1

    def admit(self) -> None:
        """Say that it is known who this is."""
        if self._is_stranger:
            self._is_stranger = False
            self._strangers[self._network] -= 1
            if not self._strangers[self._network]:
                del self._strangers[self._network]


class Door:
    """See the rules above. Belongs to one event loop."""

    def __init__(
        self,
        listener: socket.socket,
        greet: Greet,
        *,
        connections_max: int,
        strangers_max: int | None,
        on_refused: Callable[[str, str], None],
    ) -> None:
        """Args: see below.

        greet: serves one connection to its end, and closes it.
        strangers_max: None for a listener that only trusted programs reach.
        on_refused: told the reason (FULL, CROWDED or NO_SOCKETS) and who it was.
        """
        self._listener, self._greet = listener, greet
        self._connections_max, self._strangers_max = connections_max, strangers_max
        self._on_refused = on_refused
        self._strangers: Counter[str] = Counter()
        self._tasks: set[asyncio.Task[None]] = set()
        self._accepting: asyncio.Task[None] | None = None

    def open(self) -> None:
        """Begin to accept."""
        self._accepting = asyncio.create_task(self._accept())

    def close(self) -> None:
        """Accept nobody any more; who is in stays."""
        if self._accepting is not None:
            self._accepting.cancel()

    async def empty(self, *, seconds_max: float) -> None:
        """End every connection, and wait until all have ended."""
        for task in list(self._tasks):
            task.cancel()
        ending = {*self._tasks, *([self._accepting] if self._accepting else [])}
        if ending:
            await asyncio.wait(ending, timeout=seconds_max)

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, address = await loop.sock_accept(self._listener)
            except OSError as error:  # Out of sockets, or the peer went away meanwhile
                self._on_refused(NO_SOCKETS, str(error))
                await asyncio.sleep(ACCEPT_PAUSE_S)
                continue
            host = str(address[0])
            network = network_of(host)
            reason = self._reason_against(network)
            if reason:
                self._on_refused(reason, host)
                connection.close()
                continue
            with contextlib.suppress(OSError):
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            guest = Guest(self._strangers, network)
            task = asyncio.create_task(self._greet(connection, guest))
            self._tasks.add(task)
            task.add_done_callback(functools.partial(self._leave, guest))

    def _reason_against(self, network: str) -> str:
        """Return why one more from `network` is too many, or ""."""
        if len(self._tasks) >= self._connections_max:
            return FULL
        strangers_count = self._strangers.get(network, 0)
        if self._strangers_max is not None and strangers_count >= self._strangers_max:
            return CROWDED
        return ""

    def _leave(self, guest: Guest, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        guest.admit()
        if not task.cancelled():
            error = task.exception()
            if error is not None:
                asyncio.get_running_loop().call_exception_handler(
                    {"message": "A connection's task failed.", "exception": error, "task": task}
                )


def network_of(host: str) -> str:
    """Return what connections from `host` are counted by: rule 2."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        return str(ipaddress.IPv6Network((address, _IPV6_PREFIX_BITS), strict=False))
    return host


def raise_open_files_limit() -> int:
    """Let this process hold up to OPEN_FILES_WANTED files if the system allows; return how many."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    is_unlimited = hard == resource.RLIM_INFINITY
    wanted = OPEN_FILES_WANTED if is_unlimited else min(OPEN_FILES_WANTED, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        return wanted
    return soft
