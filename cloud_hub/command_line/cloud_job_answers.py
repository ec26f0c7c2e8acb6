"""What commands read of the hub's answers about Jobs in the cloud; see answers.py."""

from typing import Any

import msgspec

from cloud_hub.command_line.job_answers import Order

CLOUD_START = "cloud-"  # An id that begins so is that of a Job in the cloud
FINISHED, COMPLETED = "finished", "completed"


class CloudJob(msgspec.Struct, frozen=True):
    """One Job."""

    job_id: str
    model: str
    dataset: str
    dataset_version: int
    state: str
    outcome: str | None
    code: str
    sentence: str
    owner: str
    created_by: str
    lineage_id: str
    base_checkpoint_id: str | None
    is_settled: bool
    result_checkpoint_id: str | None
    candidate_id: str | None
    release_version: int | None
    value: float | None
    value_low: float | None
    value_high: float | None
    created_ms: int
    order: Order


class CloudJobs(msgspec.Struct, frozen=True):
    """Jobs, newest first."""

    jobs: tuple[CloudJob, ...]


class Progress(msgspec.Struct, frozen=True):
    """How far a run is."""

    step: int
    steps_total: int
    epoch: float
    loss: float | None
    items_per_s: float | None
    device: str
    last_value: float | None
    best_value: float | None
    device_seconds: float


class TrainingRun(msgspec.Struct, frozen=True):
    """One run."""

    index: int
    kind: str
    name: str
    state: str
    sentence: str
    attempt: int
    value: float | None
    progress: Progress
    params: dict[str, Any]


class TrainingRuns(msgspec.Struct, frozen=True):
    """Runs, first to last."""

    runs: tuple[TrainingRun, ...]


class RunEvent(msgspec.Struct, frozen=True):
    """One thing that happened in a run."""

    number: int
    at_ms: int
    event: dict[str, Any]
    sentence: str


class RunEvents(msgspec.Struct, frozen=True):
    """What happened, oldest first."""

    events: tuple[RunEvent, ...]


class Trial(msgspec.Struct, frozen=True):
    """One trial."""

    index: int
    params: dict[str, Any]
    state: str
    outcome: str | None
    is_pruned: bool
    is_best: bool
    value: float | None
    epoch: float
    device_seconds: float
    text: str


class Trials(msgspec.Struct, frozen=True):
    """A search's trials."""

    trials: tuple[Trial, ...]


class Share(msgspec.Struct, frozen=True):
    """A share with its interval."""

    value: float
    low: float
    high: float
    count: int


class ClassRow(msgspec.Struct, frozen=True):
    """One class of a report."""

    name: str
    support: int
    precision: Share | None
    recall: Share | None
    f1: float | None


class SliceRow(msgspec.Struct, frozen=True):
    """One slice of a report."""

    by: str
    name: str
    accuracy: Share
    is_worse: bool


class WorstRow(msgspec.Struct, frozen=True):
    """One of the worst items of a report."""

    name: str
    label: str
    answer: str
    confidence: float
    saliency: tuple[str, ...] = ()


class PlotRow(msgspec.Struct, frozen=True):
    """One picture of a report."""

    file: str
    title: str


class JobReport(msgspec.Struct, frozen=True):
    """How good a model became."""

    part: str
    dataset: str
    items_count: int
    classes: tuple[str, ...]
    accuracy: Share | None
    metrics: dict[str, float | None]
    per_class: tuple[ClassRow, ...] = ()
    confusion: tuple[tuple[int, ...], ...] = ()
    slices: tuple[SliceRow, ...] = ()
    worst: tuple[WorstRow, ...] = ()
    plots: tuple[PlotRow, ...] = ()
    notes: tuple[str, ...] = ()


class MetricPair(msgspec.Struct, frozen=True):
    """One number of both."""

    name: str
    a: float | None
    b: float | None
    difference: float | None


class SettingPair(msgspec.Struct, frozen=True):
    """A setting in which orders differ."""

    path: str
    a: str
    b: str


class Compared(msgspec.Struct, frozen=True):
    """Two Jobs."""

    a: CloudJob
    b: CloudJob
    sentence: str
    is_same_data: bool
    metrics: tuple[MetricPair, ...]
    settings: tuple[SettingPair, ...]


class UsageRow(msgspec.Struct, frozen=True):
    """What training took."""

    month: str
    model: str | None
    owner: str | None
    device_seconds: float
    jobs_count: int
    runs_count: int
    memory_bytes_max: int
    items_per_s_max: float


class Usage(msgspec.Struct, frozen=True):
    """Usage, newest month first."""

    rows: tuple[UsageRow, ...]
    device_seconds: float
    items_served: dict[str, int]
