"""kill -9 of everything that a cloud Job needs while it trains: nothing is trained twice unsaid."""

import os
import signal
from collections.abc import Iterator

import pytest

from tests.support.cloud_hub_story import (
    RECIPE,
    CloudHub,
    HubJob,
    cloud_hub,
    kill,
    require_completed,
    require_every_step_once,
    running,
)
from tests.support.learning_fleet import parent_of
from tests.support.waiting import wait_until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.xdist_group("processes"),
    pytest.mark.timeout(300),
]
LONGER = {**RECIPE, "epochs": 50, "evaluate_every": 25}
TOGETHER = {**RECIPE, "epochs": 12, "evaluate_every": 6}


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CloudHub]:
    folder = tmp_path_factory.mktemp("hub")
    with cloud_hub(folder) as started:
        started.set_up()
        yield started


@pytest.fixture(scope="module")
def unbroken(hub: CloudHub) -> HubJob:
    job = hub.order(recipe=LONGER)
    require_completed(job)
    require_every_step_once(job, starts=1)
    return job


def test_a_job_whose_trainer_and_hub_are_killed_ends_with_the_weights_of_an_unbroken_one(
    hub: CloudHub, unbroken: HubJob
) -> None:
    job = hub.order(recipe=LONGER, retries_max=1)
    job.wait_for_saved(100)
    [trainer] = job.pids()
    kill(trainer)
    job.wait(lambda: job.run()["deaths"] == 1)

    # The hub alone: what trains is found again, and goes on. It stands still meanwhile, so that it
    # is not done before.
    job.wait_for_saved(400)
    [trainer] = job.pids()
    os.kill(trainer, signal.SIGSTOP)
    hub.kill()
    hub.start()
    job.wait(lambda: job.run()["state"] == "running")
    os.kill(trainer, signal.SIGCONT)
    step = job.wait_for_saved(job.step + 50)
    assert job.pids() == [trainer]

    # Both at once.
    job.wait_for_saved(step + 100)
    hub.kill()
    kill(trainer)
    hub.start()
    require_completed(job)
    run = job.run()
    # What a hub did not see die is no death.
    assert (run["attempt"], run["deaths"], run["outcome"]) == (3, 1, "completed"), job.told()
    require_every_step_once(job, starts=3)
    assert job.weights() == unbroken.weights()
    assert job.get()["value"] == unbroken.get()["value"]
    seconds = [event["device_seconds"] for event in job.events("progressed")]
    assert run["progress"]["device_seconds"] > max(seconds)


def test_a_rank_and_torchrun_are_killed_and_the_job_goes_on_with_both(
    hub: CloudHub,
) -> None:
    job = hub.order(recipe=TOGETHER, processes=2, retries_max=2)
    job.wait_for_saved(100)
    torchrun, ranks = _processes(job)
    kill(ranks[1])
    job.wait(lambda: job.run()["deaths"] == 1)
    wait_until(lambda: not running([torchrun, *ranks]))

    job.wait_for_saved(200)
    torchrun, ranks = _processes(job)
    kill(torchrun)
    job.wait(lambda: job.run()["deaths"] == 2)
    # Nobody is left who would write into the folder beside the next ones.
    wait_until(lambda: not running([torchrun, *ranks]))

    done = require_completed(job)
    run = job.run()
    assert (run["attempt"], run["deaths"]) == (3, 2), job.told()
    require_every_step_once(job, starts=3)
    assert {event["processes"] for event in job.events("started")} == {2}
    assert done["value"] > 0.9
    hub.check_all()


def _processes(job: HubJob) -> tuple[int, list[int]]:
    """Return torchrun, and the two that it started."""
    found = job.pids()
    ranks = [pid for pid in found if parent_of(pid) in found]
    [torchrun] = [pid for pid in found if pid not in ranks]
    assert len(ranks) == 2, found
    return torchrun, ranks
