"""StreamSource and CameraSource: real streams on loopback that die, freeze and come back."""

import logging
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Protocol

import numpy as np
import pytest

from edge_agent.sources.capture import AWAY, CaptureLoop, CaptureState, CaptureStatus
from edge_agent.sources.item import Frame
from edge_agent.sources.mailbox import Mailbox, mailbox_for
from edge_agent.sources.opencv_frames import FrameStage
from edge_agent.sources.opencv_live import CameraSource, StreamSource, camera_remedy
from edge_agent.sources.source import Resized
from shared.clock import SystemClock
from shared.errors import TransientError
from shared.model.spec import ImageInput
from shared.pipeline.frames import FrameSettings
from shared.pipeline.sources import CameraSettings, StreamSettings
from tests.support.http_streams import HttpStream, free_port
from tests.support.manual_clock import ManualClock
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
def capturing(
    url: str, *, fps_max: float = 0.0, size_check_s: float = 600.0
) -> Iterator[tuple[CaptureLoop, Mailbox]]:
    settings = StreamSettings(
        url=url, open_timeout_s=3.0, read_timeout_s=1.5, size_check_s=size_check_s
    )
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


def shows(mailbox: Mailbox, width: int, height: int) -> bool:
    frame = mailbox.take(1.0)
    return isinstance(frame, Frame) and frame.pixels.shape == (height, width, 3)


def test_an_rtsp_stream_that_changes_its_resolution_goes_on_in_its_own_proportions(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    server = RtspServer()
    server.start()
    try:
        with capturing(server.url, size_check_s=1.0) as (loop, mailbox):
            wait_until(lambda: mailbox.counts.items_in > 5, seconds_max=30.0)
            assert taken(mailbox).pixels.shape == (120, 160, 3)
            lost_before, sequence = loop.interruptions_count, taken(mailbox).sequence
            server.resize(320, 180)
            wait_until(lambda: shows(mailbox, 320, 180), seconds_max=20.0)
            server.resize(120, 160)
            wait_until(lambda: shows(mailbox, 120, 160), seconds_max=20.0)
            assert loop.interruptions_count == lost_before
            assert loop.status.state is CaptureState.RUNNING
            assert loop.resized == Resized(2, "120x160")
            assert taken(mailbox).sequence > sequence
    finally:
        server.kill()
    assert [record.message for record in caplog.records].count("source.resized") == 2


def test_a_stream_that_takes_one_connection_only_goes_on_when_its_size_is_asked_for() -> None:
    server = HttpStream("mpegts")  # It takes no second client
    server.start()
    try:
        with capturing(server.url, size_check_s=0.2) as (loop, mailbox):
            wait_until(lambda: mailbox.counts.items_in > 5, seconds_max=30.0)
            lost_before, before = loop.interruptions_count, mailbox.counts.items_in
            wait_until(lambda: mailbox.counts.items_in > before + 40, seconds_max=20.0)
            assert loop.interruptions_count == lost_before
            assert loop.status.state is CaptureState.RUNNING
            assert shows(mailbox, 160, 120)
    finally:
        server.kill()


@pytest.fixture
def camera() -> Iterator[MjpegServer]:
    camera = MjpegServer()
    camera.start()
    yield camera
    camera.kill()


def test_an_mjpeg_camera_that_changes_its_resolution_is_shown_so_at_once(
    camera: MjpegServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    with capturing(camera.url, size_check_s=0.0) as (loop, mailbox):
        wait_until(lambda: mailbox.counts.items_in > 5, seconds_max=30.0)
        assert taken(mailbox).pixels.shape == (120, 160, 3)
        camera.size = (320, 180)
        wait_until(lambda: shows(mailbox, 320, 180), seconds_max=5.0)
        camera.size = (120, 160)
        wait_until(lambda: shows(mailbox, 120, 160), seconds_max=5.0)
        assert loop.status.state is CaptureState.RUNNING
        assert loop.interruptions_count == 0
        assert loop.resized == Resized(2, "120x160")
    told = [record for record in caplog.records if record.message == "source.resized"]
    assert [record.size for record in told] == ["320x180", "120x160"]  # type: ignore[attr-defined]


def test_an_mjpeg_camera_that_falls_silent_comes_back_and_ends(camera: MjpegServer) -> None:
    with capturing(camera.url) as (loop, mailbox):
        wait_until(lambda: mailbox.counts.items_in > 5, seconds_max=30.0)
        camera.is_silent = True
        wait_until(lambda: loop.status.state is CaptureState.STALLED, seconds_max=10.0)
        camera.size = (320, 240)
        camera.is_silent = False
        wait_until(lambda: loop.status.state is CaptureState.RUNNING, seconds_max=30.0)
        wait_until(lambda: shows(mailbox, 320, 240))
        assert loop.resized == Resized(1, "320x240")  # It was opened anew
        assert taken(mailbox).sequence > 5
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


@pytest.mark.parametrize("is_path", [False, True])
def test_a_camera_that_is_not_there_says_what_to_do_and_is_tried_again(*, is_path: bool) -> None:
    number = next(n for n in range(200, 256) if not Path(f"/dev/video{n}").exists())
    device = f"/dev/video{number}" if is_path else number
    clock, stop = ManualClock(), threading.Event()
    seen: list[tuple[CaptureStatus, float]] = []
    source = CameraSource(CameraSettings(device=device), clock)
    loop = CaptureLoop(source, mailbox_for(source, clock), clock)

    def watch(event: threading.Event, seconds: float) -> bool:
        seen.append((loop.status, seconds))
        if len(seen) == 3:
            event.set()
        return event.is_set()

    clock.wait = watch  # type: ignore[method-assign]
    loop.run(stop)
    for status, _ in seen:
        assert status.state is CaptureState.RECONNECTING
        assert status.code == "source.lost"
        assert status.detail.startswith(f"Cannot open camera {device}.")
        assert f"There is no /dev/video{number}." in status.detail
        assert "plugged in" in status.detail
    assert 0.0 < seen[0][1] < seen[2][1]
    assert loop.interruptions_count == 1


def test_what_to_do_about_a_camera_is_said_as_far_as_its_device_file_tells(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    camera = tmp_path / "video0"
    assert "There is no video device." in camera_remedy(camera, tmp_path)
    camera.touch()
    assert f"Video devices here: {camera}." in camera_remedy(tmp_path / "video1", tmp_path)
    assert "no other program uses it" in camera_remedy(camera, tmp_path)
    monkeypatch.setattr("os.access", lambda *_: False)  # Root may open everything
    assert 'group "video"' in camera_remedy(camera, tmp_path)
