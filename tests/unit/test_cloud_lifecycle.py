"""The tables of cloud Jobs and runs, and what is to be done next about a Job."""

import math
from dataclasses import replace

import pytest

from cloud_hub.datasets.dataset import DatasetName
from cloud_hub.training.cloud.cloud_job import (
    CloudJob,
    CloudJobId,
    CloudJobState,
    EndReason,
    Run,
    RunKind,
    RunProgress,
)
from cloud_hub.training.cloud.job_rules import (
    AskAdvisor,
    Begin,
    EndRuns,
    Finish,
    MakeRefit,
    mean_with_interval,
    next_move,
)
from cloud_hub.training.cloud.lifecycle import (
    ENDED_BY,
    JOB_TRANSITIONS,
    RETRY_S_MAX,
    RUN_TRANSITIONS,
    JobEvent,
    RunEvent,
    death_event,
    require_stoppable,
    retry_delay_ms,
)
from cloud_hub.training.cloud.order import Choice, CloudOrder, ExecutorName, Sampler, SearchOrder
from cloud_hub.training.cloud.record import RunRecord, advance_run, ask_end
from cloud_hub.training.job import Outcome
from cloud_hub.training.lifecycle import ResultState
from shared.errors import RefusedError
from shared.ids import LineageId, ModelName

QUEUED, RUNNING, FINISHED = CloudJobState.QUEUED, CloudJobState.RUNNING, CloudJobState.FINISHED
DONE, FAILED, STOPPED = Outcome.COMPLETED, Outcome.FAILED, Outcome.STOPPED
SEARCH = SearchOrder(
    space={"recipe.learning_rate": Choice(values=(0.1, 0.2, 0.3, 0.4))}, sampler=Sampler.GRID
)


def job(**changes: object) -> CloudJob:
    order = CloudOrder(
        model="tones",
        dataset="tones",
        checkpoint="ckpt-1",
        **changes,  # type: ignore[arg-type]
    )
    return CloudJob(
        job_id=CloudJobId("cloud-1"), model=ModelName("tones"), order=order,
        dataset=DatasetName("tones"), dataset_version=1, manifest_digest="", state=RUNNING,
        outcome=None, is_stopping=False, code="", text="", owner="ada", created_by="ada",
        lineage_id=LineageId("line-1"), base_checkpoint_id=None,
        result_state=ResultState.AWAITED, result_run=None, result_checkpoint_id=None,
        candidate_id=None, release_version=None, value=None, value_low=None, value_high=None,
        created_ms=0, changed_ms=0, started_ms=0, finished_ms=None,
    )  # fmt: skip


def run(
    index: int = 0,
    outcome: Outcome | None = None,
    *,
    kind: RunKind = RunKind.SINGLE,
    value: float | None = None,
    reason: EndReason | None = None,
    state: CloudJobState | None = None,
) -> Run:
    return Run(
        job_id=CloudJobId("cloud-1"), index=index, kind=kind, params={"x": index}, fold=None,
        state=state or (FINISHED if outcome else RUNNING), outcome=outcome, end_reason=reason,
        code="why", text="because", attempt=1, deaths=0, value=value, best_epoch=None,
        progress=RunProgress(), created_ms=0, started_ms=0, finished_ms=None,
    )  # fmt: skip


def trials(*ends: tuple[Outcome | None, float | None]) -> list[Run]:
    return [run(i, end, kind=RunKind.TRIAL, value=value) for i, (end, value) in enumerate(ends)]


@pytest.mark.parametrize("state", CloudJobState)
def test_every_state_survives_a_restart(state: CloudJobState) -> None:
    assert RUN_TRANSITIONS[state, RunEvent.RESTARTED].state is state
    assert JOB_TRANSITIONS[state, JobEvent.RESTARTED].state is state


def test_what_is_finished_stays_so_and_has_an_outcome_and_nothing_else_has() -> None:
    for table in (RUN_TRANSITIONS, JOB_TRANSITIONS):
        for (state, event), step in table.items():
            is_end = step.state is FINISHED and str(event) != "restarted"
            assert (step.outcome is not None) == is_end
            assert state is not FINISHED or str(event) == "restarted"


def test_a_run_that_was_asked_to_end_can_end_so_in_any_state() -> None:
    for event in ENDED_BY.values():
        assert RUN_TRANSITIONS[QUEUED, event].state is FINISHED
        assert RUN_TRANSITIONS[RUNNING, event].state is FINISHED


def test_a_finished_job_cannot_be_stopped() -> None:
    require_stoppable(QUEUED, job_id="cloud-1")
    with pytest.raises(RefusedError, match="nothing to stop"):
        require_stoppable(FINISHED, job_id="cloud-1")


def test_deaths_are_counted_and_waited_for_longer_and_longer() -> None:
    events = [death_event(deaths, retries_max=2) for deaths in (1, 2, 3)]
    assert events == [RunEvent.DIED, RunEvent.DIED, RunEvent.GAVE_UP]
    delays = [retry_delay_ms(deaths) for deaths in (1, 2, 3, 1000)]
    assert delays == [1000, 2000, 4000, RETRY_S_MAX * 1000]


def test_time_is_counted_over_attempts_and_not_between_them() -> None:
    record = RunRecord(
        run=run(state=QUEUED), executor=ExecutorName.LOCAL, processes=1, place_id="here"
    )
    record = advance_run(record, RunEvent.CLAIMED, code="", text="", now_ms=1000)
    assert record.wall_ms(3000) == 2000
    record = advance_run(record, RunEvent.DIED, code="", text="", now_ms=4000)
    assert (record.wall_ms(99_000), record.retry_ms, record.run.deaths) == (3000, 5000, 1)
    record = advance_run(record, RunEvent.CLAIMED, code="", text="", now_ms=100_000)
    assert (record.wall_ms(101_000), record.run.attempt) == (4000, 3)


def test_a_persons_wish_is_the_reason_that_counts() -> None:
    record = RunRecord(run=run(), executor=ExecutorName.LOCAL, processes=1, place_id="here")
    timed_out = ask_end(record, EndReason.TIMEOUT, now_ms=5)
    assert ask_end(timed_out, EndReason.PRUNE, now_ms=6) == timed_out
    stopped = ask_end(timed_out, EndReason.STOP, now_ms=7)
    assert (stopped.run.end_reason, stopped.end_asked_ms) == (EndReason.STOP, 5)


def test_a_job_begins_with_its_first_run_and_ends_with_its_last() -> None:
    waiting = replace(job(), state=QUEUED)
    idle = replace(run(state=QUEUED), attempt=0)
    assert next_move(waiting, [idle]) is None
    assert isinstance(next_move(waiting, [run()]), Begin)
    assert next_move(job(), [run()]) is None
    move = next_move(job(), [run(0, DONE, value=0.5)])
    assert isinstance(move, Finish)
    assert (move.event, move.result_run, move.value) == (JobEvent.COMPLETED, 0, 0.5)


def test_a_fold_that_fails_ends_the_others_and_then_the_job() -> None:
    folds = [run(0, FAILED, kind=RunKind.FOLD), run(1, kind=RunKind.FOLD)]
    assert isinstance(next_move(job(folds=2), folds), EndRuns)
    folds[1] = run(1, STOPPED, kind=RunKind.FOLD)
    move = next_move(job(folds=2), folds)
    assert isinstance(move, Finish)
    assert (move.event, move.code) == (JobEvent.FAILED, "why")


def test_folds_are_followed_by_the_model_itself_if_it_is_to_be_released() -> None:
    folds = [run(i, DONE, kind=RunKind.FOLD, value=v) for i, v in enumerate((0.8, 0.9))]
    assert isinstance(next_move(job(folds=2), folds), MakeRefit)
    alone = next_move(job(folds=2, is_released=False), folds)
    assert isinstance(alone, Finish)
    assert alone.result_run is None
    assert alone.value == pytest.approx(0.85)
    done = next_move(job(folds=2), [*folds, run(2, DONE, kind=RunKind.REFIT, value=0.99)])
    assert isinstance(done, Finish)
    assert done.result_run == 2
    assert done.value == pytest.approx(0.85)


def test_the_interval_is_students() -> None:
    # R: t.test(c(0.8, 0.9, 0.85))$conf.int
    mean, low, high = mean_with_interval([0.8, 0.9, 0.85])
    assert (mean, low, high) == pytest.approx((0.85, 0.7258, 0.9742), abs=1e-4)
    assert mean_with_interval([0.5]) == (0.5, None, None)
    assert math.isclose(mean_with_interval([0.1] * 25)[0], 0.1)


def test_a_search_asks_until_its_trials_are_made_and_takes_the_best() -> None:
    searching = job(search=SEARCH)
    some = trials((DONE, 0.5), (DONE, 0.9))
    assert isinstance(next_move(searching, some), AskAdvisor)
    ends = trials((DONE, 0.5), (DONE, 0.9), (STOPPED, 0.95), (FAILED, None))
    move = next_move(searching, ends)
    assert isinstance(move, Finish)
    # A pruned trial is never the result, however good it looked.
    assert (move.result_run, move.value) == (1, 0.9)


def test_a_search_trains_once_more_if_asked_and_falls_back_on_its_best_trial() -> None:
    ends = trials((DONE, 0.5), (DONE, 0.9), (DONE, 0.7), (DONE, 0.6))
    searching = job(search=SearchOrder(space=SEARCH.space, sampler=Sampler.GRID, is_refitted=True))
    move = next_move(searching, ends)
    assert isinstance(move, MakeRefit)
    assert move.params == {"x": 1}
    assert next_move(searching, [*ends, run(4, kind=RunKind.REFIT)]) is None
    failed = next_move(searching, [*ends, run(4, FAILED, kind=RunKind.REFIT)])
    assert isinstance(failed, Finish)
    assert (failed.event, failed.result_run) == (JobEvent.COMPLETED, 1)


def test_a_search_whose_first_trials_all_fail_is_given_up() -> None:
    searching = job(search=SEARCH)
    two = trials((FAILED, None), (FAILED, None))
    assert isinstance(next_move(searching, two), AskAdvisor)
    move = next_move(searching, trials(*[(FAILED, None)] * 3))
    assert isinstance(move, Finish)
    assert move.event is JobEvent.FAILED


def test_a_stopped_job_waits_for_its_runs_and_keeps_what_there_is() -> None:
    stopping = replace(job(), is_stopping=True, text="ada stopped it.")
    assert isinstance(next_move(stopping, [run()]), EndRuns)
    assert next_move(stopping, [run(reason=EndReason.STOP)]) is None, "asked already"
    move = next_move(stopping, [run(0, STOPPED, value=0.4)])
    assert isinstance(move, Finish)
    assert (move.event, move.result_run, move.text) == (JobEvent.STOPPED, 0, "ada stopped it.")
    nothing = next_move(stopping, [run(0, STOPPED)])
    assert isinstance(nothing, Finish)
    assert nothing.result_run is None


def test_a_job_that_failed_leaves_what_it_had_learned_and_folds_leave_nothing() -> None:
    known = replace(run(0, FAILED), progress=RunProgress(best_value=0.7))
    move = next_move(job(), [known])
    assert isinstance(move, Finish)
    assert (move.event, move.result_run, move.value) == (JobEvent.FAILED, 0, 0.7)
    nothing = next_move(job(), [run(0, FAILED)])
    assert isinstance(nothing, Finish)
    assert nothing.result_run is None
    fold = replace(known, kind=RunKind.FOLD)
    folds = next_move(job(folds=2), [fold, run(1, STOPPED, kind=RunKind.FOLD)])
    assert isinstance(folds, Finish)
    assert folds.result_run is None


def test_a_report_is_no_model_to_go_on_from() -> None:
    explained = run(0, STOPPED, kind=RunKind.EXPLAIN, value=0.5)
    move = next_move(replace(job(), is_stopping=True), [explained])
    assert isinstance(move, Finish)
    assert (move.event, move.result_run) == (JobEvent.STOPPED, None)
