"""kill -9 of the broker, the hub or the agent at every step of the loop, each followed to its end.

One story: join, release 1, release 2, a damaged release. The victim dies once joined, while
release 2 is fetched, in its trial, and when it has settled. Agents and hub that die beside
mosquitto are in test_random_kills.py.
"""

from collections.abc import Callable, Iterator
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
    settled_version,
    wait_for,
    wait_for_end,
    wait_online,
)
from tests.support.real_fleet import Process, RealAgent, RealBroker, RealHub
from tests.support.tiny_releases import Kind
from tests.support.waiting import wait_until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.xdist_group("processes"),
    pytest.mark.timeout(300),
]
SLOW_BLOCKS = "[blocks]\nbytes_per_s = 131072\n"  # So that a fetch can be met
PADDING_BYTES = 200_000
ROWS = [
    ("embedded", "agent"),
    ("embedded", "hub"),
    ("mosquitto", "broker"),
]


@pytest.fixture(params=ROWS, ids="-".join)
def row(request: pytest.FixtureRequest) -> tuple[str, str]:
    found: tuple[str, str] = request.param
    return found


@pytest.fixture
def hub(tmp_path: Path, row: tuple[str, str]) -> Iterator[RealHub]:
    broker = RealBroker(tmp_path) if row[0] == "mosquitto" else None
    with RealHub(tmp_path, broker=broker, settings=SLOW_BLOCKS) as started:
        yield started


def kill_and_start(victim: Process, when: Callable[[], bool]) -> None:
    """Kill the victim at a moment; start it again."""
    wait_until(when, seconds_max=STEP_S)
    victim.kill()
    victim.start()


def test_kill_9_at_every_step_is_resumed_from(
    tmp_path: Path, hub: RealHub, row: tuple[str, str]
) -> None:
    agent = RealAgent("one", tmp_path, hub)
    agent.start()
    victim: Process = {"agent": agent, "hub": hub, "broker": hub.broker}[row[1]] or hub
    is_agent = victim is agent

    kill_and_start(victim, lambda: agent.is_connected)
    wait_online(hub, agent)
    wait_for(hub, hub.roll_out(hub.add_release(Kind.GOOD)), "done")

    better = hub.add_release(Kind.BETTER, padding_bytes=PADDING_BYTES)
    rollout = hub.roll_out(better, trial={"items_min": 100})
    kill_and_start(victim, lambda: is_in(agent, UpdateState.FETCHING) and agent.fetched_bytes() > 0)
    kill_and_start(victim, lambda: is_in(agent, UpdateState.TRIAL))
    if is_agent:
        # A trial that dies with its agent is a failed trial: the release may be what killed it.
        assert wait_for_end(hub, rollout) == "undone"
        assert failure_codes(hub, rollout) == {"trial.died"}
        assert settled_version(agent) == 1
        rollout = hub.roll_out(better)
    kill_and_start(victim, lambda: settled_version(agent) == better)
    wait_for(hub, rollout, "done")
    assert receipts(hub, agent)[0] == (better, "settled")

    damaged = hub.roll_out(hub.add_release(Kind.DAMAGED))
    wait_for(hub, damaged, "undone")
    assert failure_codes(hub, damaged) == {"trial.disagreement"}
    assert receipts(hub, agent)[0] == (better, "undone")
    assert hub.model_on(agent.device)["version"] == better

    wait_until(drained(agent), seconds_max=STEP_S)
    agent.stop()
    check_records(hub, [agent])
