"""The whole loop over real processes: see, release, roll out, take back."""

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.support.fleet_story import STEP_S, drained, wait_for
from tests.support.real_fleet import RealAgent, RealHub
from tests.support.tiny_releases import Kind
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("processes")]


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[RealHub]:
    with RealHub(tmp_path) as started:
        yield started


@pytest.fixture
def agents(tmp_path: Path, hub: RealHub) -> Iterator[list[RealAgent]]:
    started = [RealAgent(name, tmp_path, hub) for name in ("one", "two", "three")]
    for agent in started:
        agent.start()
    yield started
    for agent in started:
        if agent.is_running:
            agent.stop()


@pytest.fixture
def agent(tmp_path: Path, hub: RealHub) -> Iterator[RealAgent]:
    started = RealAgent("one", tmp_path, hub)
    started.start()
    yield started
    if started.is_running:
        started.stop()


def all_decisions(hub: RealHub, device: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = hub.get(f"/devices/{device}/decisions", limit=500)["decisions"]
    return sorted(found, key=lambda decision: decision["id"])


@pytest.mark.timeout(300)
def test_a_release_goes_out_a_better_one_follows_and_a_damaged_one_comes_back(
    hub: RealHub, agents: list[RealAgent]
) -> None:
    first = hub.roll_out(hub.add_release(Kind.GOOD))
    wait_for(hub, first, "done")
    second = hub.roll_out(hub.add_release(Kind.BETTER), waves=["1", "100%"])
    wait_for(hub, second, "done")
    swapped = [all_decisions(hub, agent.device) for agent in agents]
    third = hub.roll_out(hub.add_release(Kind.DAMAGED), waves=["1", "100%"])
    wait_for(hub, third, "undone")

    assert [hub.model_on(agent.device)["version"] for agent in agents] == [2, 2, 2]
    outcomes = [
        (receipt["version"], receipt["outcome"])
        for agent in agents
        for receipt in hub.get(f"/devices/{agent.device}/receipts")["receipts"]
    ]
    assert outcomes.count((1, "settled")) == len(agents)
    assert outcomes.count((2, "settled")) >= len(agents)
    assert (2, "undone") in outcomes
    assert not [outcome for outcome in outcomes if outcome[0] == 3]
    devices = hub.get(f"/rollouts/{third}")["devices"]
    assert {device["state"] for device in devices} <= {"undone", "waiting", "removed"}
    for decisions in swapped:  # Every item counts here: a swap loses none.
        versions = {decision["version"] for decision in decisions}
        assert 2 in versions
        items = [decision["item"] for decision in decisions]
        assert all(after == before + 1 for before, after in pairwise(items))


@pytest.mark.timeout(300)
def test_an_agent_that_starts_without_a_hub_serves_what_it_had(
    hub: RealHub, agent: RealAgent
) -> None:
    wait_for(hub, hub.roll_out(hub.add_release(Kind.GOOD)), "done")
    agent.kill()
    hub.kill()
    agent.start()

    def serves() -> bool:
        status = agent.status()
        return status is not None and status["report"]["models"][0]["version"] == 1

    wait_until(serves, seconds_max=STEP_S)
    status = agent.status()
    assert status is not None
    assert not status["is_connected"]
    waiting = status["outbox_rows"]
    wait_until(lambda: (agent.status() or {}).get("outbox_rows", 0) > waiting, seconds_max=STEP_S)
    hub.start()
    wait_until(drained(agent), seconds_max=STEP_S)
    items = [decision["item"] for decision in all_decisions(hub, agent.device)]
    assert len(set(items)) >= waiting // 2


@pytest.mark.timeout(300)
def test_a_revoked_device_is_cut_off_at_once(hub: RealHub, agent: RealAgent) -> None:
    def presence() -> str:
        return str(hub.get(f"/devices/{agent.device}")["presence"])

    wait_until(lambda: presence() == "online", seconds_max=STEP_S)
    hub.post(f"/devices/{agent.device}/revoke")
    wait_until(lambda: not (agent.status() or {"is_connected": True})["is_connected"])
    assert hub.get(f"/devices/{agent.device}")["state"] == "revoked"
    assert presence() != "online"
