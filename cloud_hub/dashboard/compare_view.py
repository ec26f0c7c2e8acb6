"""What the page that compares two models shows: the API's comparison, with slices and items."""

from collections.abc import Sequence
from dataclasses import dataclass

from cloud_hub.api.comparison import ComparisonOut, PairedAnswer, PairedOut, compare
from cloud_hub.api.services import Services
from cloud_hub.dashboard.formats import share
from cloud_hub.dashboard.report_view import (
    METRIC_WORDS,
    Bar,
    Shown,
    bar_of,
    show_items,
)
from cloud_hub.explain.report import Interval, Report, SliceScores
from cloud_hub.training.cloud.cloud_job import CloudJob

CHOICES_MAX = 100
ITEMS_SHOWN = 12  # Of each side
SLICES_SHOWN = 60
LOWER_IS_BETTER = (
    "loss", "error", "rmse", "mae", "bias", "brier", "calibration", "seconds", "false_", "missed_",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class MetricRow:
    """One number of both."""

    name: str
    part: str  # "validation", "test", "report" or ""
    a: float | None
    b: float | None
    difference: float | None
    better: str  # "a", "b" or ""


@dataclass(frozen=True, slots=True)
class PairRow:
    """One class or slice of both."""

    by: str
    name: str
    a: Interval
    b: Interval
    bar_a: Bar
    bar_b: Bar
    is_apart: bool  # Their intervals do not overlap

    @property
    def points(self) -> float:
        """Return by how much b is better."""
        return (self.b.value - self.a.value) * 100


@dataclass(frozen=True, slots=True)
class ComparePage:
    """Two models beside each other."""

    found: ComparisonOut
    names: tuple[str, str]
    accuracies: tuple[str, str]
    tone: str
    metrics: tuple[MetricRow, ...]
    classes: tuple[PairRow, ...]
    by_class: tuple[PairedOut, ...]
    slices: tuple[PairRow, ...]
    only_a: tuple[Shown, ...]
    only_b: tuple[Shown, ...]
    can_join: bool  # Into an ensemble: two checkpoints of one model


def view_choices(services: Services) -> tuple[tuple[str, str], ...]:
    """Return the Jobs that can be compared, newest first, with their words."""
    return tuple(
        (job.job_id, f"{job.model}: {job.job_id}{_value(job)}, on {job.dataset}")
        for job in services.cloud_jobs.list(limit=CHOICES_MAX)
        if job.result_run is not None
    )


def view_comparison(services: Services, a: str, b: str) -> ComparePage:
    """Return two Jobs or Candidates beside each other. Raises RefusedError `….unknown`."""
    found = compare(services, a, b)
    jobs = services.cloud_jobs
    reports = jobs.report(found.a.job_id), jobs.report(found.b.job_id)
    lost = found.paired.b_lost if found.paired is not None else 0
    digests = found.disagreements  # Those that only A has right come first
    job = jobs.get(found.a.job_id)
    return ComparePage(
        found=found,
        names=(a, b),
        accuracies=(_accuracy(reports[0]), _accuracy(reports[1])),
        tone=_tone(found.paired),
        metrics=_metrics(found),
        classes=_classes(*reports),
        by_class=tuple(row for row in found.paired_by_class if row.b_gained or row.b_lost),
        slices=_slices(*reports),
        only_a=_items(services, job, digests[:lost]),
        only_b=_items(services, job, digests[lost:]),
        can_join=_can_join(found),
    )


def _can_join(found: ComparisonOut) -> bool:
    made = {found.a.result_checkpoint_id, found.b.result_checkpoint_id}
    return found.a.model == found.b.model and None not in made and len(made) == 2


def _items(services: Services, job: CloudJob, digests: Sequence[str]) -> tuple[Shown, ...]:
    return show_items(services, job, [(digest, "") for digest in digests[:ITEMS_SHOWN]])


def _value(job: CloudJob) -> str:
    return f", {job.value:.4f}" if job.value is not None else ""


def _accuracy(report: Report | None) -> str:
    return share(report.accuracy) if report is not None else ""


def _tone(paired: PairedOut | None) -> str:
    return "good" if paired and paired.answer is not PairedAnswer.CANNOT_TELL else "warn"


def _metrics(found: ComparisonOut) -> tuple[MetricRow, ...]:
    """Return numbers of both; what the report says of the test part is not told twice."""
    reported = {pair.name for pair in found.metrics if pair.name.startswith("report.")}
    return tuple(
        _metric(pair.name, pair.a, pair.b)
        for pair in found.metrics
        if f"report.{pair.name.removeprefix('test.')}" not in reported
        or not pair.name.startswith("test.")
    )


def _metric(name: str, a: float | None, b: float | None) -> MetricRow:
    part, _, own = name.rpartition(".")
    words = METRIC_WORDS.get(own, own.replace("_", " ").capitalize())
    difference = None if a is None or b is None else b - a
    better = ""
    if difference and not own.startswith(
        ("threshold", "confidence", "flagged", "items_per", "temperature")
    ):
        is_lower = any(mark in own for mark in LOWER_IS_BETTER)
        better = "b" if (difference < 0) == is_lower else "a"
    return MetricRow(words, part, a, b, difference, better)


def _classes(a: Report | None, b: Report | None) -> tuple[PairRow, ...]:
    if a is None or b is None:
        return ()
    others = {scores.name: scores.recall for scores in b.per_class}
    pairs = ((one.name, one.recall, others.get(one.name)) for one in a.per_class)
    return tuple(
        _pair("class", name, first, second)
        for name, first, second in pairs
        if first is not None and second is not None
    )


def _slices(a: Report | None, b: Report | None) -> tuple[PairRow, ...]:
    """Return slices of both but classes, the most different first."""
    if a is None or b is None or (a.manifest, a.part) != (b.manifest, b.part):
        return ()
    others: dict[tuple[str, str], SliceScores] = {(one.by, one.name): one for one in b.slices}
    rows = [
        _pair(one.by, one.name, one.accuracy, others[one.by, one.name].accuracy)
        for one in a.slices
        if one.by != "class" and (one.by, one.name) in others
    ]
    return tuple(sorted(rows, key=lambda row: (not row.is_apart, -abs(row.points)))[:SLICES_SHOWN])


def _pair(by: str, name: str, a: Interval, b: Interval) -> PairRow:
    bar_a, bar_b = bar_of(a), bar_of(b)
    assert bar_a is not None
    assert bar_b is not None
    return PairRow(by, name, a, b, bar_a, bar_b, a.high < b.low or b.high < a.low)
