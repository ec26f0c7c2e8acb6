"""Report: how good a model is on a dataset's part, as numbers that people and programs read.

1. Written by a training process as `report.json`, with the pictures it names beside it.
2. Every share has an interval (Wilson 1927, 95 %) and the count it rests on: 3 of 3 is not 100 %.
3. What cannot be said is None or left out, never 0.
"""

from collections.abc import Mapping
from typing import Annotated

import msgspec
from msgspec import Meta

from shared.wire.limits import Digest, Share, ShortText

REPORT_BYTES_MAX = 8 << 20
CLASSES_SHOWN_MAX = 200  # Of a confusion matrix; further classes are left out, and it says so
SLICES_MAX = 500
WORST_MAX = 64
PLOT_BYTES_MAX = 4 << 20
PLOTS_MAX = 32


class Interval(msgspec.Struct, frozen=True):
    """A share with its 95 % interval and what it rests on."""

    value: float
    low: float
    high: float
    count: int


class ClassScores(msgspec.Struct, frozen=True):
    """One class."""

    name: ShortText
    support: int  # Items (detection: boxes) that are of it
    precision: Interval | None  # None: never said
    recall: Interval | None  # None: none there
    f1: float | None
    roc_area: float | None  # One against the rest
    average_precision: float | None = None  # Detection, at overlap 0.5


class SliceScores(msgspec.Struct, frozen=True):
    """One slice: the items of one device, site or class."""

    by: Annotated[str, Meta(pattern=r"^(device|site|class|hour)\Z")]
    name: ShortText
    accuracy: Interval  # Detection: F1 of boxes; regression: share within `tolerance`
    is_worse: bool  # Its interval lies below the whole's value


class CalibrationBin(msgspec.Struct, frozen=True):
    """Items whose confidence lay in one range."""

    low: float
    high: float
    count: int
    confidence: float  # Mean
    accuracy: float


class WorstItem(msgspec.Struct, frozen=True):
    """An item that the model got most wrong."""

    digest: Digest
    name: ShortText
    label: ShortText
    answer: ShortText
    confidence: float
    loss: float
    saliency: tuple[ShortText, ...] = ()  # Files of pictures: gradient, occlusion


class Plot(msgspec.Struct, frozen=True):
    """One picture, PNG."""

    file: ShortText
    title: ShortText
    alt: Annotated[str, Meta(max_length=400)]  # The same in words


class Report(msgspec.Struct, frozen=True):
    """The whole file."""

    task: ShortText
    part: ShortText
    dataset: ShortText
    manifest: Digest
    weights_digest: Digest
    items_count: int
    classes: tuple[ShortText, ...]
    accuracy: Interval | None  # Classification and flags of anomalies
    metrics: Mapping[str, float]  # f1_macro, roc_area, map, rmse, expected_calibration_error, ...
    per_class: tuple[ClassScores, ...] = ()
    confusion: tuple[tuple[int, ...], ...] = ()  # Row: true class; column: answer
    slices: tuple[SliceScores, ...] = ()
    calibration: tuple[CalibrationBin, ...] = ()
    worst: tuple[WorstItem, ...] = ()
    plots: tuple[Plot, ...] = ()
    notes: tuple[Annotated[str, Meta(max_length=400)], ...] = ()
    left_out: Share = 0.0  # Of the part's items: without a label


def decode_report(data: bytes) -> Report:
    """Return a report's bytes as a Report. Raises msgspec.ValidationError."""
    return msgspec.json.decode(data, type=Report)
