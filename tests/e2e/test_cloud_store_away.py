"""An object store in S3 that cannot be reached for a while: Jobs wait, say so, and go on."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.cloud_hub_story import RECIPE, CloudHub, cloud_hub, require_completed
from tests.support.s3_server import S3Server
from tests.support.tcp_proxy import TcpProxy

pytestmark = [
    pytest.mark.slow,
    pytest.mark.xdist_group("processes"),
    pytest.mark.timeout(240),
]
WAITING_S = 90.0


class Road:
    """The way to the object store, which can be closed."""

    def __init__(self, server: S3Server) -> None:
        self._server = server
        self._proxy = TcpProxy(server.port)
        self.port = self._proxy.port
        self.is_open = True

    def close(self) -> None:
        """Let nobody through: connections are reset, new ones refused."""
        if self.is_open:
            self._proxy.close()
        self.is_open = False

    def open(self) -> None:
        """Let everybody through again."""
        self._proxy = TcpProxy(self._server.port, port=self.port)
        self.is_open = True


@pytest.fixture
def road(s3_server: S3Server) -> Iterator[Road]:
    made = Road(s3_server)
    yield made
    made.close()


@pytest.fixture
def hub(tmp_path: Path, s3_server: S3Server, road: Road) -> Iterator[CloudHub]:
    settings = f'[releases]\nobjects = "{s3_server.new_place()}"\n'
    env = {"AWS_ENDPOINT": f"http://127.0.0.1:{road.port}"}
    with cloud_hub(tmp_path, settings=settings, env=env) as started:
        started.set_up()
        yield started


def test_jobs_wait_for_a_store_that_is_away_and_go_on_when_it_is_back(
    hub: CloudHub, road: Road
) -> None:
    trained = hub.order(recipe={**RECIPE, "epochs": 60})
    waiting = hub.order(retries_max=20)
    trained.wait_for_saved(1)
    road.close()

    # It has its data: it trains to its end, and what came of it waits.
    trained.wait(lambda: "waits: The object store failed" in trained.get()["text"])
    assert trained.get()["outcome"] == "completed"
    assert not trained.get()["is_settled"]
    # The other cannot begin: it is tried again, and says why.
    waiting.wait(lambda: waiting.run()["deaths"] > 0, seconds_max=WAITING_S)
    run = waiting.run()
    assert run["outcome"] is None
    assert "object_store.failed" in run["text"], waiting.told()
    assert "Check that it can be reached" in run["text"], "the remedy"

    road.open()
    assert require_completed(trained)["result_checkpoint_id"]
    done = require_completed(waiting)
    assert done["value"] > 0.9
    assert "object store" not in done["text"]
    hub.check_all()
