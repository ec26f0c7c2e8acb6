"""StreamSource and CameraSource: real streams on loopback that die, freeze and come back."""

import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Protocol

import numpy as np
import pytest

from edge_agent.sources.capture import AWAY, CaptureLoop, CaptureState
from edge_agent.sources.item import Frame
from edge_agent.sources.mailbox import Mailbox, mailbox_for
from edge_agent.sources.opencv_frames import FrameStage
from edge_agent.sources.opencv_live import CameraSource, StreamSource
from shared.clock import SystemClock
from shared.errors import TransientError
from shared.model.spec import ImageInput
from shared.pipeline.frames import FrameSettings
from shared.pipeline.sources import CameraSettings, StreamSettings
from tests.support.http_streams import HttpStream, free_port
from tests.support.mjpeg_server import MjpegServer
from tests.support.rtsp_server import RtspServer
from tests.support.waiting import wait_until

pytestmark = pytest.mark.slow


class Server(Protocol):
    url: str

    def start(self) -> None: ...

    def pause(self) -> None: ...

    def kill(self) -> None: ...


@contextmanager
def capturing(url: str, *, fps_max: float = 0.0) -> Iterator[tuple[CaptureLoop, Mailbox]]:
    settings = StreamSettings(url=url, open_timeout_s=3.0, read_timeout_s=1.5)
    source = StreamSource(settings, SystemClock(), fps_max=fps_max)
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
            wait_until(lambda: loop.status.state in AWAY, seconds_max=30.0)
            assert loop.status.code in ("source.lost", "source.stalled")
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


@pytest.mark.parametrize("kind", ["mpegts", "rtsp"])
def test_a_stream_that_freezes_is_noticed_in_seconds_and_told_as_stalled(kind: str) -> None:
    server: Server = RtspServer() if kind == "rtsp" else HttpStream(kind)
    server.start()
    try:
        with capturing(server.url) as (loop, mailbox):
            wait_until(lambda: mailbox.counts.items_in > 5, seconds_max=30.0)
            server.pause()
            wait_until(lambda: loop.status.state is CaptureState.STALLED, seconds_max=10.0)
            assert loop.status.code == "source.stalled"
            assert "127.0.0.1" in loop.status.detail
            assert "silent for 1.5 s" in loop.status.detail
            server.kill()
    finally:
        server.kill()


def taken(mailbox: Mailbox) -> Frame:
    frame = mailbox.take(5.0)
    assert isinstance(frame, Frame)
    return frame


def test_an_rtsp_stream_that_changes_its_resolution_goes_on() -> None:
    server = RtspServer()
    server.start()
    try:
        with capturing(server.url) as (loop, mailbox):
            wait_until(lambda: mailbox.counts.items_in > 5, seconds_max=30.0)
            lost_before = loop.interruptions_count
            server.resize(320, 240)
            before = mailbox.counts.items_in
            wait_until(lambda: mailbox.counts.items_in > before + 30, seconds_max=20.0)
            assert taken(mailbox).pixels.shape == (120, 160, 3)
            assert loop.interruptions_count == lost_before
            assert loop.status.state is CaptureState.RUNNING
    finally:
        server.kill()


@pytest.fixture
def camera() -> Iterator[MjpegServer]:
    camera = MjpegServer()
    camera.start()
    yield camera
    camera.kill()


def test_an_mjpeg_camera_that_changes_falls_silent_and_comes_back(camera: MjpegServer) -> None:
    with capturing(camera.url) as (loop, mailbox):
        wait_until(lambda: mailbox.counts.items_in > 5, seconds_max=30.0)
        assert taken(mailbox).pixels.shape == (120, 160, 3)
        camera.size = (320, 240)
        before = mailbox.counts.items_in
        wait_until(lambda: mailbox.counts.items_in > before + 10, seconds_max=10.0)
        assert taken(mailbox).pixels.shape == (120, 160, 3)
        assert loop.status.state is CaptureState.RUNNING
        camera.is_silent = True
        wait_until(lambda: loop.status.state is CaptureState.STALLED, seconds_max=10.0)
        camera.is_silent = False
        wait_until(lambda: loop.status.state is CaptureState.RUNNING, seconds_max=30.0)
        assert taken(mailbox).sequence > 10
        wait_until(lambda: taken(mailbox).pixels.shape == (240, 320, 3))  # It was opened anew
        camera.kill()
        wait_until(lambda: loop.status.state is CaptureState.RECONNECTING, seconds_max=10.0)


def test_damaged_frames_are_left_out_and_the_stream_goes_on(camera: MjpegServer) -> None:
    with capturing(camera.url) as (loop, mailbox):
        wait_until(lambda: mailbox.counts.items_in > 5, seconds_max=30.0)
        camera.is_damaged = True
        before = mailbox.counts.items_in
        wait_until(lambda: mailbox.counts.items_in > before + 20, seconds_max=20.0)
        camera.is_damaged = False
        before = mailbox.counts.items_in
        wait_until(lambda: mailbox.counts.items_in > before + 5, seconds_max=20.0)
        assert loop.status.state is CaptureState.RUNNING


def test_a_picture_that_stands_still_is_told_as_frozen(camera: MjpegServer) -> None:
    stage = FrameStage(FrameSettings(frozen_s=0.5), ImageInput(width=64, height=64))

    def is_frozen() -> bool:
        frame = mailbox.take(1.0)
        if isinstance(frame, Frame):
            stage.prepare(frame)
        return stage.is_frozen

    with capturing(camera.url) as (_, mailbox):
        wait_until(lambda: mailbox.counts.items_in > 20, seconds_max=30.0)
        assert not any(is_frozen() for _ in range(10))
        camera.is_still = True
        wait_until(is_frozen, seconds_max=10.0)
        camera.is_still = False
        wait_until(lambda: not is_frozen(), seconds_max=10.0)


def test_a_rate_is_kept_and_what_is_not_due_does_not_count_as_dropped(camera: MjpegServer) -> None:
    times: list[float] = []

    def takes_many() -> bool:
        frame = mailbox.take(1.0)
        if isinstance(frame, Frame):
            times.append(frame.captured_s)
        return len(times) > 12

    with capturing(camera.url, fps_max=5.0) as (_, mailbox):
        wait_until(takes_many, seconds_max=30.0)
        pauses = np.diff(times[2:])
        assert 0.15 < np.median(pauses) < 0.25
        assert mailbox.counts.items_dropped <= 3


def test_frames_of_rtsp_are_captured_when_the_stream_says() -> None:
    server = RtspServer()
    server.start()
    try:
        source = StreamSource(StreamSettings(url=server.url), SystemClock())
        with closing(source):
            source.open()
            stop, times = threading.Event(), []
            while len(times) < 160:  # 8 s at 20 fps: past the proof
                frame = source.read(stop)
                assert frame is not None
                times.append(frame.captured_s)
            assert source.is_on_stream_time
            pauses = np.diff(times[-40:])
            assert np.all(pauses >= 0.0)
            assert np.median(pauses) == pytest.approx(0.05, abs=0.005)
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
