"""Hubs, trainers and disks that fail, and what becomes of cloud Jobs; the trainer is played."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloud_hub.sql_database import Database
from cloud_hub.training.cloud.cloud_job import CloudJobState
from cloud_hub.training.cloud.service import ORPHAN_S, CloudJobService
from cloud_hub.training.cloud.settings import CloudTrainingSettings
from cloud_hub.training.executors.executor import Stage, Work
from cloud_hub.training.executors.process_local import MARK, LocalExecutor
from cloud_hub.training.job import Outcome
from cloud_hub.training.trainer.run_files import EVENTS, LOG, LOG_BYTES_MAX, SPEC
from shared.errors import TransientError
from tests.support.cloud_bench import CloudBench
from tests.support.manual_clock import ManualClock
from tests.support.played_trainer import Play
from tests.support.small_disk import small_disk
from tests.support.waiting import wait_until

pytestmark = pytest.mark.slow


@pytest.fixture
def bench(migrated_sqlite_file: Path, tmp_path: Path) -> Iterator[CloudBench]:
    (tmp_path / "hub.db").write_bytes(migrated_sqlite_file.read_bytes())
    database = Database(f"sqlite:///{tmp_path}/hub.db")
    made = CloudBench(database, tmp_path)
    yield made
    made.close()
    database.close()


def test_a_hub_that_is_gone_leaves_the_trainer_to_the_next(bench: CloudBench) -> None:
    bench.play(all=Play(wait_at=2))
    job = bench.submit()
    bench.until_at(job, 1)
    bench.lose(bench.cloud)
    bench.cloud = bench.new_service()
    bench.until_at(job, 1)
    bench.go(job)
    assert bench.finish(job).outcome is Outcome.COMPLETED
    # The same process, all the way: nothing was trained twice.
    assert len(bench.starts(job)) == 1
    assert bench.run(job).deaths == 0


def test_a_trainer_that_died_with_its_hub_goes_on_and_it_is_no_death(bench: CloudBench) -> None:
    bench.play(all=Play(wait_at=2))
    job = bench.submit(retries_max=0)
    bench.until_at(job, 1)
    bench.lose(bench.cloud)
    (pid,) = bench.starts(job)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    bench.go(job)
    bench.cloud = bench.new_service()
    done = bench.finish(job)
    run = bench.run(job)
    assert (done.outcome, run.attempt, run.deaths) == (Outcome.COMPLETED, 2, 0)
    assert [start.resumed_step for start in bench.cloud.curve(job).attempts] == [None, 10]


def test_a_result_that_no_hub_saw_come_counts(bench: CloudBench) -> None:
    bench.play(all=Play(wait_at=2))
    job = bench.submit()
    bench.until_at(job, 1)
    bench.lose(bench.cloud)
    bench.go(job)
    wait_until(lambda: (bench.run_folder(job) / "result.json").exists())
    bench.cloud = bench.new_service()
    assert bench.finish(job).outcome is Outcome.COMPLETED
    assert len(bench.starts(job)) == 1


def test_a_run_claimed_by_a_hub_that_died_before_it_started_it_is_started(
    bench: CloudBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = bench.submit()

    def die(_self: LocalExecutor, _work: Work) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(LocalExecutor, "start", die)
        with pytest.raises(KeyboardInterrupt):
            bench.cloud.tick()
    assert bench.run(job).state is CloudJobState.RUNNING
    bench.lose(bench.cloud)
    bench.cloud = bench.new_service()
    assert bench.finish(job).outcome is Outcome.COMPLETED
    assert len(bench.starts(job)) == 1


def test_a_folder_that_was_lost_is_made_again(bench: CloudBench) -> None:
    job = bench.submit()
    for path in bench.run_folder(job).iterdir():
        path.unlink()
    bench.run_folder(job).rmdir()
    assert bench.finish(job).outcome is Outcome.COMPLETED
    assert (bench.run_folder(job) / SPEC).is_file()


def test_a_hub_that_gives_its_runs_back_is_followed_at_once(bench: CloudBench) -> None:
    bench.play(all=Play(wait_at=2))
    job = bench.submit()
    bench.until_at(job, 1)
    first = bench.cloud
    bench.cloud = bench.new_service()
    bench.forget(first)
    first.close()
    bench.go(job)
    assert bench.finish(job).outcome is Outcome.COMPLETED
    assert len(bench.starts(job)) == 1


def test_two_hubs_on_one_disk_never_train_a_run_twice(database: Database, tmp_path: Path) -> None:
    bench = CloudBench(database, tmp_path)
    other = bench.new_service(CloudTrainingSettings(slots=2))
    try:
        jobs = [bench.submit(is_released=False) for _ in range(6)]
        stop = threading.Event()
        errors: list[BaseException] = []

        def tick(service: CloudJobService) -> None:
            try:
                while not stop.is_set():
                    service.tick()
                    stop.wait(0.01)
            except TransientError as error:
                errors.append(error)

        threads = [threading.Thread(target=tick, args=(one,)) for one in (bench.cloud, other)]
        for thread in threads:
            thread.start()
        try:
            wait_until(lambda: errors or all(_is_over(bench, job) for job in jobs), seconds_max=40)
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        assert errors == []
        assert [len(bench.starts(job)) for job in jobs] == [1] * 6
        assert {bench.cloud.get(job).outcome for job in jobs} == {Outcome.COMPLETED}
        assert sum(row.runs_count for row in bench.cloud.usage()) == 6
        bench.until(lambda: all(bench.is_settled(job) for job in jobs))
    finally:
        bench.close()


def test_a_run_is_never_started_in_a_folder_in_which_somebody_works(bench: CloudBench) -> None:
    bench.play(all=Play(wait_at=1))
    job = bench.submit()
    other = LocalExecutor(bench.folder / "elsewhere", bench.clock)
    folder = bench.run_folder(job)
    command = (sys.executable, "-c", "input()")
    bench.until(lambda: bench.starts(job))
    with pytest.raises(TransientError, match="already"):
        other.start(Work(key=folder.name, folder=folder, command=command))
    assert len(bench.starts(job)) == 1


def test_a_full_disk_refuses_an_order_and_leaves_nothing(bench: CloudBench, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", size_bytes=2 << 20) as disk:
        full = CloudBench(bench.database, disk.folder)
        disk.fill()
        with pytest.raises(TransientError) as caught:
            full.submit()
        assert caught.value.code == "disk.write_failed"
        assert full.cloud.list() == ()
        assert list(full.runs_folder.iterdir()) == []
        disk.empty()
        job = full.submit(is_released=False)
        assert full.finish(job).outcome is Outcome.COMPLETED
        full.close()


def test_events_that_never_end_are_gone_past(bench: CloudBench) -> None:
    bench.play(all=Play(wait_at=2))
    job = bench.submit()
    bench.until_at(job, 1)
    with (bench.run_folder(job) / EVENTS).open("ab") as file:
        file.write(b"x" * (3 << 20) + b"\n")
    bench.go(job)
    done = bench.finish(job)
    assert done.outcome is Outcome.COMPLETED
    assert bench.run(job).progress.evaluations == 3


def test_folders_of_orders_that_never_became_jobs_are_removed(bench: CloudBench) -> None:
    job = bench.submit()
    bench.finish(job)
    orphan = bench.runs_folder / "cloud-0123456789-0"
    orphan.mkdir()
    for folder in (orphan, bench.run_folder(job)):
        os.utime(folder, (0, bench.clock.now_s() - ORPHAN_S - 1))
    assert bench.cloud.sweep() == 1
    assert not orphan.exists()
    assert bench.run_folder(job).exists()


def test_a_log_is_emptied_when_it_is_too_long(tmp_path: Path) -> None:
    executor = LocalExecutor(tmp_path, ManualClock())
    folder = tmp_path / "run-0"
    folder.mkdir()
    command = (sys.executable, "-c", "import time; time.sleep(30)")
    executor.start(Work(key="run-0", folder=folder, command=command))
    with (folder / LOG).open("ab") as file:
        file.truncate(LOG_BYTES_MAX + 1)
    executor.tick()
    assert (folder / LOG).stat().st_size == 0
    executor.end("run-0")
    wait_until(lambda: executor.look("run-0").stage is Stage.ENDED)
    assert executor.look("run-0").text == "SIGTERM"
    executor.close()


def test_another_folders_runs_are_not_adopted(tmp_path: Path) -> None:
    environment = os.environ | {MARK: f"run-0@{tmp_path}/other"}
    command = [sys.executable, "-c", "input()"]
    process = subprocess.Popen(
        command, env=environment, start_new_session=True, stdin=subprocess.PIPE
    )
    try:
        executor = LocalExecutor(tmp_path, ManualClock())
        (tmp_path / "run-0").mkdir()
        executor.adopt()
        assert executor.look("run-0").stage is Stage.MISSING
    finally:
        process.kill()
        process.communicate()


def _is_over(bench: CloudBench, job: str) -> bool:
    return bench.cloud.get(job).state is CloudJobState.FINISHED
