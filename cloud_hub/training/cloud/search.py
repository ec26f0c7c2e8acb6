"""A search's next question, from how its trials stand; and when it is worth asking. Pure."""

from collections.abc import Mapping, Sequence

from cloud_hub.training.cloud.advice import Advice, Question, TrialHistory, TrialState
from cloud_hub.training.cloud.cloud_job import CloudJob, CloudJobState, EndReason, Run
from cloud_hub.training.cloud.order import Pruner, Sampler
from cloud_hub.training.cloud.order_settings import grid_point, trials_count
from cloud_hub.training.cloud.run_plan import evaluations_max
from cloud_hub.training.cloud.views import RunValue
from cloud_hub.training.job import Outcome

Memory = Mapping[str, float | str]
# What a question depends on: two that agree in this have the same answer.
Mark = tuple[tuple[str, int], ...]


def has_room(job: CloudJob, trials: Sequence[Run], *, parallel: int) -> bool:
    """Return whether one more trial should be made now."""
    assert job.order.search is not None
    waiting = sum(run.state is CloudJobState.QUEUED and not run.attempt for run in trials)
    running = sum(not run.is_finished for run in trials)
    return not waiting and running < parallel and len(trials) < trials_count(job.order.search)


def needs_advice(job: CloudJob, trials: Sequence[Run], *, is_room: bool) -> bool:
    """Return whether the advisor has anything to say."""
    assert job.order.search is not None
    if is_room:
        return True
    can_prune = job.order.search.pruner is not Pruner.NONE
    return can_prune and any(_is_judged(run) for run in trials)


def mark_of(trials: Sequence[Run], values: Mapping[int, Sequence[RunValue]]) -> Mark:
    """Return what a question about these trials depends on."""
    return tuple((_state(run), len(values.get(run.index, ()))) for run in trials)


def make_question(
    job: CloudJob,
    trials: Sequence[Run],
    values: Mapping[int, Sequence[RunValue]],
    memory: Mapping[int, Memory],
    *,
    is_room: bool,
) -> Question:
    """Return what to ask the advisor."""
    assert job.order.search is not None
    return Question(
        search=job.order.search,
        seed=job.order.seed,
        evaluations_max=evaluations_max(job.order),
        trials=tuple(
            TrialHistory(
                params=run.params,
                state=_state(run),
                value=run.value,
                values=tuple(value.value for value in values.get(run.index, ())),
                memory=memory.get(run.index, {}),
            )
            for run in trials
        ),
        is_trial_wanted=is_room,
    )


def advise_simply(question: Question) -> Advice | None:
    """Return what an advisor would say, where that takes no library: a grid without pruning."""
    search = question.search
    if search.sampler is not Sampler.GRID or search.pruner is not Pruner.NONE:
        return None
    count = len(question.trials)
    is_more = question.is_trial_wanted and count < trials_count(search)
    return Advice(params=grid_point(search, count) if is_more else None, pruned=(), memory={})


def _is_judged(run: Run) -> bool:
    is_ending = run.end_reason is not None
    return not run.is_finished and not is_ending and run.progress.evaluations > 0


def _state(run: Run) -> TrialState:
    if not run.is_finished:
        # One that is to end is over for the search already.
        return TrialState.PRUNED if run.end_reason is EndReason.PRUNE else TrialState.RUNNING
    if run.end_reason is EndReason.PRUNE and run.outcome is Outcome.STOPPED:
        return TrialState.PRUNED
    return TrialState.COMPLETE if run.outcome is Outcome.COMPLETED else TrialState.FAILED
