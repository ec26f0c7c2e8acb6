"""An HTTP server that takes what a webhook sends, and answers as it is told."""

import json
import ssl
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.support.pki import Pki


@dataclass
class Receiver:
    """What came, and what is answered: the next of `answers`, and 204 after them."""

    url: str = ""
    answers: list[tuple[int, Mapping[str, str]]] = field(default_factory=list)
    headers: list[Mapping[str, str]] = field(default_factory=list)
    bodies: list[dict[str, Any]] = field(default_factory=list)
    taken: list[int] = field(default_factory=list)  # Items that were answered with 2xx
    is_silent: bool = False
    is_closing: bool = False  # Lets go of each connection after one answer, without a word
    closed_count: int = 0  # Connections that it let go of
    is_talking: bool = False  # Its answers never end
    hold: threading.Event = field(default_factory=threading.Event)  # Ends the silence

    def take(self, headers: Mapping[str, str], body: bytes) -> tuple[int, Mapping[str, str]]:
        self.headers.append(dict(headers))
        self.bodies.append(json.loads(body))
        answer = self.answers.pop(0) if self.answers else (204, {})
        if 200 <= answer[0] < 300:
            self.taken.append(self.bodies[-1]["decision"]["item"])
        return answer


@contextmanager
def receive(port: int = 0, *, pki: Pki | None = None) -> Iterator[Receiver]:
    receiver = Receiver()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if receiver.is_silent:
                receiver.hold.wait(10)
                self.close_connection = True
                return
            status, headers = receiver.take(dict(self.headers), body)
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            if receiver.is_talking:
                self.end_headers()
                self._talk()
                return
            self.send_header("Content-Length", "0")
            self.end_headers()
            self.close_connection = receiver.is_closing

        def _talk(self) -> None:
            self.close_connection = True
            with suppress(OSError):
                while not receiver.hold.wait(0.02):
                    self.wfile.write(b".")

        def log_message(self, *args: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        def shutdown_request(self, request: Any) -> None:
            super().shutdown_request(request)
            receiver.closed_count += 1

    server = Server(("127.0.0.1", port), Handler)
    server.daemon_threads = True
    scheme = "http"
    if pki is not None:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(pki.folder / "server.crt", pki.folder / "server.key")
        server.socket = tls.wrap_socket(server.socket, server_side=True)
        scheme = "https"
    receiver.url = f"{scheme}://127.0.0.1:{server.server_address[1]}/hook?from=gate"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield receiver
    finally:
        receiver.hold.set()
        server.shutdown()
        thread.join(5)
        server.server_close()
