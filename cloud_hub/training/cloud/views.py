"""What people look at: curves, trials, comparisons, usage. Values only, easy to show."""

from dataclasses import dataclass

from cloud_hub.explain.report import Interval
from cloud_hub.training.cloud.cloud_job import CloudJobId, CloudJobState, Params
from cloud_hub.training.job import Outcome
from cloud_hub.training.trainer.run_files import Evaluated, Event, Noted, Progressed, Started


@dataclass(frozen=True, slots=True)
class RunValue:
    """What one evaluation said."""

    step: int
    epoch: float
    value: float  # Higher is better


@dataclass(frozen=True, slots=True)
class NumberedEvent:
    """One line of a run's events."""

    number: int  # From 1, by line; a line that says nothing has a number too
    event: Event


@dataclass(frozen=True, slots=True)
class Curve:
    """How one run went."""

    job_id: CloudJobId
    run_index: int
    progress: tuple[Progressed, ...]  # Thinned to what can be drawn
    evaluations: tuple[Evaluated, ...]
    attempts: tuple[Started, ...]
    notes: tuple[Noted, ...]


@dataclass(frozen=True, slots=True)
class Trial:
    """One trial of a search."""

    index: int
    params: Params
    state: CloudJobState
    outcome: Outcome | None
    is_pruned: bool
    is_best: bool
    value: float | None  # Its best, so far or for good
    values: tuple[RunValue, ...]
    epoch: float
    device_seconds: float
    code: str
    text: str


@dataclass(frozen=True, slots=True)
class MetricPair:
    """One number of two Jobs' reports or results; None where a Job does not say it."""

    name: str
    a: float | None
    b: float | None

    @property
    def difference(self) -> float | None:
        """Return b - a."""
        return None if self.a is None or self.b is None else self.b - self.a


@dataclass(frozen=True, slots=True)
class ClassPair:
    """One class in two reports."""

    name: str
    recall_a: Interval | None
    recall_b: Interval | None
    precision_a: Interval | None
    precision_b: Interval | None


@dataclass(frozen=True, slots=True)
class SettingPair:
    """A setting in which two orders differ, by its path; as JSON."""

    path: str
    a: str
    b: str


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two Jobs beside each other."""

    a: CloudJobId
    b: CloudJobId
    accuracy_a: Interval | None
    accuracy_b: Interval | None
    is_same_data: bool  # Judged on the same part of the same dataset version
    is_clear: bool  # Their accuracies' intervals do not overlap
    metrics: tuple[MetricPair, ...]
    classes: tuple[ClassPair, ...]
    settings: tuple[SettingPair, ...]


@dataclass(frozen=True, slots=True)
class UsageRow:
    """What training took: one month, model and owner."""

    month: str  # "2026-11", UTC
    model: str
    owner: str
    device_seconds: float  # Wall seconds times processes
    memory_bytes_max: int
    items_per_s_max: float
    runs_count: int
    jobs_count: int


@dataclass(frozen=True, slots=True)
class QueueStatus:
    """How full the queue is; for metrics."""

    runs_queued: int
    runs_running: int
    slots: int
    trouble: str  # What an executor complains of; "" where nothing
