"""The hub's composition: what was opened is closed again, wherever building or serving fails."""

import logging
import socket
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI

from cloud_hub.config import HubConfig, ListenSettings
from cloud_hub.http_server import HttpServer, Listener
from cloud_hub.hub import LOCK_NAME, Hub
from cloud_hub.releases.service import ReleaseSettings
from shared.clock import SystemClock
from shared.errors import IsthmusError, UnavailableError
from shared.file_lock import is_locked
from tests.support.waiting import wait_until

HOST = "127.0.0.1"
ANY = ListenSettings(host=HOST, port=0)
QUIET = HubConfig(http=ANY, https=ANY, mqtt=ANY, announces_itself=False, host_names=(HOST,))
OWN_THREADS = {"broker", "http", "mqtt-link", "inbox", "blocks", "ticks", "housekeeping"}

pytestmark = pytest.mark.slow


def threads() -> set[str]:
    return {thread.name for thread in threading.enumerate()} & OWN_THREADS


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    levels = {name: logging.getLogger(name).level for name in ("uvicorn.error",)}
    yield
    wait_until(lambda: not threads())
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)


def a_broken_key(state: Path) -> None:
    (state / "keys" / "online").mkdir(parents=True)
    (state / "keys" / "online" / "timestamp-1.pem").write_text("junk")


def a_folder_for_a_token(state: Path) -> None:
    (state / "run" / "local-token").mkdir(parents=True)


def a_file_for_the_repository(state: Path) -> None:
    state.mkdir()
    (state / "repository").write_text("in the way")


def a_file_that_is_no_database(state: Path) -> None:
    state.mkdir()
    (state / "hub.db").write_bytes(b"junk" * 1000)


@pytest.mark.parametrize(
    "spoil",
    [
        a_broken_key,
        a_folder_for_a_token,  # After the broker is up
        a_file_for_the_repository,
        a_file_that_is_no_database,
    ],
)
def test_a_hub_that_cannot_be_built_leaves_nothing_open(tmp_path: Path, spoil: object) -> None:
    assert callable(spoil)
    spoil(tmp_path / "hub")
    with closing(socket.create_server((HOST, 0))) as probe:
        port = probe.getsockname()[1]
    config = HubConfig(
        http=ListenSettings(host=HOST, port=port), https=ANY, mqtt=ANY, announces_itself=False
    )
    with pytest.raises(IsthmusError):
        Hub(config, tmp_path / "hub", SystemClock())
    assert not is_locked(tmp_path / "hub" / LOCK_NAME)
    assert not threads()
    socket.create_server((HOST, port)).close()


def test_a_busy_broker_port_leaves_nothing_open(tmp_path: Path) -> None:
    with closing(socket.create_server((HOST, 0))) as busy:
        mqtt = ListenSettings(host=HOST, port=busy.getsockname()[1])
        config = HubConfig(http=ANY, https=ANY, mqtt=mqtt, announces_itself=False)
        with pytest.raises(UnavailableError) as raised:
            Hub(config, tmp_path / "hub", SystemClock())
    assert raised.value.code == "broker.port_busy"
    assert "--mqtt" in raised.value.remedy
    assert not is_locked(tmp_path / "hub" / LOCK_NAME)


def test_a_hub_that_was_refused_once_can_be_built_when_the_cause_is_gone(tmp_path: Path) -> None:
    a_folder_for_a_token(tmp_path / "hub")
    with pytest.raises(IsthmusError):
        Hub(QUIET, tmp_path / "hub", SystemClock())
    (tmp_path / "hub" / "run" / "local-token").rmdir()
    hub = Hub(QUIET, tmp_path / "hub", SystemClock())
    assert hub.first_operator_token, "it was not spent on the one that failed"
    hub.start()
    hub.stop()


def test_a_hub_that_was_never_started_stops(tmp_path: Path) -> None:
    hub = Hub(QUIET, tmp_path / "hub", SystemClock())
    hub.stop()
    assert not is_locked(tmp_path / "hub" / LOCK_NAME)


def test_stopping_twice_is_stopping_once(tmp_path: Path) -> None:
    hub = Hub(QUIET, tmp_path / "hub", SystemClock())
    hub.start()
    hub.stop()
    hub.stop()


def test_a_part_that_gives_up_ends_the_hub(tmp_path: Path) -> None:
    hub = Hub(QUIET, tmp_path / "hub", SystemClock())
    hub.start()
    try:
        hub._workers[0].fatal = UnavailableError("x.gone", "It is gone.")
        with pytest.raises(UnavailableError) as raised:
            hub.run(threading.Event())
        assert raised.value.code == "x.gone"
    finally:
        hub.stop()


def test_an_http_server_that_ends_ends_the_hub(tmp_path: Path) -> None:
    hub = Hub(QUIET, tmp_path / "hub", SystemClock())
    hub.start()
    try:
        hub._http.stop()
        with pytest.raises(UnavailableError) as raised:
            hub.run(threading.Event())
        assert raised.value.code == "http.ended"
    finally:
        hub.stop()


def test_the_health_says_when_the_link_to_the_broker_is_up(tmp_path: Path) -> None:
    hub = Hub(QUIET, tmp_path / "hub", SystemClock())
    hub.start()
    try:
        with httpx.Client(base_url=hub.dashboard_url, trust_env=False, timeout=30.0) as client:
            wait_until(lambda: client.get("/health").json()["is_good"])
            hub._broker.stop()
            wait_until(lambda: client.get("/health").status_code == 503)
    finally:
        hub.stop()


def test_releases_may_lie_in_another_folder(tmp_path: Path) -> None:
    config = HubConfig(
        http=ANY,
        https=ANY,
        mqtt=ANY,
        announces_itself=False,
        releases=ReleaseSettings(objects=str(tmp_path / "objects")),
    )
    hub = Hub(config, tmp_path / "hub", SystemClock())
    hub.stop()
    assert (tmp_path / "objects" / "metadata" / "1.root.json").is_file()


# The HTTP server alone


def test_a_second_address_that_is_busy_frees_the_first() -> None:
    with closing(socket.create_server((HOST, 0))) as probe:
        free = ListenSettings(host=HOST, port=probe.getsockname()[1])
    with closing(socket.create_server((HOST, 0))) as other:
        busy = ListenSettings(host=HOST, port=other.getsockname()[1])
        with pytest.raises(UnavailableError) as raised:
            HttpServer((Listener(free), Listener(busy)))
    assert raised.value.code == "http.listen"
    assert str(busy.port) in raised.value.message
    socket.create_server((HOST, free.port)).close()


def test_every_address_serves_the_same_app() -> None:
    app = FastAPI()
    app.get("/hello")(lambda: "hello")
    server = HttpServer((Listener(ANY), Listener(ANY)))
    assert not server.is_alive
    server.start(app)
    ports = server.ports
    try:
        assert server.is_alive
        for port in ports:
            answer = httpx.get(f"http://{HOST}:{port}/hello", trust_env=False, timeout=30.0)
            assert answer.json() == "hello"
    finally:
        server.stop()
    assert not server.is_alive
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"http://{HOST}:{ports[0]}/hello", trust_env=False, timeout=30.0)


def test_a_server_without_its_certificate_says_so(tmp_path: Path) -> None:
    paths = {"certificate_path": tmp_path / "none.crt", "key_path": tmp_path / "none.key"}
    server = HttpServer((Listener(ANY, **paths),))
    try:
        with pytest.raises(UnavailableError) as raised:
            server.start(FastAPI())
        assert raised.value.code == "http.certificate"
    finally:
        server.stop()
