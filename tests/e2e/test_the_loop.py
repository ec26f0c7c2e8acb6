"""The whole loop over real processes: see, release, roll out, take back; with kills in between."""

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.support.real_fleet import RealAgent, RealHub
from tests.support.tiny_releases import Kind
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("processes")]
STEP_S = 60.0


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[RealHub]:
    started = RealHub(tmp_path)
    started.start()
    yield started
    started.close()


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


def wait_for(hub: RealHub, rollout: str, state: str) -> None:
    def is_there() -> bool:
        hub.check_all()
        found = hub.rollout_state(rollout)
        if found in {"done", "undone", "held", "cancelled"}:
            entries = hub.get(f"/rollouts/{rollout}/timeline")["entries"]
            assert found == state, "\n".join(entry["sentence"] for entry in entries)
        return found == state

    wait_until(is_there, seconds_max=STEP_S)


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
@pytest.mark.parametrize("victim", ["agent", "hub"])
@pytest.mark.parametrize("moment", ["targeted", "trial", "settled"])
def test_kill_9_at_any_step_is_resumed_from(
    hub: RealHub, agent: RealAgent, victim: str, moment: str
) -> None:
    wait_for(hub, hub.roll_out(hub.add_release(Kind.GOOD)), "done")
    better = hub.add_release(Kind.BETTER)
    rollout = hub.roll_out(better, trial={"items_min": 150, "deadline_s": 60.0})

    def is_the_moment() -> bool:
        hub.check_all()
        model = hub.model_on(agent.device)
        match moment:
            case "targeted":
                return bool(model["target_version"] == better)
            case "trial":
                return bool(model["state"] == "trial")
            case _:
                return bool(model["version"] == better and model["proof"] == "settled")

    wait_until(is_the_moment, seconds_max=STEP_S)
    process = agent if victim == "agent" else hub
    process.kill()
    process.start()

    state = wait_until(
        lambda: (found := hub.rollout_state(rollout)) in {"done", "undone"} and found,
        seconds_max=STEP_S,
    )
    # A trial that dies with its agent is a failed trial: the new model may be what killed it.
    is_undone = victim == "agent" and hub.model_on(agent.device)["version"] == 1
    assert state == ("undone" if is_undone else "done")
    if moment == "settled" or victim == "hub":
        assert not is_undone
    wait_until(
        lambda: hub.model_on(agent.device)["version"] == (1 if is_undone else better),
        seconds_max=STEP_S,
    )
    before = len(all_decisions(hub, agent.device))
    wait_until(lambda: len(all_decisions(hub, agent.device)) > before or before >= 500)


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
    wait_until(lambda: (agent.status() or {}).get("outbox_rows", 1 << 30) < 50, seconds_max=STEP_S)
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
