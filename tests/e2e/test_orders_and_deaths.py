"""A real agent under a real hub: a worker that is killed, a pipeline that is ordered.

Both agents write what they decide into a file of JSON lines of their own, beside what they tell.
"""

import json
import os
import signal
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil
import pytest

from shared.clock import SystemClock, now_ms
from tests.support.commands import type_in
from tests.support.fleet_story import STEP_S, wait_for
from tests.support.learning_fleet import command
from tests.support.local_broker import LocalBroker
from tests.support.ordered_pump import (
    MODEL,
    PIPELINE,
    Pump,
    add_release,
    decisions,
    order,
)
from tests.support.real_fleet import RealAgent, RealHub, free_port
from tests.support.tiny_releases import Kind
from tests.support.waiting import wait_until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.xdist_group("processes"),
    pytest.mark.timeout(300),
]
CAUSE = "killed by SIGKILL"
FILE_SINK = """
[[pipelines.sinks]]
kind = "jsonl"
path = "{path}"
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runtime")


@pytest.fixture(scope="module")
def hub(folder: Path) -> Iterator[RealHub]:
    with RealHub(folder) as started:
        yield started


@pytest.fixture(scope="module")
def tones(hub: RealHub) -> int:
    return hub.add_release(Kind.GOOD)


@pytest.fixture
def agent(
    request: pytest.FixtureRequest, folder: Path, hub: RealHub, tones: int
) -> Iterator[RealAgent]:
    """One that decides with a settled release, in a worker process."""
    name = str(request.param)
    more_toml = FILE_SINK.format(path=folder / f"{name}.jsonl")
    started = RealAgent(name, folder, hub, more_toml=more_toml)
    started.start()
    wait_for(hub, hub.roll_out(tones, devices=[started.device]), "done")
    yield started
    if started.is_running:
        started.stop()


def lines(agent: RealAgent) -> list[dict[str, Any]]:
    """What it has decided, whole lines only."""
    text = (agent.state.parent / f"{agent.name}.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


def said(agent: RealAgent, *words: str) -> Any:
    """What `edge-agent` says of it."""
    return type_in("edge-agent", *words, "--json", "--state", agent.state).json


def more_lines(agent: RealAgent, count: int) -> None:
    """Wait until it has decided so many more items."""
    goal = len(lines(agent)) + count
    wait_until(lambda: len(lines(agent)) >= goal, seconds_max=STEP_S)


@pytest.mark.parametrize("agent", ["watchman"], indirect=True)
def test_a_killed_worker_costs_the_item_in_flight_and_everybody_is_told_why(
    hub: RealHub, agent: RealAgent
) -> None:
    more_lines(agent, 20)
    (worker,) = said(agent, "top")["workers"]
    assert (worker["model"], worker["restarts_count"], worker["last_cause"]) == ("tones", 0, "")
    os.kill(worker["pid"], signal.SIGSTOP)  # The next run is in flight for certain
    wait_until(lambda: psutil.Process(worker["pid"]).status() == psutil.STATUS_STOPPED)
    before = len(lines(agent))
    wait_until(lambda: _stands_still(agent))
    os.kill(worker["pid"], signal.SIGKILL)
    wait_until(lambda: len(lines(agent)) > before + 50, seconds_max=STEP_S)
    wait_until(lambda: _now(agent)["workers"][0]["restarts_count"] == 1)

    (after,) = said(agent, "top")["workers"]
    assert after["pid"] not in (None, worker["pid"])
    assert CAUSE in after["last_cause"]
    assert said(agent, "status")["numbers"]["workers"][0]["last_cause"] == after["last_cause"]
    (bench,) = said(agent, "top")["pipelines"]
    assert (bench["state"], bench["items_dropped"]) == ("running", 0)
    assert 1 <= bench["items_failed"] <= (os.cpu_count() or 1), "one for each lane at most"
    wait_until(lambda: _events(hub, agent, "worker.restarted"), seconds_max=STEP_S)
    (event,) = _events(hub, agent, "worker.restarted")
    assert CAUSE in event["text"]
    assert "of tones was started again, 1 time so far" in event["text"]
    wait_until(lambda: _missed(hub, agent) == bench["items_failed"], seconds_max=STEP_S)
    assert agent.stop() == 0

    items = [line["item"] for line in lines(agent)]
    assert items == sorted(set(items))
    gaps = [now - then - 1 for then, now in pairwise(items) if now != then + 1]
    assert sum(gaps) == bench["items_failed"], "what was in flight, and nothing else"
    logged = [json.loads(line) for line in agent.log.read_text().splitlines()]
    (failing,) = [line for line in logged if line["event"] == "inference.failing"]
    assert failing["code"] == "worker.lost"
    assert CAUSE in failing["detail"]


def _stands_still(agent: RealAgent) -> bool:
    """Whether nothing was decided since the last status but items keep coming."""
    now = len(lines(agent))
    (bench,) = _now(agent)["pipelines"]
    return bool(bench["items_in"] > now and len(lines(agent)) == now)


def _now(agent: RealAgent) -> dict[str, Any]:
    """The numbers that it last wrote down."""
    status = agent.status()
    assert status is not None
    numbers: dict[str, Any] = status["numbers"]
    return numbers


def _events(hub: RealHub, agent: RealAgent, code: str) -> list[dict[str, Any]]:
    events = hub.get(f"/devices/{agent.device}/events")["events"]
    return [event for event in events if event["code"] == code]


def _missed(hub: RealHub, agent: RealAgent) -> int:
    windows = hub.get(f"/devices/{agent.device}/telemetry", pipeline="bench", limit=500)["windows"]
    return sum(window["items_failed"] for window in windows)


@pytest.fixture
def port(tmp_path: Path) -> Iterator[int]:
    broker = LocalBroker(tmp_path, free_port())
    broker.start()
    pump = Pump(broker.port)
    yield broker.port
    pump.close()
    broker.kill()


@pytest.mark.parametrize("agent", ["pumphouse"], indirect=True)
def test_an_ordered_pipeline_from_its_order_to_its_removal(
    tmp_path: Path, hub: RealHub, agent: RealAgent, port: int
) -> None:
    def order_it(**changes: Any) -> None:
        file = order(tmp_path, port, **changes)
        command(hub, "pipelines", "set", str(file), "--device", agent.name)

    def listed() -> dict[str, Any]:
        found = hub.get(f"/devices/{agent.device}/pipelines")["pipelines"]
        return {pipeline["name"]: pipeline for pipeline in found}

    def anomalous(since_ms: int = 0) -> set[bool]:
        """What the hub last heard of it."""
        told = decisions(hub, agent.device)[-5:]
        newest = [decision for decision in told if decision["captured_ms"] >= since_ms]
        return {decision["outcome"]["is_anomalous"] for decision in newest}

    order_it(threshold=0.5)
    wait_until(lambda: listed()[PIPELINE]["state"] == "waiting for a model", seconds_max=STEP_S)
    release = add_release(hub, tmp_path)  # Its model comes after it
    rollout = hub.roll_out(release, model=MODEL, devices=[agent.device])
    wait_for(hub, rollout, "done")
    wait_until(lambda: anomalous() == {True}, seconds_max=STEP_S)
    assert listed()[PIPELINE]["state"] == "running"
    assert listed()[PIPELINE]["is_ordered"]
    assert not listed()["bench"]["is_ordered"]

    order_it(threshold=2.0)
    wait_until(lambda: anomalous() == {False}, seconds_max=STEP_S)
    told = decisions(hub, agent.device)
    verdicts = [decision["outcome"]["is_anomalous"] for decision in told]
    assert set(verdicts) == {True, False}
    assert verdicts == sorted(verdicts, reverse=True), "from one item on, and for good"
    items = [decision["item"] for decision in told]
    assert items == list(range(items[0], items[0] + len(items))), "its own items are not lost"

    order_it(threshold=2.0, sink='kind = "jsonl"\npath = "/etc/decisions.jsonl"')
    wait_until(lambda: listed()[PIPELINE]["state"] == "refused", seconds_max=STEP_S)
    told_by_list = command(hub, "pipelines", "list", agent.name)["pipelines"]
    shown = {pipeline["name"]: pipeline for pipeline in told_by_list}
    assert "no sink of the kind jsonl" in shown[PIPELINE]["detail"]
    assert shown["bench"]["state"] == "running"
    order_it(threshold=3.0)  # Not what the model's own spec would say
    wait_until(lambda: listed()[PIPELINE]["state"] == "running", seconds_max=STEP_S)
    more_lines(agent, 20)

    hub.kill()
    assert agent.stop() == 0
    items = [line["item"] for line in lines(agent)]
    assert items == list(range(len(items))), "its neighbour never began anew, and lost nothing"
    started_ms = now_ms(SystemClock())
    agent.start()
    wait_until(lambda: _decided(agent).get(PIPELINE, 0) > 20, seconds_max=STEP_S)
    status = agent.status()
    assert status is not None
    assert not status["is_connected"]
    ordered = {p["pipeline"]: p.get("is_ordered") for p in status["report"]["pipelines"]}
    assert ordered[PIPELINE]
    hub.start()
    wait_until(lambda: anomalous(started_ms) == {False}, seconds_max=STEP_S)  # As ordered last

    command(hub, "pipelines", "remove", agent.name, PIPELINE)
    wait_until(lambda: set(listed()) == {"bench"}, seconds_max=STEP_S)
    wait_until(lambda: set(_decided(agent)) == {"bench"}, seconds_max=STEP_S)
    more_lines(agent, 20)


def _decided(agent: RealAgent) -> dict[str, int]:
    """How many items each pipeline that runs has decided, as the agent last said."""
    numbers = (agent.status() or {}).get("numbers") or {"pipelines": []}
    return {one["pipeline"]: one["items_decided"] for one in numbers["pipelines"]}
