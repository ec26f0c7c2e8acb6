"""The live stream: one poller, many listeners, and an end to everything."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from cloud_hub.api.events import Live
from cloud_hub.api.settings import ApiSettings
from tests.support.api_client import ApiHub, open_api_hub
from tests.support.record_bodies import decision_record, telemetry_record
from tests.support.waiting import wait_until

pytestmark = pytest.mark.slow
HEARD_S_MAX = 15.0


class Listener:
    """Listens in a thread; what was said to have changed is in `heard`."""

    def __init__(self, client: httpx.Client) -> None:
        self._client = client
        self.heard: list[list[str]] = []
        self.is_open = threading.Event()
        self.is_over = threading.Event()
        self._thread = threading.Thread(target=self._listen, name="listener")
        self._thread.start()
        assert self.is_open.wait(HEARD_S_MAX)

    def topics(self) -> set[str]:
        return {topic for message in self.heard for topic in message}

    def join(self) -> None:
        self._thread.join(HEARD_S_MAX)
        assert not self._thread.is_alive()

    def _listen(self) -> None:
        try:
            with self._client.stream("GET", "/api/v1/live", timeout=HEARD_S_MAX) as answer:
                assert answer.headers["content-type"].startswith("text/event-stream")
                for line in answer.iter_lines():
                    if line.startswith("event: hello"):
                        self.is_open.set()
                    if line.startswith('data: {"changed"'):
                        self.heard.append(json.loads(line[6:])["changed"])
        except httpx.RemoteProtocolError:
            pass  # The server ended it in the middle.
        finally:
            self.is_over.set()


@contextmanager
def _counting(hub: ApiHub) -> Iterator[list[int]]:
    """Count how often the hub is looked at."""
    looks = [0]
    live: Live = hub.app.state.live
    observe = live._observe

    def counted() -> object:
        looks[0] += 1
        return observe()

    live._observe = counted  # type: ignore[assignment]
    yield looks


def _wait_for_first_look(hub: ApiHub, looks: list[int]) -> None:
    count = looks[0]
    wait_until(lambda: looks[0] >= count + 2)


def test_what_changed_is_named_and_nothing_else(api_hub: ApiHub) -> None:
    first, second = (device.device_id for device in api_hub.enrol(2))
    with _counting(api_hub) as looks:
        listener = Listener(api_hub.client())
        assert looks[0] >= 1  # It opened only then: nothing can be missed.
        api_hub.tell(first, decision_record(1))
        wait_until(lambda: listener.topics() == {f"device:{first}"})
        listener.heard.clear()
        api_hub.tell(second, telemetry_record())
        wait_until(lambda: listener.topics() == {f"device:{second}", "fleet"})
        listener.heard.clear()
        api_hub.client().put("/api/v1/channels/digits/beta", json={"version": 1})
        wait_until(lambda: listener.topics() == {"releases", "audit"})
        listener.heard.clear()
        body = {"model": "digits", "version": 1}
        rollout = api_hub.client().post("/api/v1/rollouts", json=body).json()["rollout"]
        wait_until(lambda: {f"rollout:{rollout['rollout_id']}", "rollouts"} <= listener.topics())
    api_hub.app.state.live.close()
    listener.join()


def test_one_poller_looks_for_all_listeners_and_rests_when_nobody_listens(
    empty_hub: ApiHub,
) -> None:
    with _counting(empty_hub) as looks:
        assert looks == [0]
        listeners = [Listener(empty_hub.client()) for _ in range(5)]
        _wait_for_first_look(empty_hub, looks)
        empty_hub.enrol()
        for listener in listeners:
            wait_until(lambda listener=listener: "fleet" in listener.topics())
        assert sum(t.name == "listener" for t in threading.enumerate()) == 5
        live: Live = empty_hub.app.state.live
        assert live.subscribers_count == 5
        live.close()
        for listener in listeners:
            listener.join()
        wait_until(lambda: live._poller is not None and live._poller.done())
        assert live.subscribers_count == 0


def test_listeners_are_bounded_and_a_place_becomes_free_again(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    settings = ApiSettings(live_period_s=0.05, live_subscribers_max=1, live_stream_s_max=1.0)
    hub = open_api_hub(tmp_path / "state", settings=settings)
    with hub.serve():
        first = Listener(hub.client())
        refused = hub.client().get("/api/v1/live")
        assert (refused.status_code, refused.json()["code"]) == (503, "live.full")
        first.join()  # By its longest time.
        Listener(hub.client()).join()
    hub.close()


def test_open_streams_do_not_hold_up_the_stop_of_the_server(empty_hub: ApiHub) -> None:
    listener = Listener(empty_hub.client())
    empty_hub.app.state.live.close()
    assert listener.is_over.wait(5.0)
    assert empty_hub.client().get("/api/v1/live").status_code == 503


def test_a_database_that_is_away_for_a_moment_does_not_end_the_stream(
    empty_hub: ApiHub,
) -> None:
    with _counting(empty_hub) as looks:
        listener = Listener(empty_hub.client())
        _wait_for_first_look(empty_hub, looks)
        database = empty_hub.state / "hub.db"
        empty_hub.database.close()
        away = empty_hub.state / "away.db"
        for suffix in ("", "-wal", "-shm"):
            file = database.with_name(database.name + suffix)
            if file.exists():
                file.rename(away.with_name(away.name + suffix))
        database.mkdir()
        _wait_for_first_look(empty_hub, looks)
        database.rmdir()
        for suffix in ("", "-wal", "-shm"):
            file = away.with_name(away.name + suffix)
            if file.exists():
                file.rename(database.with_name(database.name + suffix))
        _wait_for_first_look(empty_hub, looks)
        empty_hub.enrol()
        wait_until(lambda: "fleet" in listener.topics())
    empty_hub.app.state.live.close()
    listener.join()
