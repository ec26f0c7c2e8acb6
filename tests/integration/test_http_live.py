"""LiveServer: real HTTP, a real browser, real frames."""

import http.client
import json
import os
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import cv2
import numpy as np
import pytest

from edge_agent.sinks.file_live_token import TOKEN_NAME, load_live_token
from edge_agent.sinks.http_live import LiveServer
from edge_agent.sinks.live_feeds import LiveFeeds
from edge_agent.sinks.live_settings import LiveSettings
from edge_agent.sinks.opencv_viewing import ViewedFrames
from shared.clock import SystemClock
from shared.errors import RefusedError
from tests.support.browser import open_page
from tests.support.sink_results import boxes, decided, frame, scored
from tests.support.waiting import wait_until

TOKEN = "sesame-" * 4


@dataclass
class View:
    """A live view of two pipelines: "gate" has pictures, "pump" has none."""

    server: LiveServer
    gate: ViewedFrames
    pump: ViewedFrames

    @property
    def port(self) -> int:
        return int(self.server.url.rstrip("/").rpartition(":")[2])

    def ask(
        self, path: str, *, method: str = "GET", token: str = TOKEN, **headers: str
    ) -> tuple[http.client.HTTPResponse, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        sent: Mapping[str, str] = {"Authorization": f"Bearer {token}"} if token else {}
        connection.request(method, path, headers={**sent, **headers})
        response = connection.getresponse()
        body = response.read()
        connection.close()
        return response, body

    def watch(self, name: str = "gate") -> socket.socket:
        """Open a stream and read nothing of it."""
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=10)
        request = f"GET /stream/{name}.mjpeg?token={TOKEN} HTTP/1.1\r\nHost: localhost\r\n\r\n"
        connection.sendall(request.encode())
        return connection


@pytest.fixture
def view() -> Iterator[View]:
    settings = LiveSettings(port=0, fps_max=30.0, viewers_max=2)
    feeds, clock = LiveFeeds(), SystemClock()
    server = LiveServer(settings, feeds, token=TOKEN)
    gate, pump = (ViewedFrames(settings, feeds, pipeline=n, clock=clock) for n in ("gate", "pump"))
    for feed in (gate, pump):
        feed.start()
    server.start()
    yield View(server, gate, pump)
    server.stop()


class Playing:
    """Gives a feed frames until it is closed."""

    def __init__(
        self, feed: ViewedFrames, *, height: int = 240, width: int = 320, gray: int | None = None
    ) -> None:
        self._feed, self._stop, self._gray = feed, threading.Event(), gray
        self._size = height, width
        self.longest_s = 0.0
        self._thread = threading.Thread(target=self._play)

    def _play(self) -> None:
        noise = np.random.default_rng(1).integers(0, 256, (*self._size, 3), np.uint8)
        while not self._stop.wait(0.01):
            item = frame(height=self._size[0], width=self._size[1])
            item.pixels[:] = noise if self._gray is None else self._gray
            began_s = time.monotonic()
            self._feed(decided(boxes("car")), item)
            self.longest_s = max(self.longest_s, time.monotonic() - began_s)

    def __enter__(self) -> "Playing":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


def test_without_the_token_there_is_nothing_to_see(view: View) -> None:
    view.gate(decided(boxes("car")), frame())
    for path in ("/", "/api/pipelines", "/snapshot/gate.jpg", "/stream/gate.mjpeg"):
        for token in ("", "wrong", TOKEN[:-1]):
            response, body = view.ask(path, token=token)
            assert response.status == 401, path
            assert b"gate" not in body
    assert view.ask(f"/api/pipelines?token={TOKEN}", token="")[0].status == 200


def test_a_first_visit_leaves_a_cookie_and_takes_the_token_off_the_address(view: View) -> None:
    response, _ = view.ask(f"/?token={TOKEN}", token="")
    cookie = response.headers["Set-Cookie"]
    assert (response.status, response.headers["Location"]) == (303, "/")
    assert "HttpOnly" in cookie
    assert "SameSite=Strict" in cookie
    assert TOKEN not in cookie
    response, body = view.ask("/", token="", Cookie=cookie.partition(";")[0])
    assert response.status == 200
    assert b"gate" in body


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", ""])
def test_a_strangers_name_is_refused_even_with_the_token(view: View, host: str) -> None:
    assert view.ask("/api/pipelines", Host=host)[0].status == 421


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
def test_nothing_can_be_changed(view: View, method: str) -> None:
    response, _ = view.ask("/", method=method)
    assert response.status == 405
    assert response.headers["Allow"] == "GET, HEAD"


@pytest.mark.parametrize(
    "path", ["/stream/none.mjpeg", "/stream/gate", "/snapshot/gate.mjpeg", "/../etc/passwd", "/x"]
)
def test_what_is_not_there_is_not_found(view: View, path: str) -> None:
    assert view.ask(path)[0].status == 404


def test_every_answer_tells_the_browser_to_be_careful(view: View) -> None:
    for path in ("/", "/api/pipelines", "/page.js", "/nothing"):
        response, _ = view.ask(path)
        assert "default-src 'none'" in response.headers["Content-Security-Policy"]
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        assert response.headers["Cache-Control"] == "no-store"
        assert response.headers["Server"].strip() == "isthmus"


def test_the_last_decisions_are_told(view: View) -> None:
    view.gate(decided(boxes("car"), 7), frame())
    view.pump(decided(scored(2.0), 3), frame())
    told = json.loads(view.ask("/api/pipelines")[1])["pipelines"]
    assert [pipeline["pipeline"] for pipeline in told] == ["gate", "pump"]
    assert told[0]["latest"]["item"] == 7
    assert told[1]["latest"]["outcome"]["is_anomalous"]
    assert view.ask("/api/pipelines", method="HEAD")[1] == b""


def test_no_picture_is_made_while_nobody_looks(view: View) -> None:
    for i in range(5):
        view.gate(decided(boxes("car"), i), frame())
    assert (view.gate._frame, view.gate._number) == (None, 0)


@pytest.mark.slow
def test_a_snapshot_is_a_fresh_frame_with_its_boxes(view: View) -> None:
    with Playing(view.gate):
        response, body = view.ask("/snapshot/gate.jpg")
    assert response.headers["Content-Type"] == "image/jpeg"
    picture = cv2.imdecode(np.frombuffer(body, np.uint8), cv2.IMREAD_COLOR)
    assert picture is not None
    assert picture.shape == (480, 640, 3)
    assert view.gate._frame is None  # Let go when the viewer went


@pytest.mark.slow
def test_a_stream_is_a_row_of_pictures_and_viewers_are_few(view: View) -> None:
    with Playing(view.gate):
        first, second = view.watch(), view.watch()
        wait_until(lambda: view.server.viewers_count == 2)
        data = b""
        while data.count(b"--isthmus-frame") < 4:
            data += first.recv(1 << 16)
        assert b"multipart/x-mixed-replace" in data
        assert data.count(b"\xff\xd8\xff") >= 3
        assert view.ask("/snapshot/gate.jpg")[0].status == 503
        first.close()
        wait_until(lambda: view.server.viewers_count == 1)
        assert view.ask("/snapshot/gate.jpg")[0].status == 200
        second.close()
        wait_until(lambda: view.server.viewers_count == 0)


@pytest.mark.slow
def test_a_viewer_that_takes_nothing_is_let_go_and_the_pipeline_never_waits(view: View) -> None:
    with Playing(view.gate, height=720, width=1280) as playing:
        stuck = view.watch()
        wait_until(lambda: view.server.viewers_count == 1)
        wait_until(lambda: view.server.viewers_count == 0, seconds_max=20.0)
        stuck.close()
    assert playing.longest_s < 0.5


@pytest.mark.slow
def test_a_stream_goes_on_when_the_pipelines_settings_change(view: View) -> None:
    feeds, settings = LiveFeeds(), LiveSettings(port=0, fps_max=30.0)
    first, second = (
        ViewedFrames(settings, feeds, pipeline="gate", clock=SystemClock()) for _ in range(2)
    )
    server = LiveServer(settings, feeds, token=TOKEN)
    server.start()
    first.start()
    with View(server, first, view.pump).watch() as viewer, viewer.makefile("rb") as stream:
        with Playing(first, gray=40):
            wait_until(lambda: brightness_of(stream) < 60)
        first.close()  # As a pipeline does that goes on with other sinks
        second.start()
        with Playing(second, gray=200):
            wait_until(lambda: brightness_of(stream) > 180)
    server.stop()


def brightness_of(stream: BinaryIO) -> float:
    """Of the next picture of a stream."""
    while not (line := stream.readline()).startswith(b"Content-Length"):
        assert line, "the stream has ended"
    stream.readline()
    data = stream.read(int(line.partition(b":")[2]))
    picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE)
    assert picture is not None
    return float(np.median(picture))


@pytest.mark.slow
def test_stopping_ends_the_streams(view: View) -> None:
    with Playing(view.gate):
        stream = view.watch()
        wait_until(lambda: view.server.viewers_count == 1)
        view.server.stop()
        wait_until(lambda: view.server.viewers_count == 0)
        stream.close()


def test_a_port_that_is_taken_is_refused(view: View) -> None:
    with pytest.raises(RefusedError) as caught:
        LiveServer(LiveSettings(port=view.port), LiveFeeds(), token=TOKEN)
    assert caught.value.code == "live.port"


def test_the_token_is_made_once_and_only_its_owner_reads_it(tmp_path: Path) -> None:
    token = load_live_token("", folder=tmp_path)
    assert len(token) >= 40
    assert load_live_token("", folder=tmp_path) == token
    file = tmp_path / TOKEN_NAME
    assert file.stat().st_mode & 0o777 == 0o600
    file.chmod(0o644)
    with pytest.raises(RefusedError, match="chmod 600"):
        load_live_token(str(file), folder=tmp_path)
    file.chmod(0o600)
    file.write_text("short")
    with pytest.raises(RefusedError):
        load_live_token("", folder=tmp_path)
    with pytest.raises(RefusedError):
        load_live_token(str(tmp_path / "missing"), folder=tmp_path)


@pytest.mark.slow
def test_a_person_sees_boxes_and_decisions_in_a_browser(view: View, tmp_path: Path) -> None:
    view.gate(decided(boxes("car")), frame())
    with Playing(view.gate, height=480, width=640), open_page(tmp_path / "profile") as page:
        page.resize(1200, 700)
        page.expected.append("401")
        page.open(view.server.url)
        page.fill("input[name=token]", TOKEN)
        page.submit("form button")
        page.wait("document.querySelector('#picture').naturalWidth > 0")
        page.wait("document.querySelector('#latest').textContent.includes('\"car\"')")
        assert page.run("location.search") == ""
        page.picture(Path(os.environ.get("LIVE_PICTURE", str(tmp_path / "live.png"))))
        assert page.surprises == []
        page.open(f"{view.server.url}?pipeline=pump")
        page.wait("document.querySelector('#latest').textContent.includes('Nothing decided')")
        wait_until(lambda: view.server.viewers_count == 0)
        assert page.surprises == []
