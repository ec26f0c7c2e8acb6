"""A TCP relay that stands for a bad network: it can be cut, frozen, slow, late, and damage bytes.

What the weather is holds from now on and for every connection, also those that are open.
"""

import contextlib
import random
import select
import socket
import threading
import time
from collections import deque
from dataclasses import dataclass

CHUNK_BYTES = 2048
WAITING_CHUNKS_MAX = 64  # In one direction; more stays with the sender, as in a real network
POLL_S = 0.02
HOST = "127.0.0.1"


@dataclass(frozen=True)
class Weather:
    """What becomes of bytes."""

    is_frozen: bool = False  # They are taken, and go nowhere
    delay_s: float = 0.0
    bytes_per_s: float = 0.0  # In each direction; 0 for no limit
    damaged_share: float = 0.0  # Of chunks, of which one bit is changed
    is_ending: bool = False  # Whoever sends anything is hung up on: TLS meets the end of file


class TcpProxy:
    """Listens on `port` and relays to `to_port` until closed."""

    def __init__(self, to_port: int, *, host: str = HOST, port: int = 0) -> None:
        """Args: host, port: where it listens; 0: any port."""
        self.bytes_down = 0  # Passed on to those who connected
        self.damaged_count = 0
        self.weather = Weather()
        self._to_port = to_port
        self._random = random.Random(7)
        self._listener = socket.create_server((host, port))
        self._listener.settimeout(POLL_S)
        self.port = int(self._listener.getsockname()[1])
        self._cut = threading.Event()  # Replaced by each cut
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def set(
        self,
        *,
        is_frozen: bool = False,
        delay_s: float = 0.0,
        bytes_per_s: float = 0.0,
        damaged_share: float = 0.0,
        is_ending: bool = False,
    ) -> None:
        """Change the weather; what is not named is fine."""
        self.weather = Weather(is_frozen, delay_s, bytes_per_s, damaged_share, is_ending)

    def cut(self) -> None:
        """Reset every connection that is open."""
        cut, self._cut = self._cut, threading.Event()
        cut.set()

    def close(self) -> None:
        """End everything."""
        self._stop.set()
        self.cut()
        for thread in self._threads:
            thread.join()
        self._listener.close()

    def _accept(self) -> None:
        while not self._stop.is_set():
            try:
                near, _ = self._listener.accept()
            except TimeoutError:
                continue
            thread = threading.Thread(target=self._serve, args=(near, self._cut))
            self._threads.append(thread)
            thread.start()

    def _serve(self, near: socket.socket, cut: threading.Event) -> None:
        with near, contextlib.suppress(OSError):
            far = socket.create_connection((HOST, self._to_port))
            for each in (near, far):  # What is relayed goes at once, as it did before
                each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with far:
                _Connection(self, near, far).run(cut, self._stop)
                if self.weather.is_ending:
                    near.shutdown(socket.SHUT_WR)
                    return
                for each in (near, far):  # Closed with a reset, whoever ended it.
                    each.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")

    def damage(self, data: bytes) -> bytes:
        """Return what arrives of a chunk."""
        if self._random.random() >= self.weather.damaged_share:
            return data
        self.damaged_count += 1
        place = self._random.randrange(len(data))
        return data[:place] + bytes([data[place] ^ 0x10]) + data[place + 1 :]


class _Connection:
    """Both directions of one connection."""

    def __init__(self, proxy: TcpProxy, near: socket.socket, far: socket.socket) -> None:
        self._proxy = proxy
        self._ways = (_Way(near, far, is_down=False), _Way(far, near, is_down=True))

    def run(self, cut: threading.Event, stop: threading.Event) -> None:
        """Relay until either side ends or it is cut. Raises OSError."""
        while not cut.is_set() and not stop.is_set():
            if any(way.is_ended and not way.waiting for way in self._ways):
                return
            readers = {way.source: way for way in self._ways if way.has_room}
            is_busy = any(way.waiting for way in self._ways)
            for source in select.select(list(readers), [], [], POLL_S / 4 if is_busy else POLL_S)[
                0
            ]:
                self._read(readers[source])
            if self._proxy.weather.is_ending and self._ways[0].waiting:
                return
            for way in self._ways:
                self._pass_on(way)

    def _read(self, way: "_Way") -> None:
        data = way.source.recv(CHUNK_BYTES)
        if not data:
            way.is_ended = True
        elif not self._proxy.weather.is_frozen:
            due_s = time.monotonic() + self._proxy.weather.delay_s
            way.waiting.append((due_s, self._proxy.damage(data)))

    def _pass_on(self, way: "_Way") -> None:
        weather = self._proxy.weather
        if weather.is_frozen:
            way.waiting.clear()
        while way.waiting and max(way.waiting[0][0], way.free_s) <= time.monotonic():
            _, data = way.waiting.popleft()
            way.sink.sendall(data)
            if way.is_down:
                self._proxy.bytes_down += len(data)
            if weather.bytes_per_s:
                way.free_s = max(way.free_s, time.monotonic() - POLL_S)
                way.free_s += len(data) / weather.bytes_per_s


class _Way:
    """One direction."""

    def __init__(self, source: socket.socket, sink: socket.socket, *, is_down: bool) -> None:
        self.source, self.sink, self.is_down = source, sink, is_down
        self.waiting: deque[tuple[float, bytes]] = deque()  # (when it is due, bytes)
        self.free_s = 0.0  # When the next chunk may go
        self.is_ended = False

    @property
    def has_room(self) -> bool:
        return not self.is_ended and len(self.waiting) < WAITING_CHUNKS_MAX
