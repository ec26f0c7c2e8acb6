"""The loop through the whole product: devices learn, the gate judges, people read why."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.fleet_story import wait_online
from tests.support.learning_fleet import (
    MODEL,
    NETWORK,
    SPEC,
    STEP_S,
    LearningJob,
    add_learner,
    command,
    digits_of,
    evaluation_npz,
    learners_left,
    node_of,
    require_gapless,
    server_of,
    superlink_of,
)
from tests.support.real_fleet import RealHub
from tests.support.waiting import wait_until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.xdist_group("processes"),
    pytest.mark.timeout(240),
]
ROUNDS = 3
LEARNERS = 3
IDLE = "[learning]\nidle_s = 3.0\n"
ORDER_TOML = """\
[method]
batch_size = 16
momentum = 0.9
"""


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[RealHub]:
    with RealHub(tmp_path, settings=IDLE) as started:
        yield started


def test_devices_learn_together_and_what_they_learned_is_judged_and_released(
    tmp_path: Path, hub: RealHub
) -> None:
    learners = [
        add_learner(hub, tmp_path, f"d{n}", digits_of(n, count=LEARNERS)) for n in range(LEARNERS)
    ]
    few = digits_of(0, count=50)
    # What owners may say: not this kind of Job; nothing of this model; nothing at all.
    forbids = add_learner(hub, tmp_path, "forbids", few, more='jobs_forbidden = ["job-*"]')
    other = add_learner(hub, tmp_path, "other", few, model="tones")
    silent = add_learner(hub, tmp_path, "silent", None)
    agents = [*learners, forbids, other, silent]
    for agent in agents:
        agent.start()
    for agent in agents:
        wait_online(hub, agent)
    base = hub.add_checkpoint(spec=SPEC, network=NETWORK)
    hub.put_evaluation_set(MODEL, evaluation_npz())

    order = tmp_path / "job.toml"
    order.write_text(ORDER_TOML)
    answer = command(
        hub,
        *("jobs", "start", "--file", str(order), "--model", MODEL, "--group", "bench"),
        *("--rounds", str(ROUNDS), "--epochs", "8", "--learning-rate", "0.05"),
        *("--devices-min", str(LEARNERS), "--deadline", "30s", "--gather", "60s"),
    )
    job = LearningJob(hub, answer["job_id"])
    started: set[str] = set()

    def has_ended() -> bool:
        started.update(agent.name for agent in (forbids, other, silent) if node_of(agent))
        return bool(job.get()["candidate_id"])

    job.wait(has_ended, seconds_max=2 * STEP_S)
    found = job.wait_for_end()
    assert (found["state"], found["outcome"]) == ("finished", "completed"), job.told()
    assert found["rounds_done"] == ROUNDS
    assert found["checkpoint_id"] == base
    assert found["release_version"] == 1, job.told()

    # The owners' word: shown with its reason, and no process was ever started.
    devices = job.devices()
    assert devices[forbids.device]["state"] == "refused"
    assert devices[forbids.device]["code"] == "policy.job"
    assert devices[other.device]["state"] == "refused"
    assert devices[other.device]["code"] == "policy.model"
    assert devices[silent.device]["state"] == "refused"
    assert devices[silent.device]["text"]
    assert started == set()
    for one in (forbids, other, silent):
        assert devices[one.device]["rounds_answered"] == 0
        assert devices[one.device]["accuracy_after"] is None

    # Everybody else's part: counted in each Round, better on its own held-out digits after it.
    for number in range(1, ROUNDS + 1):
        assert set(job.counted(number)) == {agent.device for agent in learners}
    for agent in learners:
        part = devices[agent.device]
        assert part["rounds_answered"] == ROUNDS
        assert part["updates_refused"] == 0
        assert part["bytes_up"] > ROUNDS * 4 * (64 * 32 + 32 * 10)  # fp32
        assert part["accuracy_before"] < 0.35
        assert part["accuracy_after"] > 0.8
    spread = job.get("/accuracy")
    assert spread["after"]["minimum"] > spread["before"]["maximum"]
    rounds = job.get("/rounds")["rounds"]
    assert [(one["round"], one["devices_counted"]) for one in rounds] == [
        (number, LEARNERS) for number in range(1, ROUNDS + 1)
    ]
    require_gapless(job.events())

    # What people read of it.
    why = json.dumps(command(hub, "why", job.job_id))
    assert found["candidate_id"] in why
    assert "The gate let it through" in why
    verdict = hub.get(f"/candidates/{found['candidate_id']}")["verdict"]
    assert verdict["is_passed"]
    [release] = hub.get("/releases", model=MODEL)["releases"]
    assert release["version"] == 1

    # Nothing of it is left.
    wait_until(lambda: not learners_left(agents), seconds_max=STEP_S)
    wait_until(lambda: not server_of(hub) and not superlink_of(hub), seconds_max=STEP_S)
    hub.check_all()
    for agent in agents:
        assert agent.stop() == 0
    assert learners_left(agents) == []
