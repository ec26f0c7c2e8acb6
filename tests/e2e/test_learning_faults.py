"""Every process of a Job is killed in the middle of a Round, and a device's network is cut.

A Round is held open by a device that stands still, so that what is killed has work in hand: what
the others did before is kept, and nobody's work is counted twice.
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support import hostile_node
from tests.support.fleet_story import wait_online
from tests.support.learning_fleet import (
    NETWORK,
    SPEC,
    STEP_S,
    Frozen,
    LearningJob,
    add_learner,
    digits_of,
    kill,
    learners_left,
    node_of,
    require_gapless,
    server_of,
    superlink_of,
    training_of,
)
from tests.support.real_fleet import RealAgent, RealHub
from tests.support.tcp_proxy import TcpProxy
from tests.support.waiting import wait_until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.xdist_group("processes"),
    pytest.mark.timeout(280),
]
DEVICES = 3
RELAY = "127.0.0.2"
DEADLINE_S = 4.0
LEASE_S = 20.0  # The least that there is
METHOD = {"epochs": 2, "batch_size": 16, "learning_rate": 0.05}
LONG = {**METHOD, "epochs": 25}  # Long enough to be met while it trains


class Fleet:
    """A hub and three devices; the last one's way to the SuperLink can be cut."""

    def __init__(self, folder: Path) -> None:
        self.hub = RealHub(folder, host_names=("127.0.0.1", RELAY))
        self.hub.start()
        self.agents = [
            add_learner(
                self.hub,
                folder,
                f"d{n}",
                digits_of(n, count=DEVICES),
                more=f"lease_s = {LEASE_S}",
            )
            for n in range(DEVICES)
        ]
        self.proxy = self._relay()
        self.agents[-1].reach_hub_at(RELAY)
        for agent in self.agents:
            agent.start()
        for agent in self.agents:
            wait_online(self.hub, agent)
        self.hub.add_checkpoint(spec=SPEC, network=NETWORK)

    @property
    def everyone(self) -> set[str]:
        return {agent.device for agent in self.agents}

    def refuse(self) -> None:
        """Let nobody listen where the last device looks for the SuperLink."""
        self.proxy.close()

    def listen_again(self) -> None:
        self.proxy = self._relay()

    def close(self) -> None:
        self.proxy.close()
        self.hub.close()

    def _relay(self) -> TcpProxy:
        return TcpProxy(self.hub.learning_port, host=RELAY, port=self.hub.learning_port)


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    started = Fleet(tmp_path_factory.mktemp("fleet"))
    try:
        yield started
    finally:
        started.close()


def test_whatever_is_killed_in_the_middle_of_a_round_its_work_is_counted_once(
    fleet: Fleet,
) -> None:
    hub, agents = fleet.hub, fleet.agents
    first, second, last = agents
    faults: dict[str, Callable[[], None]] = {
        "ServerApp": lambda: kill(server_of(hub)),
        "SuperLink": lambda: kill(superlink_of(hub)),
        "hub": lambda: restart(hub),
        "learning process": lambda: kill(node_of(first)),
        "agent": lambda: restart(second),
    }
    job = LearningJob.start(
        hub,
        rounds=len(faults) + 2,
        devices_min=DEVICES,
        quorum=1.0,
        deadline_s=60.0,
        method=LONG,
    )
    # In the first Round: the child that trains, while it does.
    job.wait(lambda: training_of(first))
    kill(training_of(first))

    for number, (name, strike) in enumerate(faults.items(), start=2):
        job.wait_for("round.closed", number=number - 1)
        with Frozen(last):
            others = {first.device, second.device}
            job.wait(lambda n=number, o=others: set(job.counted(n)) >= o)  # type: ignore[misc]
            before = job.counted(number)
            strike()
            assert set(before) == others, f"{name}: the Round was not open"
        job.wait_for("round.closed", number=number)
        counted = job.counted(number)
        assert {d: counted[d] for d in before} == before, name  # Not asked for again

    found = job.wait_for_end(seconds_max=2 * STEP_S)
    assert found["outcome"] == "completed", job.told()
    assert found["rounds_done"] == len(faults) + 2
    require_gapless(job.events())
    # The child's death is told with its reason; the Round is asked again, of that device alone.
    [repeated] = job.events("round.repeated")
    [died] = job.events("device.failed")
    assert (died["device"], died["round"], repeated["round"]) == (first.device, 1, 1)
    assert "SIGKILL" in died["text"]
    for number in range(1, len(faults) + 3):
        assert set(job.counted(number)) == fleet.everyone, f"{number}\n{job.told()}"
    wait_until(lambda: not learners_left(agents), seconds_max=STEP_S)


def restart(process: RealHub | RealAgent) -> None:
    """Kill it as a power cut does, and start it again."""
    process.kill()
    process.start()


def test_a_round_does_not_wait_for_a_device_without_network_which_comes_back_by_itself(
    fleet: Fleet,
) -> None:
    lost = fleet.agents[-1]
    job = LearningJob.start(
        fleet.hub, rounds=100, repeats_max=20, devices_min=2, deadline_s=DEADLINE_S, method=METHOD
    )
    # To close a relay resets what is open; to cut it after a black hole does too.
    weather: dict[str, tuple[Callable[[], None], Callable[[], None]]] = {
        "reset, then refused": (fleet.refuse, fleet.listen_again),
        "end of file": (lambda: fleet.proxy.set(is_ending=True), lambda: fleet.proxy.set()),
        "black hole": (lambda: fleet.proxy.set(is_frozen=True), fair_again(fleet)),
    }
    job.wait(lambda: any(lost.device in job.counted(n) for n in range(1, newest_round(job) + 1)))
    for name, (begin, end) in weather.items():
        begin()
        dark = newest_round(job) + 1
        job.wait_for("round.closed", number=dark)
        end()
        back = newest_round(job)
        job.wait(
            lambda b=back: any(
                lost.device in job.counted(n) for n in range(b, newest_round(job) + 1)
            )  # type: ignore[misc]
        )
        closed = job.events("round.closed", number=dark)
        assert closed[0]["numbers"]["seconds"] < DEADLINE_S + 3.0, name
        assert lost.device not in job.counted(dark), name
    fleet.hub.post(f"/jobs/{job.job_id}/stop", {"why": "seen enough"})
    job.wait(lambda: job.get()["state"] == "finished")
    require_gapless(job.events())


def test_a_round_goes_on_after_a_silence_longer_than_the_lease(fleet: Fleet) -> None:
    lost = fleet.agents[-1]
    job = LearningJob.start(
        fleet.hub, rounds=2, devices_min=DEVICES, quorum=1.0, deadline_s=120.0, method=LONG
    )
    job.wait_for("round.closed", number=1)
    job.wait(lambda: training_of(lost))
    fleet.proxy.set(is_frozen=True)
    job.wait(lambda: status_of(fleet.hub, lost) == "offline", seconds_max=LEASE_S + 5.0)
    assert set(job.counted(2)) == fleet.everyone - {lost.device}
    fair_again(fleet)()
    found = job.wait_for_end(seconds_max=2 * STEP_S)
    assert found["outcome"] == "completed", job.told()
    for number in (1, 2):
        assert set(job.counted(number)) == fleet.everyone, job.told()
    assert not job.events("round.repeated")
    require_gapless(job.events())


def status_of(hub: RealHub, agent: RealAgent) -> str:
    """Return what the SuperLink takes the agent's node for."""
    path = hub.state / "learning" / "superlink" / "standing.json"
    nodes = json.loads(path.read_text())["nodes"]
    return next((str(n["status"]) for n in nodes if n["device"] == agent.device), "")


def fair_again(fleet: Fleet) -> Callable[[], None]:
    def end() -> None:
        fleet.proxy.set()
        fleet.proxy.cut()

    return end


def newest_round(job: LearningJob) -> int:
    """Return the newest Round that was begun."""
    return max((int(event["round"]) for event in job.events("round.started")), default=0)


def test_a_hostile_device_is_refused_by_name_and_harms_nobody(fleet: Fleet, tmp_path: Path) -> None:
    lies = {
        "update.not_finite": hostile_node.not_finite,
        "update.norm": hostile_node.inflated,
        "update.shape": hostile_node.misshapen,
        "update.names": hostile_node.misnamed,
        "reply.misfit": hostile_node.of_other_job,
        "reply.misfit ": hostile_node.of_other_round,
        "update.shape ": hostile_node.oversized,
    }
    intruder = RealAgent("intruder", tmp_path, fleet.hub)
    liars = dict(enumerate(lies.values(), start=1))
    node = hostile_node.HostileNode(fleet.hub, intruder, liars)
    try:
        job = LearningJob.start(
            fleet.hub,
            rounds=len(lies),
            devices_min=DEVICES + 1,
            deadline_s=20.0,
            method={**METHOD, "momentum": 0.9},
        )
        found = job.wait_for_end(seconds_max=2 * STEP_S)
    finally:
        node.close()
    assert found["outcome"] == "completed", job.told()
    assert found["rounds_done"] == len(lies)
    assert node.sent == list(liars), node.troubles

    refused = {event["round"]: event for event in job.events("update.refused")}
    assert {event["device"] for event in refused.values()} == {intruder.device}, job.told()
    told = {number: event["text"].partition(":")[0] for number, event in refused.items()}
    assert told == {n: code.strip() for n, code in enumerate(lies, start=1)}, job.told()
    devices = job.devices()
    assert devices[intruder.device]["updates_refused"] == len(lies)
    for agent in fleet.agents:
        part = devices[agent.device]
        assert part["rounds_answered"] == len(lies)
        assert part["accuracy_after"] > 0.85
    for number in liars:
        assert set(job.counted(number)) == fleet.everyone
    require_gapless(job.events())
