"""Cloud Jobs over a real database, disk and processes; only the trainer is played."""

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from cloud_hub.sql_database import Database
from cloud_hub.training.cloud.cloud_job import CloudJobState, EndReason, RunKind
from cloud_hub.training.cloud.order import Choice, ExecutorName, Pruner, Range, Sampler, SearchOrder
from cloud_hub.training.job import Outcome
from cloud_hub.training.trainer.spec import Recipe
from shared.errors import ContractError, RefusedError
from tests.support.cloud_bench import SETTINGS, CloudBench
from tests.support.played_trainer import Play

pytestmark = pytest.mark.slow
FINISHED, RUNNING = CloudJobState.FINISHED, CloudJobState.RUNNING
RATES = {"recipe.learning_rate": Choice(values=(0.1, 0.001, 1.0, 0.01))}


@pytest.fixture
def bench(migrated_sqlite_file: Path, tmp_path: Path) -> Iterator[CloudBench]:
    (tmp_path / "hub.db").write_bytes(migrated_sqlite_file.read_bytes())
    database = Database(f"sqlite:///{tmp_path}/hub.db")
    made = CloudBench(database, tmp_path)
    yield made
    made.close()
    database.close()


def test_a_job_runs_from_its_order_to_its_release(bench: CloudBench) -> None:
    bench.play(all=Play(words="hello\n", strange_lines=2))
    job = bench.submit(notes="first", owner="bob")
    assert bench.cloud.get(job).order.dataset_version == 3
    done = bench.finish(job)
    assert (done.state, done.outcome, done.code) == (FINISHED, Outcome.COMPLETED, "job.released")
    assert (done.release_version, done.candidate_id) == (1, "cand-1")
    assert done.value == pytest.approx(0.903)
    assert done.result_checkpoint_id is not None
    kept = bench.checkpoints.get(done.result_checkpoint_id)
    assert (kept.origin, kept.lineage_id) == (job, done.lineage_id)
    run = bench.run(job)
    assert (run.kind, run.attempt, run.deaths, run.best_epoch) == (RunKind.SINGLE, 1, 0, 3.0)
    assert (run.progress.evaluations, run.progress.device_seconds) == (3, 3.0)
    curve = bench.cloud.curve(job)
    assert [point.loss for point in curve.progress] == [1.0, 0.5, pytest.approx(1 / 3)]
    assert [round(point.value, 3) for point in curve.evaluations] == [0.901, 0.902, 0.903]
    # Two lines that are no events have numbers, too.
    events = bench.cloud.events(job, after=1)
    assert events[0].number == 4
    assert len(bench.cloud.events(job, after=events[-1].number)) == 0
    assert bench.cloud.log(job) == "hello\n"
    report = bench.cloud.report(job)
    assert report is not None
    assert report.weights_digest == kept.weights_digest
    assert bench.cloud.plot(job, "confusion.png") == b"\x89PNG"
    assert bench.cloud.plot(job, "job.json") is None
    row = bench.cloud.usage(owner="bob")[0]
    assert (row.model, row.device_seconds, row.runs_count) == ("tones", 3.0, 1)
    assert bench.cloud.usage(owner="ada") == ()


def test_what_people_look_at_outlives_the_folder(bench: CloudBench) -> None:
    job = bench.submit()
    bench.finish(job)
    before = bench.cloud.curve(job), bench.cloud.report(job), bench.cloud.result(job)
    bench.cloud = bench.new_service(type(SETTINGS)(folders_kept=0))
    assert bench.cloud.sweep() == 1
    assert not bench.run_folder(job).exists()
    assert (bench.cloud.curve(job), bench.cloud.report(job), bench.cloud.result(job)) == before
    assert before[1] is not None
    assert bench.cloud.plot(job, "confusion.png") == b"\x89PNG"
    assert bench.cloud.sweep() == 0


def test_what_a_failed_job_said_outlives_its_folder_too(bench: CloudBench) -> None:
    bench.play(all=Play(refuse="training.no_gpu", words="no GPU here\n"))
    job = bench.submit()
    assert bench.finish(job).outcome is Outcome.FAILED
    bench.cloud = bench.new_service(type(SETTINGS)(folders_kept=0))
    assert bench.cloud.sweep() == 1
    assert bench.cloud.log(job) == "no GPU here\n"
    assert bench.cloud.report(job) is None


def test_usage_is_counted_in_the_month_in_which_it_was_spent(bench: CloudBench) -> None:
    bench.play(all=Play(wait_at=2))
    bench.clock.advance(15.5 * 86_400.0)  # 30 November 2023
    job = bench.submit(owner="bob", timeout_s=6e5)
    bench.until_at(job, 1)
    bench.clock.advance(86_400.0)
    bench.go(job)
    bench.finish(job)
    rows = {(row.month, row.owner): row.device_seconds for row in bench.cloud.usage(owner="bob")}
    assert rows == {("2023-12", "bob"): 2.0, ("2023-11", "bob"): 1.0}


def test_two_jobs_are_set_beside_each_other(bench: CloudBench) -> None:
    a = bench.submit(is_released=False)
    b = bench.submit(is_released=False, recipe=Recipe(epochs=2, learning_rate=0.01))
    bench.until(lambda: bench.is_settled(a) and bench.is_settled(b))
    compared = bench.cloud.compare(a, b)
    assert {(pair.path, pair.a, pair.b) for pair in compared.settings} == {
        ("recipe.epochs", "3.0", "2.0"), ("recipe.learning_rate", "0.1", "0.01"),
    }  # fmt: skip
    assert compared.is_same_data
    assert compared.is_clear
    accuracy = next(pair for pair in compared.metrics if pair.name == "test.accuracy")
    assert accuracy.difference == pytest.approx(-0.201)


def test_a_candidate_that_the_gate_refuses_is_no_failed_job(bench: CloudBench) -> None:
    bench.gate.refuses = True
    done = bench.finish(bench.submit())
    assert (done.outcome, done.release_version) == (Outcome.COMPLETED, None)
    assert (done.code, done.candidate_id) == ("gate.refused", "cand-1")
    assert done.result_checkpoint_id is not None


def test_a_refused_run_is_not_tried_again_and_the_queue_goes_on(bench: CloudBench) -> None:
    first = bench.submit()
    second = bench.submit()
    bench.play_run(f"{first}-0", Play(refuse="training.no_gpu"))
    failed, done = bench.finish(first), bench.finish(second)
    assert (failed.outcome, failed.code) == (Outcome.FAILED, "training.no_gpu")
    assert "Make it fit." in failed.text
    assert (bench.run(first).attempt, len(bench.starts(first))) == (1, 1)
    assert done.outcome is Outcome.COMPLETED


def test_a_killed_trainer_goes_on_from_its_state(bench: CloudBench) -> None:
    bench.play(all=Play(die_at=3, deaths=2, has_child=True))
    job = bench.submit()
    done = bench.finish(job)
    run = bench.run(job)
    assert (done.outcome, run.attempt, run.deaths) == (Outcome.COMPLETED, 3, 2)
    assert [start.resumed_step for start in bench.cloud.curve(job).attempts] == [None, 20, 20]
    # Two epochs by the first, none by the second, one by the third
    assert run.progress.device_seconds == 3.0
    child = int((bench.run_folder(job) / "child").read_text())
    assert "ISTHMUS" not in _environment(child)


def test_a_trainer_that_keeps_dying_fails_its_job_with_its_last_words(bench: CloudBench) -> None:
    bench.play(all=Play(die_at=1, deaths=99, words="cannot allocate\n"))
    job = bench.submit(retries_max=1)
    done = bench.finish(job)
    assert (done.outcome, done.code) == (Outcome.FAILED, "run.died")
    assert bench.run(job).attempt == 2
    for word in ("SIGKILL", "cannot allocate", "2 times"):
        assert word in done.text
    assert bench.cloud.status().runs_running == 0


def test_a_job_is_stopped_and_what_there_was_is_kept(bench: CloudBench) -> None:
    bench.play(all=Play(wait_at=3))
    job = bench.submit()
    waiting = bench.submit()
    bench.until_at(job, 2)
    assert bench.cloud.stop(job, by="bob", reason="enough").is_stopping
    bench.cloud.stop(waiting)
    done, other = bench.finish(job), bench.finish(waiting)
    assert (done.outcome, done.release_version) == (Outcome.STOPPED, None)
    assert "bob stopped it: enough" in done.text
    assert done.result_checkpoint_id is not None
    assert bench.run(job).end_reason is EndReason.STOP
    assert (other.outcome, other.result_checkpoint_id) == (Outcome.STOPPED, None)
    assert bench.starts(waiting) == []
    with pytest.raises(RefusedError) as caught:
        bench.cloud.stop(job)
    assert caught.value.code == "job.cannot_stop"


def test_a_deaf_trainer_is_killed_when_its_time_is_over(bench: CloudBench) -> None:
    bench.cloud = bench.new_service(msgspec.structs.replace(SETTINGS, term_s_max=2.0))
    bench.play(all=Play(wait_at=2, is_deaf=True))
    job = bench.submit(timeout_s=5.0)
    bench.until_at(job, 1)
    (pid,) = bench.starts(job)
    # SIGTERM is ignored; two seconds later SIGKILL is not.
    done = bench.finish(job, seconds_max=30.0)
    assert (done.outcome, done.code) == (Outcome.FAILED, "run.timeout")
    assert not Path(f"/proc/{pid}").exists()


def test_the_timeout_is_over_all_attempts(bench: CloudBench) -> None:
    bench.play(all=Play(die_at=2, deaths=99))
    job = bench.submit(timeout_s=300.0, retries_max=20)
    bench.until(lambda: bench.run(job).deaths == 2)
    assert bench.run(job).state is not FINISHED
    bench.play(all=Play(wait_at=2))
    bench.until(lambda: bench.run(job).attempt == 3)
    bench.clock.advance(299.0)
    assert bench.finish(job).code == "run.timeout"


def test_folds_estimate_and_the_model_is_trained_after_them(bench: CloudBench) -> None:
    bench.play(all=Play(value_by_fold=(0.8, 0.9, 0.85)))
    job = bench.submit(folds=3)
    done = bench.finish(job)
    assert done.value == pytest.approx(0.85)
    assert done.value_low == pytest.approx(0.85 - 4.303 * 0.05 / 3**0.5, abs=1e-4)
    kinds = [run.kind for run in bench.cloud.runs(job)]
    assert kinds == [RunKind.FOLD] * 3 + [RunKind.REFIT]
    assert (done.result_run, done.release_version) == (3, 1)
    only = bench.finish(bench.submit(folds=2, is_released=False))
    assert (only.result_run, only.result_checkpoint_id) == (None, None)
    assert only.outcome is Outcome.COMPLETED


def test_a_fold_that_is_refused_ends_the_others(bench: CloudBench) -> None:
    job = bench.submit(folds=3)
    bench.play_run(f"{job}-0", Play(refuse="dataset.folds"))
    done = bench.finish(job)
    assert (done.outcome, done.code) == (Outcome.FAILED, "dataset.folds")
    assert done.text.startswith("Fold 0")
    assert [run.outcome for run in bench.cloud.runs(job)][1:] == [Outcome.STOPPED] * 2


def test_a_grid_is_searched_and_the_best_trial_is_the_result(bench: CloudBench) -> None:
    search = SearchOrder(space=RATES, sampler=Sampler.GRID, pruner=Pruner.NONE, is_refitted=True)
    job = bench.submit(search=search)
    done = bench.finish(job, seconds_max=40.0)
    trials = bench.cloud.trials(job)
    assert [trial.params["recipe.learning_rate"] for trial in trials] == [0.1, 0.001, 1.0, 0.01]
    assert [trial.is_best for trial in trials] == [True, False, False, False]
    assert (done.result_run, done.release_version) == (4, 1)
    assert bench.run(job, 4).params == {"recipe.learning_rate": 0.1}
    assert bench.cloud.usage()[0].runs_count == 5


def test_a_trial_without_hope_is_ended_early(bench: CloudBench) -> None:
    search = SearchOrder(
        space={"recipe.learning_rate": Choice(values=(0.1, 0.11, 0.12, 0.0001))},
        sampler=Sampler.GRID,
        pruner=Pruner.MEDIAN,
    )
    job = bench.submit(search=search, recipe=Recipe(epochs=6), is_released=False)
    bench.play_run(f"{job}-3", Play(wait_at=3))
    done = bench.finish(job, seconds_max=40.0)
    pruned = bench.cloud.trials(job)[3]
    assert pruned.is_pruned
    assert pruned.code == "trial.pruned"
    assert 0 < len(pruned.values) < 6
    assert done.outcome is Outcome.COMPLETED
    assert [trial.is_pruned for trial in bench.cloud.trials(job)][:3] == [False] * 3


def test_a_search_goes_on_the_same_after_a_restart(bench: CloudBench) -> None:
    space = {"recipe.learning_rate": Range(low=1e-3, high=1.0, is_log=True)}
    search = SearchOrder(space=space, sampler=Sampler.TPE, pruner=Pruner.NONE, trials=3)
    order = {"search": search, "seed": 7, "recipe": Recipe(epochs=1), "is_released": False}
    first = bench.submit(**order)
    bench.finish(first, seconds_max=40.0)
    second = bench.submit(**order)
    bench.until(lambda: len(bench.cloud.runs(second)) == 2, seconds_max=40.0)
    bench.lose(bench.cloud)
    bench.cloud = bench.new_service()
    bench.finish(second, seconds_max=40.0)
    assert _params(bench, first) == _params(bench, second)


def test_a_search_whose_first_trials_fail_gives_up(bench: CloudBench) -> None:
    bench.play(all=Play(refuse="training.diverged"))
    search = SearchOrder(space=RATES, sampler=Sampler.GRID, pruner=Pruner.NONE)
    done = bench.finish(bench.submit(search=search), seconds_max=40.0)
    assert (done.outcome, done.code) == (Outcome.FAILED, "training.diverged")
    assert len(bench.cloud.runs(done.job_id)) == 3


def test_an_order_that_cannot_be_carried_out_names_its_field(bench: CloudBench) -> None:
    space = {"recipe.no_such_rate": Choice(values=(0.1,))}
    for changes, code in (
        ({"dataset": "none"}, "dataset.unknown"),
        ({"checkpoint": "ckpt-none"}, "checkpoint.unknown"),
        ({"model": "other"}, "order.checkpoint"),
        ({"executor": ExecutorName.RAY}, "training.no_ray"),
        ({"search": SearchOrder(space=space)}, "order.search"),
        ({"timeout_s": 1e6}, "order.timeout_s"),
    ):
        with pytest.raises((RefusedError, ContractError)) as caught:
            bench.submit(**changes)
        assert caught.value.code == code
    bench.datasets.labelled_count = 0
    with pytest.raises(ContractError, match="has no labels"):
        bench.submit()
    assert bench.cloud.list() == ()


def test_a_torn_result_fails_its_job_and_says_so(bench: CloudBench) -> None:
    bench.play(all=Play(is_torn_result=True))
    done = bench.finish(bench.submit())
    assert (done.outcome, done.code) == (Outcome.FAILED, "run.result_invalid")


def _params(bench: CloudBench, job: str) -> list[object]:
    return [dict(trial.params) for trial in bench.cloud.trials(job)]


def _environment(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace")
    except OSError:
        return ""
