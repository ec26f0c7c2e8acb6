"""Bodies about Jobs in the cloud: what the hub answers. What it is asked is order_body.py.

Values only. Whatever is a number here is finite: JSON knows no other.
"""

import math
from typing import Self

from pydantic import Field, JsonValue

from cloud_hub.api.bodies import AnswerBody, plain
from cloud_hub.api.cloud_job_words import cloud_job_text, event_text, run_name, run_text
from cloud_hub.explain.report import Interval
from cloud_hub.training.cloud.cloud_job import CloudJob, CloudJobState, Run, RunKind, RunProgress
from cloud_hub.training.cloud.views import Curve, NumberedEvent, Trial
from cloud_hub.training.job import Outcome
from cloud_hub.training.lifecycle import ResultState


class CloudJobOut(AnswerBody):
    """One Job in the cloud."""

    job_id: str
    model: str
    dataset: str
    dataset_version: int
    manifest_digest: str
    state: CloudJobState
    outcome: Outcome | None
    is_stopping: bool
    code: str = Field(description="Why it stands so", examples=["job.completed"])
    text: str
    sentence: str = Field(description="How it stands, in words")
    owner: str = Field(description="Whom usage is counted for")
    created_by: str
    lineage_id: str
    base_checkpoint_id: str | None = Field(description="What it starts from; null: fresh weights")
    is_settled: bool = Field(description="Nothing more comes of it")
    result_run: int | None = Field(description="The run whose weights are the result")
    result_checkpoint_id: str | None
    candidate_id: str | None
    release_version: int | None
    value: float | None = Field(description="Higher is better; of folds the mean")
    value_low: float | None = Field(description="Of folds: the 95 % interval of the mean")
    value_high: float | None
    created_ms: int
    changed_ms: int
    started_ms: int | None
    finished_ms: int | None
    order: dict[str, JsonValue] = Field(description="A CloudOrder with its defaults filled in")

    @classmethod
    def of(cls, job: CloudJob) -> Self:
        """Return a Job in the form of the API."""
        return cls(
            job_id=job.job_id,
            model=job.model,
            dataset=job.dataset,
            dataset_version=job.dataset_version,
            manifest_digest=job.manifest_digest,
            state=job.state,
            outcome=job.outcome,
            is_stopping=job.is_stopping,
            code=job.code,
            text=job.text,
            sentence=cloud_job_text(job),
            owner=job.owner,
            created_by=job.created_by,
            lineage_id=job.lineage_id,
            base_checkpoint_id=job.base_checkpoint_id,
            is_settled=job.result_state is ResultState.SETTLED,
            result_run=job.result_run,
            result_checkpoint_id=job.result_checkpoint_id,
            candidate_id=job.candidate_id,
            release_version=job.release_version,
            value=finite(job.value),
            value_low=finite(job.value_low),
            value_high=finite(job.value_high),
            created_ms=job.created_ms,
            changed_ms=job.changed_ms,
            started_ms=job.started_ms,
            finished_ms=job.finished_ms,
            order=plain(job.order),
        )


class CloudJobsOut(AnswerBody):
    """Jobs, newest first."""

    jobs: tuple[CloudJobOut, ...]


class ProgressOut(AnswerBody):
    """How far a run is."""

    step: int
    steps_total: int
    epoch: float
    loss: float | None
    items_per_s: float | None
    memory_bytes: int = Field(description="Peak: of the GPU where there is one")
    gpu_share: float | None = Field(description="Utilisation, 0..1")
    device: str
    evaluations: int
    last_value: float | None
    best_value: float | None
    device_seconds: float = Field(description="Of all attempts: wall seconds times processes")
    resumed_step: int | None

    @classmethod
    def of(cls, progress: RunProgress) -> Self:
        """Return progress in the form of the API."""
        return cls.model_validate(progress)


class RunOut(AnswerBody):
    """One training run of a Job."""

    index: int
    kind: RunKind
    name: str = Field(examples=["Fold 2", "Trial 7"])
    params: dict[str, JsonValue] = Field(description="Of a trial: path into the order to value")
    fold: int | None
    state: CloudJobState
    outcome: Outcome | None
    is_pruned: bool
    code: str
    text: str
    sentence: str = Field(description="How it stands, in words")
    attempt: int = Field(description="Starts so far")
    deaths: int = Field(description="Attempts that ended without a result")
    value: float | None
    best_epoch: float | None
    progress: ProgressOut
    created_ms: int
    started_ms: int | None
    finished_ms: int | None

    @classmethod
    def of(cls, run: Run) -> Self:
        """Return a run in the form of the API."""
        return cls(
            index=run.index,
            kind=run.kind,
            name=run_name(run),
            params=dict(run.params),
            fold=run.fold,
            state=run.state,
            outcome=run.outcome,
            is_pruned=run.is_pruned,
            code=run.code,
            text=run.text,
            sentence=run_text(run),
            attempt=run.attempt,
            deaths=run.deaths,
            value=finite(run.value),
            best_epoch=run.best_epoch,
            progress=ProgressOut.of(run.progress),
            created_ms=run.created_ms,
            started_ms=run.started_ms,
            finished_ms=run.finished_ms,
        )


class RunsOut(AnswerBody):
    """Runs, in the order in which they were made."""

    runs: tuple[RunOut, ...]


class CloudEventOut(AnswerBody):
    """One thing that happened in a run."""

    number: int = Field(description="Ask for what comes `after` it")
    at_ms: int
    event: dict[str, JsonValue] = Field(description="As the trainer told it; `event` says its kind")
    sentence: str

    @classmethod
    def of(cls, numbered: NumberedEvent) -> Self:
        """Return an event in the form of the API."""
        return cls(
            number=numbered.number,
            at_ms=numbered.event.at_ms,
            event=plain(numbered.event),
            sentence=event_text(numbered.event),
        )


class CloudEventsOut(AnswerBody):
    """What happened in a run, oldest first."""

    events: tuple[CloudEventOut, ...]


class ProgressPointOut(AnswerBody):
    """Training, once a second or less often."""

    at_ms: int
    step: int
    epoch: float
    loss: float | None
    learning_rate: float
    items_per_s: float
    device_seconds: float
    memory_bytes: int
    gpu_share: float | None


class EvaluationPointOut(AnswerBody):
    """One look at the validation part."""

    at_ms: int
    step: int
    epoch: float
    metrics: dict[str, float | None]
    value: float | None
    is_best: bool


class AttemptOut(AnswerBody):
    """A process that began, or went on from a state."""

    at_ms: int
    resumed_step: int | None
    device: str
    precision: str
    processes: int
    parameters_count: int
    trained_count: int
    items_by_part: dict[str, int]
    steps_total: int


class NoteOut(AnswerBody):
    """Something a person should know."""

    at_ms: int
    text: str


class CurveOut(AnswerBody):
    """How one run went; points are thinned to what can be drawn."""

    job_id: str
    run_index: int
    progress: tuple[ProgressPointOut, ...]
    evaluations: tuple[EvaluationPointOut, ...]
    attempts: tuple[AttemptOut, ...]
    notes: tuple[NoteOut, ...]

    @classmethod
    def of(cls, curve: Curve) -> Self:
        """Return a curve in the form of the API."""
        return cls(
            job_id=curve.job_id,
            run_index=curve.run_index,
            progress=tuple(ProgressPointOut.model_validate(point) for point in curve.progress),
            evaluations=tuple(
                EvaluationPointOut(
                    at_ms=point.at_ms,
                    step=point.step,
                    epoch=point.epoch,
                    metrics={name: finite(value) for name, value in point.metrics.items()},
                    value=finite(point.value),
                    is_best=point.is_best,
                )
                for point in curve.evaluations
            ),
            attempts=tuple(AttemptOut.model_validate(start) for start in curve.attempts),
            notes=tuple(NoteOut.model_validate(note) for note in curve.notes),
        )


class RunValueOut(AnswerBody):
    """What one evaluation said."""

    step: int
    epoch: float
    value: float


class TrialOut(AnswerBody):
    """One trial of a search."""

    index: int = Field(description="Of its run")
    params: dict[str, JsonValue]
    state: CloudJobState
    outcome: Outcome | None
    is_pruned: bool
    is_best: bool
    value: float | None = Field(description="Its best, so far or for good")
    values: tuple[RunValueOut, ...]
    epoch: float
    device_seconds: float
    code: str
    text: str

    @classmethod
    def of(cls, trial: Trial) -> Self:
        """Return a trial in the form of the API."""
        return cls.model_validate(trial)


class TrialsOut(AnswerBody):
    """A search's trials, in the order in which they were made; none where it is no search."""

    trials: tuple[TrialOut, ...]


class IntervalOut(AnswerBody):
    """A share with its 95 % interval, and how many items it rests on."""

    value: float
    low: float
    high: float
    count: int


def interval_out(interval: Interval | None) -> IntervalOut | None:
    """Return an interval in the form of the API."""
    return None if interval is None else IntervalOut.model_validate(interval)


def finite(value: float | None) -> float | None:
    """Return a number that JSON knows, or None."""
    return value if value is not None and math.isfinite(value) else None
