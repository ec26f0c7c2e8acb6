"""What the page of a report shows: shares in words and as bars, shaded cells, worst items."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cloud_hub.api.services import Services
from cloud_hub.dashboard.formats import share
from cloud_hub.datasets.manifest import ItemKind, Manifest
from cloud_hub.explain.report import (
    CalibrationBin,
    ClassScores,
    Interval,
    Plot,
    Report,
    SliceScores,
    WorstItem,
)
from cloud_hub.training.cloud.cloud_job import CloudJob
from shared.errors import IsthmusError, RefusedError

MATRIX_MAX = 24  # Classes that fit on a screen as a table; of more, the worst pairs are listed
PAIRS_SHOWN = 30
SHADES = 10
SLICES_SHOWN = 100
WORST_SHOWN = 24
TEXT_CHARS = 240
BAR_UNITS = 1000.0
# Drawn on the page itself: these pictures say the same again.
OWN_DRAWINGS = frozenset({"slices.png", "worst.png"})
METRIC_WORDS: Mapping[str, str] = {
    "f1_macro": "F1, mean of classes",
    "precision_macro": "Precision, mean of classes",
    "recall_macro": "Recall, mean of classes",
    "roc_area": "ROC area",
    "average_precision": "Average precision",
    "log_loss": "Log loss",
    "brier": "Brier score",
    "expected_calibration_error": "Calibration error",
    "top5_accuracy": "Among the best five",
    "map": "mAP",
    "f1": "F1",
    "items_per_s": "Items a second",
    "device_seconds": "Device-seconds",
    "temperature": "Temperature that would fit",
    "rmse": "RMSE",
    "mae": "Mean absolute error",
    "r_squared": "R²",
}


@dataclass(frozen=True, slots=True)
class Bar:
    """An interval as a bar, in BAR_UNITS."""

    low: float
    width: float
    value: float


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell of a confusion matrix."""

    answer: str
    count: int
    shade: int  # 0 to SHADES, by share of the row
    is_right: bool
    title: str
    is_listed: bool  # Some of the worst items are these


@dataclass(frozen=True, slots=True)
class Row:
    """One true class of a confusion matrix."""

    label: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True, slots=True)
class Pair:
    """A class that was taken for another."""

    label: str
    answer: str
    count: int
    share: float  # Of the class


@dataclass(frozen=True, slots=True)
class ClassRow:
    """One class with its bars."""

    scores: ClassScores
    recall: Bar | None
    precision: Bar | None


@dataclass(frozen=True, slots=True)
class SliceRow:
    """One slice with its bar."""

    scores: SliceScores
    bar: Bar


@dataclass(frozen=True, slots=True)
class Shown:
    """One item to look at: a picture's address, or a text."""

    digest: str
    name: str
    page: str = ""  # Of the item; empty where it is gone
    picture: str = ""
    text: str = ""


@dataclass(frozen=True, slots=True)
class WorstRow:
    """One of the worst items."""

    item: WorstItem
    shown: Shown


@dataclass(frozen=True, slots=True)
class ReportPage:
    """The whole page."""

    job: CloudJob
    report: Report
    accuracy: str
    left_out: str
    metrics: tuple[tuple[str, float], ...]
    rows: tuple[Row, ...]
    pairs: tuple[Pair, ...]
    classes: tuple[ClassRow, ...]
    slices: tuple[SliceRow, ...]
    slices_hidden: int
    calibration: "Reliability | None"
    worst: tuple[WorstRow, ...]
    worst_hidden: int
    plots: tuple[Plot, ...]
    label: str  # Chosen in the matrix; empty: every item
    answer: str


@dataclass(frozen=True, slots=True)
class Reliability:
    """Confidence against accuracy, as SVG coordinates of a square of BAR_UNITS."""

    points: str
    dots: tuple[tuple[float, float, float, str], ...]  # x, y, radius, title
    sentence: str


def view_report(services: Services, job_id: str, *, label: str, answer: str) -> ReportPage:
    """Return the report on a Job. Raises RefusedError `job.unknown`, `report.unknown`."""
    job = services.cloud_jobs.get(job_id)
    report = services.cloud_jobs.report(job_id)
    if report is None:
        raise RefusedError(
            "report.unknown",
            f"There is no report on {job_id}.",
            remedy="It is written when a model is trained and judged; look at the Job.",
        )
    chosen = [
        item
        for item in report.worst
        if (not label or item.label == label) and (not answer or item.answer == answer)
    ]
    items = show_items(services, job, [(item.digest, item.name) for item in chosen[:WORST_SHOWN]])
    is_small = len(report.classes) <= MATRIX_MAX
    return ReportPage(
        job=job,
        report=report,
        accuracy=share(report.accuracy) if report.accuracy is not None else "",
        left_out=_left_out(report),
        metrics=tuple(
            (METRIC_WORDS.get(name, name.replace("_", " ")), value)
            for name, value in report.metrics.items()
            if name != "accuracy" or report.accuracy is None
        ),
        rows=matrix(report) if is_small else (),
        pairs=() if is_small else confused_pairs(report),
        classes=tuple(
            ClassRow(scores, bar_of(scores.recall), bar_of(scores.precision))
            for scores in report.per_class
        ),
        slices=_slices(report),
        slices_hidden=max(0, len([s for s in report.slices if s.by != "class"]) - SLICES_SHOWN),
        calibration=reliability(report.calibration),
        worst=tuple(WorstRow(item, shown) for item, shown in zip(chosen, items, strict=False)),
        worst_hidden=max(0, len(chosen) - WORST_SHOWN),
        plots=_plots(report),
        label=label,
        answer=answer,
    )


def bar_of(interval: Interval | None) -> Bar | None:
    """Return an interval as a bar; None where nothing is known."""
    if interval is None:
        return None
    low, high = interval.low * BAR_UNITS, interval.high * BAR_UNITS
    return Bar(round(low, 1), round(max(high - low, 6.0), 1), round(interval.value * BAR_UNITS, 1))


def matrix(report: Report) -> tuple[Row, ...]:
    """Return the confusion matrix with its shades."""
    listed = {(item.label, item.answer) for item in report.worst}
    rows = []
    for index, counts in enumerate(report.confusion):
        total, label = sum(counts), report.classes[index]
        cells = tuple(
            Cell(
                answer=answer,
                count=count,
                shade=-(-SHADES * count // total) if total else 0,
                is_right=column == index,
                title=f"{count:,} of {total:,} items of {label} were called {answer}",
                is_listed=(label, answer) in listed,
            )
            for column, (answer, count) in enumerate(zip(report.classes, counts, strict=False))
        )
        rows.append(Row(label, cells))
    return tuple(rows)


def confused_pairs(report: Report) -> tuple[Pair, ...]:
    """Return which classes are taken for which others, the most frequent first."""
    pairs = [
        Pair(report.classes[row], report.classes[column], count, count / sum(counts))
        for row, counts in enumerate(report.confusion)
        for column, count in enumerate(counts)
        if count and row != column
    ]
    return tuple(sorted(pairs, key=lambda pair: -pair.count)[:PAIRS_SHOWN])


def reliability(bins: Sequence[CalibrationBin]) -> Reliability | None:
    """Return a calibration chart: on the diagonal, what is said is what is."""
    if not bins:
        return None
    most = max(one.count for one in bins)
    dots = tuple(
        (
            round(one.confidence * BAR_UNITS, 1),
            round((1.0 - one.accuracy) * BAR_UNITS, 1),
            round(10.0 + 14.0 * (one.count / most) ** 0.5, 1),
            f"{one.count:,} items that were {one.confidence * 100:.0f} % sure: "
            f"{one.accuracy * 100:.0f} % right",
        )
        for one in bins
    )
    total = sum(one.count for one in bins)
    gap = sum((one.confidence - one.accuracy) * one.count for one in bins) / total * 100
    said = "about as sure as it is right"
    if abs(gap) >= 2.0:
        said = f"{abs(gap):.0f} points {'surer' if gap > 0 else 'less sure'} than it is right"
    points = " ".join(f"{x},{y}" for x, y, _, _ in dots)
    return Reliability(points, dots, f"On the whole the model is {said}.")


def show_items(
    services: Services, job: CloudJob, wanted: Sequence[tuple[str, str]]
) -> tuple[Shown, ...]:
    """Return items, each a digest and a name, ready to be looked at; bare where they are gone."""
    manifest = _manifest(services, job) if wanted else None
    if manifest is None:
        return tuple(Shown(digest, name) for digest, name in wanted)
    digests = {digest for digest, _ in wanted}
    places = {
        item.digest: index for index, item in enumerate(manifest.items) if item.digest in digests
    }
    return tuple(
        _shown(services, job, manifest, places[digest], name)
        if digest in places
        else Shown(digest, name)
        for digest, name in wanted
    )


def _shown(services: Services, job: CloudJob, manifest: Manifest, index: int, name: str) -> Shown:
    item = manifest.items[index]
    name = name or item.name
    path = f"datasets/{job.dataset}/versions/{job.dataset_version}/items/{index}"
    if manifest.kind is ItemKind.IMAGE:
        return Shown(item.digest, name, page=f"/{path}", picture=f"/api/v1/{path}")
    if manifest.kind is ItemKind.WINDOW:
        return Shown(item.digest, name, page=f"/{path}", picture=f"/{path}/spark.svg")
    try:
        data = services.datasets.item_bytes(manifest, index)
    except IsthmusError:  # Damaged, or not to be had just now: the rest of the page is not
        return Shown(item.digest, name, page=f"/{path}")
    text = data.decode("utf-8", "replace")[:TEXT_CHARS]
    return Shown(item.digest, name, page=f"/{path}", text=text)


def _manifest(services: Services, job: CloudJob) -> Manifest | None:
    try:
        version = services.datasets.version(job.dataset, job.dataset_version)
        return services.datasets.manifest(version)
    except IsthmusError:  # Removed since, or not to be read: numbers stay
        return None


def _slices(report: Report) -> tuple[SliceRow, ...]:
    # Of classes there is a table of its own.
    told = [row for row in report.slices if row.is_worse or row.by != "class"]
    ordered = sorted(told, key=lambda row: (not row.is_worse, row.by, row.name))
    rows = []
    for scores in ordered[:SLICES_SHOWN]:
        bar = bar_of(scores.accuracy)
        assert bar is not None, "a slice has an interval"
        rows.append(SliceRow(scores, bar))
    return tuple(rows)


def _plots(report: Report) -> tuple[Plot, ...]:
    drawn = set(OWN_DRAWINGS)
    drawn |= {"confusion.png"} if report.confusion else set()
    drawn |= {"reliability.png"} if report.calibration else set()
    drawn |= {"saliency.png"} if any(item.saliency for item in report.worst) else set()
    return tuple(plot for plot in report.plots if plot.file not in drawn)


def _left_out(report: Report) -> str:
    if not report.left_out:
        return ""
    return f"{report.left_out * 100:.1f} % of the part’s items are left out: nobody labelled them."
