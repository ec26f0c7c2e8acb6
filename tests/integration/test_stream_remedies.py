"""What a person is told of a stream that cannot be opened, by what its server answers."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from edge_agent.sources.opencv_live import StreamSource
from edge_agent.sources.socket_remedy import USUAL, stream_remedy
from shared.clock import SystemClock
from shared.errors import TransientError
from shared.pipeline.sources import StreamSettings
from tests.support.http_streams import free_port


@contextmanager
def answering(status: str) -> Iterator[tuple[int, list[bytes]]]:
    """A server that gives every question the same status, and what it was asked."""
    asked: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    asked.append(connection.recv(4096))
                    connection.sendall(f"{status}\r\n\r\n".encode())

        thread = threading.Thread(target=serve)
        thread.start()
        yield server.getsockname()[1], asked
        server.shutdown(socket.SHUT_RDWR)
        thread.join(10)
    assert not thread.is_alive()


@pytest.mark.parametrize(
    ("user", "status", "said"),
    [
        ("", "RTSP/1.0 401 Unauthorized", "write them into the address"),
        ("me:pass%40word@", "RTSP/1.0 401 Unauthorized", "check those in the address"),
        ("", "RTSP/1.0 404 Not Found", "no stream at /live"),
        ("", "RTSP/1.0 453 Not Enough Bandwidth", "It answers 453."),
        ("", "RTSP/1.0 200 OK", "codec"),
        ("", "nonsense", USUAL),
    ],
)
def test_what_the_server_answers_is_told_and_no_password_sent_or_said(
    user: str, status: str, said: str
) -> None:
    with answering(status) as (port, asked):
        remedy = stream_remedy(f"rtsp://{user}127.0.0.1:{port}/live?key=hidden")
    assert said in remedy
    assert f"DESCRIBE rtsp://127.0.0.1:{port}/live".encode() in asked[0]
    assert b"pass" not in asked[0]
    assert "pass%40word" not in remedy
    assert "hidden" not in remedy


def test_a_camera_page_that_wants_a_password_is_told_too() -> None:
    with answering("HTTP/1.1 401 Unauthorized") as (port, asked):
        assert "USER:PASSWORD@" in stream_remedy(f"http://127.0.0.1:{port}/video")
    assert asked[0].startswith(b"GET /video HTTP/1.0\r\n")


def test_a_wrong_port_a_wrong_name_and_an_unreadable_address_are_told_apart() -> None:
    port = free_port()
    assert f"nothing answers on port {port}" in stream_remedy(f"rtsp://127.0.0.1:{port}/live")
    assert "no host of the name" in stream_remedy("rtsp://camera.invalid/live")
    assert "%40" in stream_remedy("rtsp://me:pa/ss@127.0.0.1/live")
    assert stream_remedy("udp://127.0.0.1") == USUAL


@pytest.mark.slow
def test_the_source_says_so() -> None:
    with answering("RTSP/1.0 401 Unauthorized") as (port, _):
        settings = StreamSettings(url=f"rtsp://me:wrong@127.0.0.1:{port}/live", open_timeout_s=2)
        source = StreamSource(settings, SystemClock())
        with pytest.raises(TransientError) as caught:
            source.open()
    assert "check those in the address" in caught.value.remedy
    assert "wrong" not in caught.value.remedy
