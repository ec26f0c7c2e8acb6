"""A real hub whose Jobs run on a Ray cluster: the same command, the same weights, and the stop."""

from pathlib import Path

import pytest

from tests.support.cloud_hub_story import LONG, cloud_hub, require_completed
from tests.support.learning_fleet import processes
from tests.support.ray_cluster import ray_cluster
from tests.support.waiting import wait_until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.xdist_group("processes"),
    pytest.mark.timeout(300),
]
RAY_S = 120.0
STOP_S = 30.0
TRAINER = "cloud_hub.training.trainer"


def test_what_is_trained_on_ray_is_what_is_trained_here_and_is_stopped_there(
    tmp_path: Path,
) -> None:
    with (
        ray_cluster() as address,
        cloud_hub(tmp_path, settings=f'ray_address = "{address}"\n') as hub,
    ):
        hub.set_up()
        there = hub.order(executor="ray")
        long = hub.order(executor="ray", recipe=LONG)
        here = hub.order()
        require_completed(here)
        there.wait(lambda: there.get()["state"] == "finished", seconds_max=RAY_S)
        assert require_completed(there)["value"] > 0.9
        assert there.weights() == here.weights()
        assert [event["resumed_step"] for event in there.events("started")] == [None]

        long.wait(lambda: bool(long.events("saved")), seconds_max=RAY_S)
        pids = processes(TRAINER, long.folder)
        assert pids
        hub.post(f"/cloud-jobs/{long.job_id}/stop", {"why": "enough"})
        wait_until(lambda: not processes(TRAINER, long.folder), seconds_max=STOP_S)
        stopped = long.wait_for_end()
        assert stopped["outcome"] == "stopped", long.told()
        assert stopped["result_checkpoint_id"] is not None
        hub.check_all()
