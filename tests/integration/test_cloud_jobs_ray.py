"""The very same command as a job of a real Ray cluster on this machine."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from cloud_hub.sql_database import Database
from cloud_hub.training.cloud.cloud_job import CloudJobState
from cloud_hub.training.cloud.order import ExecutorName
from cloud_hub.training.cloud.settings import CloudTrainingSettings
from cloud_hub.training.job import Outcome
from tests.support.cloud_bench import CloudBench
from tests.support.played_trainer import Play
from tests.support.ray_cluster import ray_cluster

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with ray_cluster() as found:
        yield found


def test_a_job_runs_on_ray_is_stopped_there_and_outlives_its_hub(
    address: str, migrated_sqlite_file: Path, tmp_path: Path
) -> None:
    (tmp_path / "hub.db").write_bytes(migrated_sqlite_file.read_bytes())
    database = Database(f"sqlite:///{tmp_path}/hub.db")
    bench = CloudBench(database, tmp_path)
    first = bench.cloud
    settings = CloudTrainingSettings(ray_address=address, stop_s_max=0.0)
    bench.cloud = bench.new_service(settings)
    bench.forget(first)
    try:
        bench.play(all=Play(wait_at=2, words="hello from ray\n"))
        job = bench.submit(executor=ExecutorName.RAY)
        other = bench.submit(executor=ExecutorName.RAY)
        bench.until(lambda: bench.run(job).progress.epoch >= 1, seconds_max=60)
        # The hub is gone; what runs on the cluster is found again by its name.
        bench.lose(bench.cloud)
        bench.cloud = bench.new_service(settings)
        bench.until(lambda: bench.run(other).progress.epoch >= 1, seconds_max=60)
        bench.go(job)
        bench.cloud.stop(other)
        done = bench.finish(job, seconds_max=60)
        stopped = bench.finish(other, seconds_max=60)
        assert (done.outcome, done.release_version) == (Outcome.COMPLETED, 1)
        assert stopped.outcome is Outcome.STOPPED
        assert (len(bench.starts(job)), len(bench.starts(other))) == (1, 1)
        assert "hello from ray" in bench.cloud.log(job)
        assert bench.run(job).state is CloudJobState.FINISHED
    finally:
        bench.close()
        database.close()
