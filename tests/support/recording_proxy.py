"""A relay that ends TLS on both sides and keeps, in plain text, all that devices send.

It shows the hub's own certificate, and where the hub asks for a device's it shows the device's:
neither side notices. Both are read from their state folders.
"""

import contextlib
import re
import select
import socket
import ssl
import threading
from pathlib import Path

HOST = "127.0.0.1"
CHUNK_BYTES = 64 * 1024
POLL_S = 0.1
SEND_S_MAX = 10.0
REQUEST_LINE = re.compile(rb"((?:GET|POST|PUT|PATCH|DELETE|HEAD) /\S*) HTTP/1\.1\r\n")


def client_side(
    ca: Path, certificate: Path | None = None, key: Path | None = None
) -> ssl.SSLContext:
    """Return how to speak to the hub, as a device with a certificate where one is given."""
    context = ssl.create_default_context(cafile=str(ca))
    if certificate is not None:
        context.load_cert_chain(certificate, key)
    return context


def server_side(certificate: Path, key: Path) -> ssl.SSLContext:
    """Return how to speak to devices as the hub."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    return context


class RecordingProxy:
    """Listens on `host`:`port`, relays to 127.0.0.1:`to_port`, until closed."""

    def __init__(
        self, to_port: int, *, near: ssl.SSLContext, far: ssl.SSLContext, host: str, port: int
    ) -> None:
        """Args: near: towards devices. far: towards the hub."""
        self._to_port, self._near, self._far = to_port, near, far
        self._sent: list[bytearray] = []  # A connection each, in order of time
        self._stop = threading.Event()
        self._listener = socket.create_server((host, port))
        self._listener.settimeout(POLL_S)
        self.port = int(self._listener.getsockname()[1])
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def sent(self) -> list[bytes]:
        """Return what devices have sent so far, a connection each."""
        return [bytes(each) for each in list(self._sent)]

    def requests(self) -> list[str]:
        """Return the requests among what was sent, each as "METHOD /path"."""
        return [found.decode() for stream in self.sent() for found in REQUEST_LINE.findall(stream)]

    def close(self) -> None:
        """End everything."""
        self._stop.set()
        for thread in self._threads:
            thread.join()
        self._listener.close()

    def _accept(self) -> None:
        while not self._stop.is_set():
            with contextlib.suppress(TimeoutError):
                plain, _ = self._listener.accept()
                thread = threading.Thread(target=self._serve, args=(plain,))
                self._threads.append(thread)
                thread.start()

    def _serve(self, plain: socket.socket) -> None:
        plain.settimeout(SEND_S_MAX)
        with contextlib.suppress(OSError), self._near.wrap_socket(plain, server_side=True) as near:
            raw = socket.create_connection((HOST, self._to_port))
            for each in (near, raw):  # What is relayed goes at once, as it did before
                each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._far.wrap_socket(raw, server_hostname=HOST) as far:
                self._relay(near, far)

    def _relay(self, near: ssl.SSLSocket, far: ssl.SSLSocket) -> None:
        """Pass on what comes, written down before it goes, until either side ends.

        Both directions in one thread: a TLS connection is not two threads' to share.
        """
        record = bytearray()
        self._sent.append(record)
        others = {near: far, far: near}
        while not self._stop.is_set():
            for source in select.select(list(others), [], [], POLL_S)[0]:
                data = _received(source)
                if data is None:
                    return
                if source is near:
                    record += data
                others[source].settimeout(SEND_S_MAX)
                others[source].sendall(data)


def _received(source: ssl.SSLSocket) -> bytes | None:
    """Return what is there by now; None: the other side ended."""
    data = b""
    source.settimeout(0.0)
    try:
        while part := source.recv(CHUNK_BYTES):
            data += part
    except (ssl.SSLWantReadError, BlockingIOError):
        return data
    return data or None
