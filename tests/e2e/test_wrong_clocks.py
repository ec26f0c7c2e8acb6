"""A device whose clock is wrong: when it joins, while it runs, and where expiry is judged by it."""

import json
import os
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.false_clock import DAY_S, FalseClock
from tests.support.fleet_story import (
    STEP_S,
    check_records,
    decisions_count,
    drained,
    receipts,
    records,
    sentences,
    wait_for,
    wait_online,
)
from tests.support.real_fleet import BIN, RealAgent, RealHub
from tests.support.tiny_releases import Kind
from tests.support.waiting import wait_until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.xdist_group("processes"),
    pytest.mark.timeout(300),
]
FAR_DAYS = 400  # Past the expiry of what the hub signs


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[RealHub]:
    with RealHub(tmp_path) as started:
        yield started


@pytest.fixture
def clock(tmp_path: Path) -> FalseClock:
    return FalseClock(tmp_path)


@pytest.mark.parametrize("days", [3, -3])
def test_joining_with_a_wrong_clock_says_so_and_uses_up_no_token(
    tmp_path: Path, hub: RealHub, clock: FalseClock, days: int
) -> None:
    command = hub.post("/tokens", {"name": "one", "groups": []})["join_command"]
    program, *arguments = shlex.split(command)
    join = [str(BIN / program), *arguments, "--state", str(tmp_path / "one"), "--json"]
    env = os.environ | clock.env
    clock.set(days=days)
    wrong = subprocess.run(join, env=env, capture_output=True, text=True, check=False)
    assert wrong.returncode != 0
    answer = json.loads(wrong.stdout.splitlines()[-1])
    assert answer["code"] == "clock.far_off"
    assert "days" in answer["message"]
    assert ("ahead" if days > 0 else "behind") in answer["message"]
    assert answer["remedy"]
    clock.set(days=0)
    right = subprocess.run(join, env=env, capture_output=True, text=True, check=False)
    assert right.returncode == 0, right.stderr


def test_a_device_whose_clock_jumps_goes_on_and_waits_out_what_looks_expired(
    tmp_path: Path, hub: RealHub, clock: FalseClock
) -> None:
    agent = RealAgent("one", tmp_path, hub)
    agent.env = clock.env
    agent.start()
    wait_for(hub, hub.roll_out(hub.add_release(Kind.GOOD)), "done")

    for days in (3, -3):
        clock.set(days=days)
        before = decisions_count(hub)
        wait_until(lambda b=before: decisions_count(hub) > b + 100, seconds_max=STEP_S)  # type: ignore[misc]
        wait_online(hub, agent)

    clock.set(days=FAR_DAYS)
    version = hub.add_release(Kind.BETTER)
    rollout = hub.roll_out(version, failure_count_min=2)  # One that fails is not yet too many.
    wait_until(lambda: "tuf.expired" in sentences(hub, rollout), seconds_max=STEP_S)
    assert hub.model_on(agent.device)["version"] == 1
    before = decisions_count(hub)
    wait_until(lambda: decisions_count(hub) > before + 20, seconds_max=STEP_S)

    clock.set(days=0)
    wait_until(lambda: receipts(hub, agent)[0] == (version, "settled"), seconds_max=STEP_S)
    # It was held meanwhile, and goes on by itself.
    wait_until(lambda: hub.rollout_state(rollout) == "done", seconds_max=STEP_S)
    assert hub.model_on(agent.device)["failure"] is None

    wait_until(drained(agent), seconds_max=STEP_S)
    agent.stop()
    check_records(hub, [agent])
    told = records(hub, agent)
    arrived = [record.received_ms for record in told]
    assert arrived == sorted(arrived), "the order of telling is not the order of arriving"
    dates = [record.at_ms for record in told]
    assert max(dates) - min(dates) > FAR_DAYS * DAY_S * 1000, "the clock did not jump"
