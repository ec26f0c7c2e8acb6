"""Findings: everything a Report says of labelled items and a model's outputs, for each task. Pure.

1. Every item given is labelled; who calls leaves the others out and says how many.
2. `kind_of` says how outputs are judged: an anomaly model with one number and more than two classes
   in its dataset answers with a number (regression, forecast), of which the label is the truth.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from cloud_hub.datasets.manifest import Item, Manifest
from cloud_hub.explain import anomalies, calibration, detections, numbers, scores
from cloud_hub.explain.intervals import share_of
from cloud_hub.explain.report import (
    CLASSES_SHOWN_MAX,
    CalibrationBin,
    ClassScores,
    Interval,
    SliceScores,
)
from cloud_hub.explain.slices import score_slices, slice_names
from shared.errors import RefusedError
from shared.model.metrics import confusion
from shared.model.postprocess import Boxes
from shared.model.spec import Decoder, ImageInput, ModelSpec, Task

Floats = NDArray[np.float32]
Indices = NDArray[np.int64]
ANOMALY_CLASSES = ("normal", "anomalous")


class Kind(StrEnum):
    """How outputs are judged; see rule 2."""

    CLASSES = "classes"
    ANOMALIES = "anomalies"
    NUMBERS = "numbers"
    BOXES = "boxes"


@dataclass(frozen=True, slots=True)
class Findings:
    """What was found. Arrays have one row an item."""

    classes: tuple[str, ...]  # Those shown
    accuracy: Interval | None
    metrics: Mapping[str, float]
    slices: tuple[SliceScores, ...]
    labels: NDArray[np.float64]
    answers: NDArray[np.float64]
    label_texts: tuple[str, ...]
    answer_texts: tuple[str, ...]
    confidences: Floats
    losses: NDArray[np.float64]
    is_right: NDArray[np.bool_]
    groups: Indices  # By which worst items are limited
    per_class: tuple[ClassScores, ...] = ()
    confusion: tuple[tuple[int, ...], ...] = ()
    calibration: tuple[CalibrationBin, ...] = ()
    notes: tuple[str, ...] = ()


def kind_of(spec: ModelSpec, manifest: Manifest) -> Kind:
    """Return how a model's outputs are judged on a dataset; see rule 2."""
    match spec.task:
        case Task.CLASSIFICATION:
            return Kind.CLASSES
        case Task.DETECTION:
            return Kind.BOXES
        case Task.ANOMALY:
            is_score = spec.output.decoder is Decoder.SCORE
            is_number = is_score and len(manifest.classes) > len(ANOMALY_CLASSES)
            return Kind.NUMBERS if is_number else Kind.ANOMALIES
        case Task.REGRESSION | Task.FORECAST | Task.SEGMENTATION:
            raise RefusedError(
                "explain.task",
                f"There is no report for the task {spec.task}: datasets hold no such truth.",
                remedy="Ask for a report on a model of another task.",
            )


def class_findings(
    probabilities: Floats, labels: Indices, items: Sequence[Item], names: Sequence[str]
) -> Findings:
    """Return findings on classes. Args: probabilities (n, classes), labels (n,)."""
    answers = probabilities.argmax(axis=1).astype(np.int64)
    is_right = answers == labels
    confidences = probabilities.max(axis=1, initial=0.0)
    table = confusion(answers, labels, classes_count=len(names))
    shown = scores.shown_classes(labels, classes_count=len(names))
    per_class = scores.class_scores(table, probabilities, labels, names, shown)
    bins = calibration.reliability(confidences, is_right)
    metrics = scores.class_metrics(table, probabilities, labels, per_class)
    error = calibration.calibration_error(bins)
    if error is not None:
        metrics["expected_calibration_error"] = error
    hidden = len(names) - shown.size
    label_texts = tuple(names[int(label)] for label in labels)
    return Findings(
        classes=tuple(names[int(index)] for index in shown),
        accuracy=share_of(float(is_right.sum()), float(labels.size)),
        metrics=metrics,
        slices=_slices(items, label_texts, is_right),
        labels=labels.astype(np.float64),
        answers=answers.astype(np.float64),
        label_texts=label_texts,
        answer_texts=tuple(names[int(answer)] for answer in answers),
        confidences=confidences.astype(np.float32),
        losses=scores.log_losses(probabilities, labels),
        is_right=is_right,
        groups=labels,
        per_class=per_class,
        confusion=tuple(tuple(int(n) for n in table[row, shown]) for row in shown),
        calibration=bins,
        notes=(
            (f"{hidden} classes with the fewest items are left out of tables.",) if hidden else ()
        ),
    )


def anomaly_findings(
    values: Floats, labels: Indices, items: Sequence[Item], *, threshold: float
) -> Findings:
    """Return findings on anomaly scores. Args: values, labels (n,): 0 normal, else anomalous."""
    is_anomalous = labels > 0
    flagged = values > threshold
    is_right = flagged == is_anomalous
    true, said = is_anomalous.astype(np.int64), flagged.astype(np.int64)
    table = confusion(said, true, classes_count=2)
    per_class = tuple(
        scores.one_class(table, index, name, values if index else -values, true == index)
        for index, name in enumerate(ANOMALY_CLASSES)
    )
    label_texts = tuple(ANOMALY_CLASSES[int(label)] for label in true)
    return Findings(
        classes=ANOMALY_CLASSES,
        accuracy=share_of(float(is_right.sum()), float(labels.size)),
        metrics=anomalies.anomaly_metrics(values, is_anomalous, threshold=threshold),
        slices=_slices(items, label_texts, is_right),
        labels=true.astype(np.float64),
        answers=said.astype(np.float64),
        label_texts=label_texts,
        answer_texts=tuple(ANOMALY_CLASSES[int(answer)] for answer in said),
        confidences=values,
        losses=anomalies.anomaly_losses(values, is_anomalous, threshold=threshold),
        is_right=is_right,
        groups=true,
        per_class=per_class,
        confusion=tuple(tuple(int(n) for n in row) for row in table),
        notes=_threshold_notes(flagged, threshold),
    )


def number_findings(
    values: Floats, labels: Indices, items: Sequence[Item], names: Sequence[str]
) -> Findings:
    """Return findings on numbers. Args: values (n,), labels (n,): the true numbers."""
    true = labels.astype(np.float64)
    is_right = numbers.is_within(values, true)
    label_texts = tuple(names[label] if label < len(names) else str(label) for label in labels)
    return Findings(
        classes=(),
        accuracy=None,
        metrics=numbers.number_metrics(values, true),
        slices=_slices(items, label_texts, is_right),
        labels=true,
        answers=values.astype(np.float64),
        label_texts=tuple(f"{label}" for label in labels),
        answer_texts=tuple(f"{value:.3g}" for value in values),
        confidences=values,
        losses=np.abs(values - true),
        is_right=is_right,
        groups=labels,
        notes=(f"Slices show the share of answers within {numbers.TOLERANCE} of the truth.",),
    )


def box_findings(
    found: Sequence[Boxes], true: Sequence[Boxes], items: Sequence[Item], spec: ModelSpec
) -> Findings:
    """Return findings on boxes; an item's loss is how many boxes are missed or false."""
    names, confidence_min = spec.output.classes, spec.output.confidence_min
    assert isinstance(spec.input, ImageInput), "boxes come from images"
    per_class = detections.detection_class_scores(found, true, names, confidence_min=confidence_min)
    used = [detections.confident(boxes, confidence_min) for boxes in found]
    counts = detections.count_boxes(used, true)
    losses = counts.found + counts.true - 2.0 * counts.right
    sure = [float(boxes.scores.max(initial=0.0)) for boxes in used]
    halves = (counts.found + counts.true) / 2.0  # F1 is the share of right among these
    by = slice_names(items, [""] * len(items))
    shown = list(range(min(len(names), CLASSES_SHOWN_MAX)))
    return Findings(
        classes=tuple(names[index] for index in shown),
        accuracy=None,
        metrics=detections.detection_metrics(
            found,
            true,
            per_class,
            confidence_min=confidence_min,
            input_pixels=float(spec.input.width * spec.input.height),
        ),
        slices=score_slices(by, counts.right, halves),
        labels=counts.true,
        answers=counts.found,
        label_texts=tuple(_boxes_text(boxes, names) for boxes in true),
        answer_texts=tuple(_boxes_text(boxes, names) for boxes in used),
        confidences=np.array(sure, dtype=np.float32),
        losses=losses,
        is_right=losses == 0.0,
        groups=np.array([_main_class(boxes) for boxes in true], dtype=np.int64),
        per_class=per_class[: len(shown)],
        notes=("Slices show the F1 of boxes at an overlap of 0.5.",),
    )


def _slices(
    items: Sequence[Item], classes: Sequence[str], is_right: NDArray[np.bool_]
) -> tuple[SliceScores, ...]:
    right = is_right.astype(np.float64)
    return score_slices(slice_names(items, classes), right, np.ones_like(right))


def _threshold_notes(flagged: NDArray[np.bool_], threshold: float) -> tuple[str, ...]:
    """Return what is to be said of a threshold that tells nothing apart."""
    if not flagged.size or 0 < int(flagged.sum()) < flagged.size:
        return ()
    all_or_none = "every item" if flagged.all() else "no item"
    return (
        f"The spec's threshold {threshold:g} flags {all_or_none}: set output.threshold to one of "
        "threshold_at_false_rate_*, best as found on the validation part.",
    )


def _boxes_text(boxes: Boxes, names: Sequence[str]) -> str:
    """Return what is on a picture: "2 cat, 1 dog"."""
    kinds, counts = np.unique(boxes.classes, return_counts=True)
    texts = [f"{count} {names[int(kind)]}" for kind, count in zip(kinds, counts, strict=True)]
    return ", ".join(texts)[:120] or "nothing"


def _main_class(boxes: Boxes) -> int:
    """Return the class most boxes are of; -1 where there is none."""
    return int(np.bincount(boxes.classes).argmax()) if len(boxes) else -1
