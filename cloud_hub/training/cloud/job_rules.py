"""What is to be done next about a Job, given how its runs stand. Pure.

1. Folds estimate: their mean, with its interval, is the Job's value. What is released is trained
   once more, on the split of the dataset itself; where nothing is to be released, there is no
   result beside the numbers.
2. Of a search the best trial's weights are the result, or, if the order says so, those of one more
   run with its values; if that run fails, the best trial stays.
3. A fold that fails fails the Job. A trial that fails is a trial; if the first
   TRIALS_FAILED_MAX all do, the order is at fault.
4. What a Job had learned when it failed, by its timeout or otherwise, is kept as what a person's
   stop leaves is: the weights of its best evaluation. Folds leave nothing: they are no model.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from cloud_hub.training.cloud.cloud_job import (
    CloudJob,
    CloudJobState,
    EndReason,
    Params,
    Run,
    RunKind,
)
from cloud_hub.training.cloud.lifecycle import JobEvent
from cloud_hub.training.cloud.order_settings import trials_count
from cloud_hub.training.job import Outcome

TRIALS_FAILED_MAX = 3
_DONE = {RunKind.JOIN: "joined and judged", RunKind.EXPLAIN: "judged as it is"}
WHOLE_KINDS = (RunKind.SINGLE, RunKind.REFIT, RunKind.JOIN)  # Whose weights are the model's
# Student's t, 0.975, by degrees of freedom from 1: FOLDS_MAX folds have 19.
_T = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228,
    2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Begin:
    """Its first run was claimed."""


@dataclass(frozen=True, slots=True)
class EndRuns:
    """What has not finished is to end."""


@dataclass(frozen=True, slots=True)
class MakeRefit:
    """One more run, with these values."""

    params: Params


@dataclass(frozen=True, slots=True)
class AskAdvisor:
    """The search goes on."""

    trials: tuple[Run, ...]


@dataclass(frozen=True, slots=True)
class Finish:
    """The Job is over."""

    event: JobEvent
    code: str
    text: str
    result_run: int | None = None
    value: float | None = None
    value_low: float | None = None
    value_high: float | None = None


Move = Begin | EndRuns | MakeRefit | AskAdvisor | Finish | None


def next_move(job: CloudJob, runs: Sequence[Run]) -> Move:
    """Return what is to be done about a Job that is not finished; None: nothing now."""
    if job.state is CloudJobState.QUEUED and any(run.attempt > 0 for run in runs):
        return Begin()
    if job.is_stopping:
        if any(not run.is_finished for run in runs):
            return _end_runs(runs)
        return _stopped(job, runs)
    if job.order.search is not None:
        return _search(job, runs)
    failed = next((run for run in runs if _has_failed(run)), None)
    if any(not run.is_finished for run in runs):
        return _end_runs(runs) if failed is not None else None
    if failed is not None:
        kept = _left(runs)
        text = _told(failed)
        if kept is None:
            return Finish(JobEvent.FAILED, failed.code, text)
        return Finish(JobEvent.FAILED, failed.code, text, kept.index, value_left(kept))
    if any(run.outcome is Outcome.STOPPED for run in runs):
        return _stopped(job, runs)
    if job.order.folds is not None:
        return _folds(job, runs)
    only = runs[0]
    done = _DONE.get(only.kind, "trained")
    text = f"It was {done}: {_number(only.value)}."
    return Finish(JobEvent.COMPLETED, "job.completed", text, only.index, only.value)


def best_of(runs: Sequence[Run]) -> Run | None:
    """Return the run with the highest value among those that completed, the first of equals."""
    done = [run for run in runs if run.outcome is Outcome.COMPLETED and run.value is not None]
    return max(done, key=lambda run: (run.value or 0.0, -run.index), default=None)


def value_left(run: Run) -> float | None:
    """Return the value of what a run leaves: its result's, else that of its best evaluation."""
    return run.value if run.value is not None else run.progress.best_value


def mean_with_interval(values: Sequence[float]) -> tuple[float, float | None, float | None]:
    """Return the mean of some numbers and its 95 % interval (Student's t); None for one number."""
    count = len(values)
    mean = math.fsum(values) / count
    if count == 1:
        return mean, None, None
    variance = math.fsum((value - mean) ** 2 for value in values) / (count - 1)
    half = _T[min(count - 2, len(_T) - 1)] * math.sqrt(variance / count)
    return mean, mean - half, mean + half


def _end_runs(runs: Sequence[Run]) -> Move:
    """Return the move that ends what has not finished; None where all of it has been asked to."""
    is_asked = all(run.is_finished or run.end_reason is EndReason.STOP for run in runs)
    return None if is_asked else EndRuns()


def _folds(job: CloudJob, runs: Sequence[Run]) -> Move:
    folds = [run for run in runs if run.kind is RunKind.FOLD]
    refit = next((run for run in runs if run.kind is RunKind.REFIT), None)
    if refit is None and job.order.is_released:
        return MakeRefit({})
    mean, low, high = mean_with_interval([run.value for run in folds if run.value is not None])
    text = f"{len(folds)} folds: {_number(mean)}"
    if low is not None and high is not None:
        text += f", 95 % interval {_number(low)} to {_number(high)}"
    if refit is None:
        text += ". They estimate; there is no model to release."
    else:
        text += f". The model itself was trained after that: {_number(refit.value)}."
    index = refit.index if refit is not None else None
    return Finish(JobEvent.COMPLETED, "job.completed", text, index, mean, low, high)


def _search(job: CloudJob, runs: Sequence[Run]) -> Move:
    search = job.order.search
    assert search is not None
    trials = tuple(run for run in runs if run.kind is RunKind.TRIAL)
    refit = next((run for run in runs if run.kind is RunKind.REFIT), None)
    first = trials[:TRIALS_FAILED_MAX]
    is_hopeless = len(first) == TRIALS_FAILED_MAX and all(_has_failed(run) for run in first)
    if any(not run.is_finished for run in trials):
        return _end_runs(runs) if is_hopeless else AskAdvisor(trials)
    if not is_hopeless and len(trials) < trials_count(search):
        return AskAdvisor(trials)
    best = best_of(trials)
    if best is None:
        failed = next((run for run in trials if _has_failed(run)), None)
        if failed is None:
            return Finish(JobEvent.STOPPED, "job.stopped", "Its trials were stopped.")
        told = f"No trial was completed. {_told(failed)}"
        kept = _left(runs)
        if kept is None:
            return Finish(JobEvent.FAILED, failed.code, told)
        return Finish(JobEvent.FAILED, failed.code, told, kept.index, value_left(kept))
    text = f"Trial {best.index} of {len(trials)} was the best: {_number(best.value)}."
    if not search.is_refitted:
        return Finish(JobEvent.COMPLETED, "job.completed", text, best.index, best.value)
    if refit is None:
        return MakeRefit(best.params)
    if not refit.is_finished:
        return None
    if refit.outcome is Outcome.COMPLETED:
        text += f" Trained once more with its values: {_number(refit.value)}."
        return Finish(JobEvent.COMPLETED, "job.completed", text, refit.index, refit.value)
    text += f" Training once more failed, so that trial is the result. {_told(refit)}"
    return Finish(JobEvent.COMPLETED, "job.completed", text, best.index, best.value)


def _stopped(job: CloudJob, runs: Sequence[Run]) -> Finish:
    """Return the end of a Job that a person ended: what there was until then is kept."""
    text = job.text or "It was stopped."
    kept = _left(runs)
    if kept is None:
        return Finish(JobEvent.STOPPED, "job.stopped", text)
    return Finish(JobEvent.STOPPED, "job.stopped", text, kept.index, value_left(kept))


def _left(runs: Sequence[Run]) -> Run | None:
    """Return the run whose weights are all that a Job leaves that did not complete; see rule 4."""
    for run in reversed(runs):
        if run.kind in WHOLE_KINDS and value_left(run) is not None:
            return run
    trials = [run for run in runs if run.kind is RunKind.TRIAL]
    done = best_of(trials)
    if done is not None:
        return done
    known = [run for run in trials if value_left(run) is not None and not run.is_pruned]
    return max(known, key=lambda run: (value_left(run) or 0.0, -run.index), default=None)


def _has_failed(run: Run) -> bool:
    return run.outcome is Outcome.FAILED


def _told(run: Run) -> str:
    what = {RunKind.FOLD: f"Fold {run.fold}", RunKind.TRIAL: f"Trial {run.index}"}.get(run.kind)
    return f"{what}: {run.text}" if what is not None else run.text


def _number(value: float | None) -> str:
    return "no value" if value is None else f"{value:.4f}"
