"""What the pages about Jobs in the cloud show, gathered from the services."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cloud_hub.api.cloud_job_words import (
    cloud_job_text,
    method_text,
    order_text,
    run_name,
    run_text,
    trained_text,
)
from cloud_hub.api.services import Services
from cloud_hub.api.verdict_words import verdict_text
from cloud_hub.candidates.candidate import Candidate
from cloud_hub.candidates.checkpoint import Checkpoint
from cloud_hub.dashboard.cloud_job_charts import ScatterChart, scatter_charts
from cloud_hub.dashboard.formats import span
from cloud_hub.dashboard.job_view import JobRow, view_jobs
from cloud_hub.explain.report import Interval
from cloud_hub.training.cloud.cloud_job import CloudJob, CloudJobState, Run
from cloud_hub.training.cloud.order import CloudOrder
from cloud_hub.training.cloud.order_settings import trials_count
from cloud_hub.training.cloud.views import Trial
from cloud_hub.training.trainer.run_files import Noted, Started
from shared.errors import RefusedError

JOBS_SHOWN = 50
RUNS_SHOWN = 100
TRIALS_SHOWN = 200
NOTES_SHOWN = 20
LOG_BYTES = 6000
SHARE_LEAST = 0.02  # Below that nothing can be said about how long it takes
SORTS = ("value", "index", "seconds")


@dataclass(frozen=True, slots=True)
class CloudRow:
    """One Job in the cloud in the list of Jobs."""

    job: CloudJob
    what: str  # "trains", "searches among 20 trials"
    share: float | None  # Done, 0..1; None: nobody can tell


@dataclass(frozen=True, slots=True)
class AnyRow:
    """One Job of either kind in the list; the other one is None."""

    created_ms: int
    devices: JobRow | None = None
    cloud: CloudRow | None = None


@dataclass(frozen=True, slots=True)
class RunRow:
    """One run in a Job's table."""

    run: Run
    name: str
    sentence: str
    share: float
    is_result: bool


@dataclass(frozen=True, slots=True)
class Cost:
    """What a Job took so far."""

    device_seconds: float
    items_per_s: float | None  # Newest, of all runs that train now, or of the fastest that did
    memory_bytes: int  # Peak
    gpu_share: float | None


@dataclass(frozen=True, slots=True)
class Came:
    """What came of a Job."""

    checkpoint: Checkpoint | None
    candidate: Candidate | None
    verdict: str  # In words; "" where there is none
    accuracy: Interval | None  # Of the report
    has_report: bool


@dataclass(frozen=True, slots=True)
class CloudJobPage:
    """One Job's page."""

    job: CloudJob
    sentence: str
    order: str
    method: str
    value: float | None  # The Job's, or the best so far
    value_name: str
    can_stop: bool
    share: float | None
    time_left: str
    cost: Cost
    runs: tuple[RunRow, ...]
    hidden_count: int
    trials: tuple[Trial, ...]
    trials_hidden: int
    params: tuple[tuple[str, str], ...]  # Paths of a search, with their short names
    scatters: tuple[ScatterChart, ...]
    sort: str
    notes: tuple[Noted, ...]
    start: Started | None
    log: str
    log_run: str
    came: Came


def view_all_jobs(services: Services) -> tuple[AnyRow, ...]:
    """Return the newest Jobs of both kinds."""
    rows = [AnyRow(row.job.created_ms, devices=row) for row in view_jobs(services)]
    for job in services.cloud_jobs.list(limit=JOBS_SHOWN):
        is_open = job.state is not CloudJobState.FINISHED
        runs = services.cloud_jobs.runs(job.job_id) if is_open else ()
        row = CloudRow(job, _what(job.order), share_of_work(job, runs) if is_open else 1.0)
        rows.append(AnyRow(job.created_ms, cloud=row))
    return tuple(sorted(rows, key=lambda row: -row.created_ms)[:JOBS_SHOWN])


def view_cloud_job(services: Services, job_id: str, *, sort: str = "value") -> CloudJobPage:
    """Return one Job in the cloud. Raises RefusedError `job.unknown`."""
    cloud = services.cloud_jobs
    job, runs = cloud.get(job_id), cloud.runs(job_id)
    trials = cloud.trials(job_id) if job.order.search is not None else ()
    main = main_run(job, runs)
    curve = cloud.curve(job_id, main.index) if main is not None else None
    share = share_of_work(job, runs)
    shown = sorted(runs, key=lambda run: (_urgency(job, run), run.index))
    return CloudJobPage(
        job=job,
        sentence=cloud_job_text(job),
        order=order_text(job),
        method=_method(job.order),
        value=_value(job, runs),
        value_name=value_name(curve.evaluations[-1].metrics if curve and curve.evaluations else {}),
        can_stop=job.state is not CloudJobState.FINISHED and not job.is_stopping,
        share=share,
        time_left=_time_left(services.clock.now_s(), job, share),
        cost=_cost(runs),
        runs=tuple(
            RunRow(
                run,
                run_name(run),
                run_text(run),
                1.0 if run.is_finished else _share(run),
                run.index == job.result_run,
            )
            for run in shown[:RUNS_SHOWN]
        ),
        hidden_count=max(0, len(shown) - RUNS_SHOWN),
        trials=_sorted(trials, sort)[:TRIALS_SHOWN],
        trials_hidden=max(0, len(trials) - TRIALS_SHOWN),
        params=params_of(job.order),
        scatters=scatter_charts(job.order, trials),
        sort=sort,
        notes=curve.notes[-NOTES_SHOWN:] if curve is not None else (),
        start=curve.attempts[-1] if curve is not None and curve.attempts else None,
        log=cloud.log(job_id, main.index, tail=LOG_BYTES) if main is not None else "",
        log_run=run_name(main) if main is not None else "",
        came=_came(services, job),
    )


def main_run(job: CloudJob, runs: Sequence[Run]) -> Run | None:
    """Return the run that says most about a Job now: its result's, one that trains, the best."""
    if job.result_run is not None:
        return next((run for run in runs if run.index == job.result_run), None)
    busy = [run for run in runs if run.state is CloudJobState.RUNNING]
    if busy:
        return busy[-1]
    begun = [run for run in runs if run.attempt]
    return max(begun, key=_value_of, default=next(reversed(runs), None))


def runs_total(job: CloudJob, runs: Sequence[Run]) -> int:
    """Return how many runs a Job has in the end, as far as is known."""
    order = job.order
    if job.state is CloudJobState.FINISHED:
        return len(runs)
    if order.search is not None:
        return trials_count(order.search) + order.search.is_refitted
    if order.folds is not None:
        return order.folds + order.is_released
    return max(1, len(runs))


def share_of_work(job: CloudJob, runs: Sequence[Run]) -> float | None:
    """Return how much of a Job is done, 0..1: by steps, every run counted alike."""
    if job.state is CloudJobState.FINISHED:
        return 1.0
    if job.state is CloudJobState.QUEUED and not any(run.progress.step for run in runs):
        return 0.0
    done = sum(1.0 if run.is_finished else _share(run) for run in runs)
    return min(1.0, done / max(1, runs_total(job, runs)))


def value_name(metrics: Mapping[str, float]) -> str:
    """Return what a Job's value is: what runs are compared by."""
    for name, words in (
        ("accuracy", "accuracy"),
        ("map", "mAP"),
        ("roc_area", "ROC area"),
        ("error", "error, negative"),
    ):
        if name in metrics:
            return words
    return "loss, negative" if "loss" in metrics else "value"


def params_of(order: CloudOrder) -> tuple[tuple[str, str], ...]:
    """Return the settings that a search tries, with their short names."""
    paths = sorted(order.search.space) if order.search is not None else []
    return tuple((path, path.rpartition(".")[2].replace("_", " ")) for path in paths)


def _what(order: CloudOrder) -> str:
    if order.ensemble:
        return f"joins {len(order.ensemble)} checkpoints"
    if not order.is_trained:
        return "explains a checkpoint"
    if order.folds is not None:
        return f"{order.folds} folds"
    return f"{order.search.trials} trials" if order.search is not None else "one run"


def _value(job: CloudJob, runs: Sequence[Run]) -> float | None:
    if job.value is not None:
        return job.value
    known = [run.progress.best_value for run in runs if run.progress.best_value is not None]
    return max(known, default=None)


def _value_of(run: Run) -> tuple[bool, float, int]:
    """Return by which runs that have ended are compared; the newest of equals is the most."""
    value = run.value if run.value is not None else run.progress.best_value
    return value is not None, value or 0.0, run.index


def _method(order: CloudOrder) -> str:
    if order.ensemble:
        return "joined"
    if not order.is_trained:
        return "as it is"
    return f"{method_text(order.method)}{trained_text(order.trained)}"


def _share(run: Run) -> float:
    total = run.progress.steps_total
    return min(1.0, run.progress.step / total) if total else 0.0


def _urgency(job: CloudJob, run: Run) -> int:
    """Return where a run stands in the table: the result, what trains, the rest."""
    if run.index == job.result_run:
        return 0
    return 1 if run.state is CloudJobState.RUNNING else 2


def _time_left(now_s: float, job: CloudJob, share: float | None) -> str:
    """Return how long it takes still, if it goes on as it went."""
    if job.state is not CloudJobState.RUNNING or job.started_ms is None or job.is_stopping:
        return ""
    if share is None or share < SHARE_LEAST:
        return "too early to say how long"
    gone_s = max(0.0, now_s - job.started_ms / 1000)
    return f"about {span(gone_s * (1.0 - share) / share)} left"


def _cost(runs: Sequence[Run]) -> Cost:
    busy = [run.progress for run in runs if run.state is CloudJobState.RUNNING]
    every = [run.progress for run in runs]
    speeds = [progress.items_per_s for progress in every if progress.items_per_s]
    now = [progress.items_per_s for progress in busy if progress.items_per_s]
    gpu = [progress.gpu_share for progress in busy if progress.gpu_share is not None]
    return Cost(
        device_seconds=sum(progress.device_seconds for progress in every),
        items_per_s=sum(now) if now else max(speeds, default=None),
        memory_bytes=max((progress.memory_bytes for progress in every), default=0),
        gpu_share=sum(gpu) / len(gpu) if gpu else None,
    )


def _sorted(trials: Sequence[Trial], sort: str) -> tuple[Trial, ...]:
    match sort:
        case "index":
            return tuple(sorted(trials, key=lambda trial: trial.index))
        case "seconds":
            return tuple(sorted(trials, key=lambda trial: -trial.device_seconds))
        case _:
            return tuple(sorted(trials, key=_rank))


def _rank(trial: Trial) -> tuple[bool, float, int]:
    """Return a trial's place: the best first, those without a value last."""
    return trial.value is None, -(trial.value or 0.0), trial.index


def _came(services: Services, job: CloudJob) -> Came:
    report = services.cloud_jobs.report(job.job_id)
    candidate = _found(services, job)
    return Came(
        checkpoint=_checkpoint(services, job),
        candidate=candidate,
        verdict=verdict_text(candidate.verdict) if candidate is not None else "",
        accuracy=report.accuracy if report is not None else None,
        has_report=report is not None,
    )


def _found(services: Services, job: CloudJob) -> Candidate | None:
    if job.candidate_id is None:
        return None
    try:
        return services.releases.candidates.get(job.candidate_id)
    except RefusedError:  # Removed since
        return None


def _checkpoint(services: Services, job: CloudJob) -> Checkpoint | None:
    if job.result_checkpoint_id is None:
        return None
    try:
        return services.releases.checkpoints.get(job.result_checkpoint_id)
    except RefusedError:  # Removed since
        return None
