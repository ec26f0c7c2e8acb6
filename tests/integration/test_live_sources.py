"""StreamSource and CameraSource: real streams on loopback that die, freeze and come back."""

import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Protocol

import pytest

from edge_agent.sources.capture import CaptureLoop, CaptureState
from edge_agent.sources.mailbox import Mailbox, mailbox_for
from edge_agent.sources.opencv_live import CameraSource, StreamSource
from edge_agent.sources.settings import CameraSettings, StreamSettings
from shared.clock import SystemClock
from shared.errors import TransientError
from tests.support.http_streams import HttpStream, free_port
from tests.support.rtsp_server import RtspServer
from tests.support.waiting import wait_until

pytestmark = pytest.mark.slow


class Server(Protocol):
    url: str

    def start(self) -> None: ...

    def kill(self) -> None: ...


@contextmanager
def capturing(url: str) -> Iterator[tuple[CaptureLoop, Mailbox]]:
    settings = StreamSettings(url=url, open_timeout_s=3.0, read_timeout_s=1.5)
    source = StreamSource(settings, SystemClock())
    mailbox, stop = mailbox_for(source, SystemClock()), threading.Event()
    loop = CaptureLoop(source, mailbox, SystemClock())
    thread = threading.Thread(target=loop.run, args=(stop,))
    thread.start()
    try:
        yield loop, mailbox
    finally:
        stop.set()
        thread.join(20.0)
        assert not thread.is_alive()


def check_it_comes_back(server: Server) -> None:
    server.start()
    try:
        with capturing(server.url) as (loop, mailbox):
            wait_until(lambda: mailbox.counts.items_in > 5, seconds_max=30.0)
            assert loop.status.state is CaptureState.RUNNING
            frame = mailbox.take()
            assert frame is not None
            assert frame.pixels.shape == (120, 160, 3)  # type: ignore[union-attr]
            lost_before = loop.interruptions_count  # It may not have listened yet at first
            server.kill()
            wait_until(lambda: loop.status.state is CaptureState.RECONNECTING, seconds_max=30.0)
            assert loop.status.code == "source.lost"
            before = mailbox.counts.items_in
            server.start()
            wait_until(lambda: mailbox.counts.items_in > before + 5, seconds_max=60.0)
            assert loop.status.state is CaptureState.RUNNING
            assert loop.interruptions_count == lost_before + 1
            after = mailbox.take()
            assert after is not None
            assert after.sequence > frame.sequence
    finally:
        server.kill()


@pytest.mark.parametrize("kind", ["mpegts", "mjpeg"])
def test_an_http_stream_that_is_killed_comes_back(kind: str) -> None:
    check_it_comes_back(HttpStream(kind))


def test_an_rtsp_stream_that_is_killed_comes_back() -> None:
    check_it_comes_back(RtspServer())


def test_a_stream_that_freezes_is_noticed() -> None:
    server = HttpStream("mpegts")
    server.start()
    try:
        with capturing(server.url) as (loop, mailbox):
            wait_until(lambda: mailbox.counts.items_in > 5, seconds_max=30.0)
            server.pause()
            wait_until(lambda: loop.status.state is CaptureState.RECONNECTING, seconds_max=20.0)
            assert "No frame comes from the stream http://127.0.0.1" in loop.status.detail
            server.kill()
    finally:
        server.kill()


def test_a_slow_taker_gets_the_newest_frame() -> None:
    server = HttpStream("mpegts")
    server.start()
    try:
        with capturing(server.url) as (_, mailbox):
            wait_until(lambda: mailbox.counts.items_in > 10, seconds_max=30.0)
            frame = mailbox.take()
            assert frame is not None
            assert frame.sequence >= 10
            assert mailbox.counts.items_dropped >= 10
    finally:
        server.kill()


def test_nobody_there_is_a_lost_source() -> None:
    settings = StreamSettings(url=f"http://127.0.0.1:{free_port()}/live", open_timeout_s=1.0)
    with (
        closing(StreamSource(settings, SystemClock())) as source,
        pytest.raises(TransientError, match="Cannot open the stream") as caught,
    ):
        source.open()
    assert caught.value.code == "source.lost"


def test_a_camera_that_is_not_there_is_a_lost_source() -> None:
    device = next(n for n in range(200, 256) if not Path(f"/dev/video{n}").exists())
    with (
        closing(CameraSource(CameraSettings(device=device), SystemClock())) as source,
        pytest.raises(TransientError, match=f"Cannot open camera {device}"),
    ):
        source.open()
