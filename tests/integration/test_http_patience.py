"""How long the hub's HTTP side waits for whom, and how many it holds: real sockets, real TLS."""

import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI, Request

from cloud_hub.config import ListenSettings
from cloud_hub.http_server import HttpServer, Listener
from cloud_hub.uvicorn_patience import HEAD_BYTES_MAX
from tests.support.pki import Pki
from tests.support.waiting import wait_until

pytestmark = pytest.mark.slow
HOST = "127.0.0.1"
PATIENCE = "cloud_hub.uvicorn_patience"
PLAIN, TLS = 0, 1
GET = b"GET /hello HTTP/1.1\r\nHost: hub\r\n\r\n"
POST = b"POST /size HTTP/1.1\r\nHost: hub\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n"


def make_app() -> FastAPI:
    app = FastAPI()

    @app.get("/hello")
    def hello() -> str:
        return "hello"

    @app.get("/late")
    def late() -> str:
        threading.Event().wait(0.8)  # Work, longer than the patience of these tests
        return "late"

    @app.post("/size")
    async def size(request: Request) -> int:
        return len(await request.body())

    @app.post("/refused")
    async def refused() -> str:
        return "not even read"

    return app


@pytest.fixture
def pki(tmp_path: Path) -> Pki:
    pki = Pki(tmp_path / "pki")
    pki.issue("server", is_server=True)
    return pki


@pytest.fixture
def server(
    pki: Pki, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Iterator[HttpServer]:
    monkeypatch.setattr("cloud_hub.http_server.STRANGERS_PER_ADDRESS_MAX", 5)
    monkeypatch.setattr(f"{PATIENCE}.HEAD_S_MAX", 0.4)
    monkeypatch.setattr(f"{PATIENCE}.HANDSHAKE_S_MAX", 0.4)
    monkeypatch.setattr(f"{PATIENCE}.LINGER_S", 0.3)
    address = ListenSettings(host=HOST, port=0)
    paths = {"certificate_path": pki.folder / "server.crt", "key_path": pki.folder / "server.key"}
    made = HttpServer((Listener(address), Listener(address, **paths)))
    made.start(make_app())
    yield made
    made.stop()


def plain(server: HttpServer, *, source: str = HOST) -> socket.socket:
    port = server.ports[PLAIN]
    return socket.create_connection((HOST, port), timeout=10, source_address=(source, 0))


def tls(server: HttpServer, *, source: str = HOST) -> ssl.SSLSocket:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    stream = socket.create_connection(
        (HOST, server.ports[TLS]), timeout=10, source_address=(source, 0)
    )
    return context.wrap_socket(stream, server_hostname="hub")


def is_closed(stream: socket.socket) -> bool:
    """Return whether the hub hangs up, having said nothing."""
    try:
        return stream.recv(1) == b""
    except TimeoutError:
        return False
    except OSError:
        return True


def answer(stream: socket.socket, request: bytes) -> bytes:
    stream.sendall(request)
    data = b""
    with contextlib.suppress(OSError):
        while b"\r\n\r\n" not in data and (more := stream.recv(4096)):
            data += more
    return data.split(b"\r\n", 1)[0]


@pytest.mark.parametrize("sent", [b"", b"GET /hello HTTP/1.1\r\nHo"], ids=["nothing", "half"])
@pytest.mark.parametrize("connect", [plain, tls], ids=["plain", "tls"])
def test_a_head_that_never_comes_is_cut_in_time(
    server: HttpServer, connect: Any, sent: bytes
) -> None:
    with connect(server) as stream:
        stream.sendall(sent)
        assert is_closed(stream)


def test_a_handshake_that_never_comes_is_cut_in_time(server: HttpServer) -> None:
    port = server.ports[TLS]
    with socket.create_connection((HOST, port), timeout=10) as stream:
        assert is_closed(stream)


def test_a_second_request_that_never_ends_is_cut_in_time(server: HttpServer) -> None:
    with plain(server) as stream:
        assert answer(stream, GET) == b"HTTP/1.1 200 OK"
        stream.settimeout(0.05)
        with contextlib.suppress(TimeoutError):
            stream.recv(4096)
        stream.settimeout(10)
        stream.sendall(b"GET /hel")
        assert is_closed(stream)


def test_a_body_that_drips_is_cut_in_time(
    server: HttpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"{PATIENCE}.BODY_BYTES_PER_S_MIN", 1000)
    with plain(server) as stream:
        stream.sendall(POST % 200)
        started_s = time.monotonic()
        stream.settimeout(0.02)
        with contextlib.suppress(OSError):
            for _ in range(190):  # Whole after 4 s
                stream.sendall(b"x")
                with contextlib.suppress(TimeoutError):
                    if not stream.recv(1):
                        break
        assert time.monotonic() - started_s < 2.0


def test_a_body_that_nobody_reads_does_not_hold_the_connection(server: HttpServer) -> None:
    request = (POST % 100_000_000).replace(b"/size", b"/refused")
    with plain(server) as stream:
        assert answer(stream, request) == b"HTTP/1.1 200 OK"
        wait_until(lambda: _is_cut(stream), seconds_max=2.0)


def _is_cut(stream: socket.socket) -> bool:
    stream.settimeout(0.05)
    try:
        stream.sendall(b"x")
        return stream.recv(4096) == b""
    except TimeoutError:
        return False
    except OSError:
        return True


def test_who_does_its_part_may_wait_long_for_the_answer(server: HttpServer) -> None:
    with plain(server) as stream:
        assert answer(stream, GET.replace(b"hello", b"late")) == b"HTTP/1.1 200 OK"


def test_a_large_body_in_good_time_is_taken(server: HttpServer) -> None:
    with tls(server) as stream:
        body = bytes(4_000_000)
        assert answer(stream, POST % len(body) + body) == b"HTTP/1.1 200 OK"


def test_an_endless_head_is_refused(server: HttpServer) -> None:
    with plain(server) as stream:
        endless = b"GET /hello HTTP/1.1\r\nX: " + b"x" * (4 * HEAD_BYTES_MAX)
        assert answer(stream, endless) in (b"HTTP/1.1 400 Bad Request", b"")


def test_one_address_cannot_take_every_connection(server: HttpServer) -> None:
    crowd = [socket.create_connection((HOST, server.ports[TLS])) for _ in range(5)]
    try:
        assert not _answers(server)
        with tls(server, source="127.0.0.2") as other:
            assert answer(other, GET) == b"HTTP/1.1 200 OK"
        with plain(server) as own:
            assert answer(own, GET) == b"HTTP/1.1 200 OK"
    finally:
        for stream in crowd:
            stream.close()
    wait_until(lambda: _answers(server))


def _answers(server: HttpServer) -> bool:
    try:
        with tls(server) as stream:
            return answer(stream, GET) == b"HTTP/1.1 200 OK"
    except OSError:
        return False


def test_stopping_does_not_wait_for_who_says_nothing(server: HttpServer) -> None:
    with plain(server), tls(server):
        started_s = time.monotonic()
        server.stop()
        assert time.monotonic() - started_s < 4.0
    assert not server.is_alive
