"""The whole loop with PostgreSQL as the hub's database, which is killed in the middle of it."""

from pathlib import Path

import pytest

from shared.wire.report import UpdateState
from tests.support.fleet_story import (
    STEP_S,
    check_records,
    drained,
    failure_codes,
    is_in,
    receipts,
    wait_for,
)
from tests.support.postgres import PostgresServer, server_folder
from tests.support.real_fleet import RealAgent, RealHub
from tests.support.tiny_releases import Kind
from tests.support.waiting import wait_until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.xdist_group("processes"),
    pytest.mark.timeout(300),
]


def test_the_loop_goes_on_after_the_database_was_killed_in_it(tmp_path: Path) -> None:
    with server_folder() as folder:
        server = PostgresServer(folder)
        server.start()
        server.execute("CREATE DATABASE isthmus")
        hub = RealHub(tmp_path, database=server.url("isthmus"))
        try:
            hub.start()
            agents = [RealAgent(name, tmp_path, hub) for name in ("one", "two")]
            for agent in agents:
                agent.start()
            wait_for(hub, hub.roll_out(hub.add_release(Kind.GOOD)), "done")

            rollout = hub.roll_out(hub.add_release(Kind.BETTER), trial={"items_min": 100})
            wait_until(lambda: is_in(agents[0], UpdateState.TRIAL), seconds_max=STEP_S)
            server.kill()
            wait_until(lambda: not hub.health()["is_good"], seconds_max=STEP_S)
            waiting = (agents[0].status() or {})["outbox_rows"]
            wait_until(
                lambda: (agents[0].status() or {})["outbox_rows"] > waiting + 100,
                seconds_max=STEP_S,
            )
            hub.check_all()
            server.start()
            wait_for(hub, rollout, "done")
            assert hub.health()["is_good"]

            damaged = hub.roll_out(hub.add_release(Kind.DAMAGED))
            wait_for(hub, damaged, "undone")
            assert failure_codes(hub, damaged) == {"trial.disagreement"}
            for agent in agents:
                assert receipts(hub, agent)[0][0] == 2
                wait_until(drained(agent), seconds_max=STEP_S)
                agent.stop()
            check_records(hub, agents)
        finally:
            hub.close()
            server.stop()
