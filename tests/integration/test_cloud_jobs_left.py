"""What a Job leaves that did not complete: weights to go on from, or a word that there are none."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from cloud_hub.sql_database import Database
from cloud_hub.training.cloud.order import Choice, Pruner, Sampler, SearchOrder
from cloud_hub.training.cloud.process_salvage import salvage
from cloud_hub.training.job import Outcome
from cloud_hub.training.trainer.run_files import BEST, RESULT, Evaluated
from cloud_hub.training.trainer.torch_run import run
from shared.model.weights import decode_weights, digest_weights
from tests.support.cloud_bench import CloudBench
from tests.support.played_trainer import Play
from tests.support.training_runs import make_run, make_spec, shapes_dataset

pytestmark = pytest.mark.slow
RATES = {"recipe.learning_rate": Choice(values=(0.1, 0.01))}


@pytest.fixture
def bench(migrated_sqlite_file: Path, tmp_path: Path) -> Iterator[CloudBench]:
    (tmp_path / "hub.db").write_bytes(migrated_sqlite_file.read_bytes())
    database = Database(f"sqlite:///{tmp_path}/hub.db")
    made = CloudBench(database, tmp_path)
    yield made
    made.close()
    database.close()


def test_a_job_that_runs_out_of_time_keeps_its_weights_and_says_how_to_go_on(
    bench: CloudBench,
) -> None:
    bench.play(all=Play(wait_at=2))
    job = bench.submit(timeout_s=60.0)
    bench.until_at(job, 1)
    bench.clock.advance(61.0)
    done = bench.finish(job)
    assert (done.outcome, done.code) == (Outcome.FAILED, "run.timeout")
    assert done.result_checkpoint_id is not None
    assert bench.checkpoints.get(done.result_checkpoint_id).origin == job
    assert done.value == pytest.approx(0.901)
    assert done.release_version is None, "what was broken off is not released by itself"
    assert "longer timeout_s" in done.text
    assert f"--dataset tones:3 --checkpoint {done.result_checkpoint_id}" in done.text
    bench.play()
    again = bench.submit(checkpoint=done.result_checkpoint_id)
    assert bench.finish(again).outcome is Outcome.COMPLETED


def test_a_job_without_a_state_that_can_be_read_says_that_nothing_is_left(
    bench: CloudBench,
) -> None:
    bench.play(all=Play(die_at=2, deaths=99))  # Its states are no torch archives
    done = bench.finish(bench.submit(retries_max=0))
    assert (done.outcome, done.code) == (Outcome.FAILED, "run.died")
    assert done.result_checkpoint_id is None
    assert "No weights are left of it." in done.text


def test_a_search_all_of_whose_trials_run_out_of_time_leaves_the_best(bench: CloudBench) -> None:
    bench.play(all=Play(wait_at=2))
    search = SearchOrder(space=RATES, sampler=Sampler.GRID, pruner=Pruner.NONE, trials=2)
    job = bench.submit(search=search, timeout_s=60.0)
    for index in range(2):
        bench.until_at(job, 1, index)
        bench.clock.advance(61.0)
    done = bench.finish(job)
    assert (done.outcome, done.code, done.result_run) == (Outcome.FAILED, "run.timeout", 0)
    assert done.result_checkpoint_id is not None


def test_the_newest_state_of_a_killed_run_becomes_its_result(tmp_path: Path) -> None:
    at = make_run(tmp_path / "run", make_spec(shapes_dataset(tmp_path / "objects")))
    (at.folder / "stop").touch()
    assert run(at.spec_path, {}) == 0
    stopped = at.result
    for name in (RESULT, BEST):  # As a run looks that was killed after its state
        (at.folder / name).unlink()
    (state,) = at.folder.glob("state-*")
    (at.folder / "state-9999999999.pt").write_bytes(b"torn")
    assert salvage(at.folder) == ""
    made = at.result
    assert made.is_stopped
    assert (made.weights_digest, made.value) == (stopped.weights_digest, stopped.value)
    last = at.events(Evaluated)[-1]
    assert isinstance(last, Evaluated)
    assert made.epochs == pytest.approx(last.epoch)
    assert digest_weights(decode_weights((at.folder / BEST).read_bytes())) == made.weights_digest
    assert state.exists(), "somebody may want it to go on"


def test_nothing_is_made_of_a_run_without_a_state(tmp_path: Path) -> None:
    at = make_run(tmp_path / "run", make_spec(shapes_dataset(tmp_path / "objects")))
    assert salvage(at.folder) == ""
    assert not (at.folder / RESULT).exists()
    at.spec_path.write_bytes(b"{")
    assert "training.spec" in salvage(at.folder)
