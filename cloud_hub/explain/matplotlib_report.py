"""Which pictures a Report has, by what was found."""

import numpy as np
from numpy.typing import NDArray

from cloud_hub.explain.calibration import calibration_error
from cloud_hub.explain.detections import f1_by_confidence
from cloud_hub.explain.findings import ANOMALY_CLASSES, Findings, Kind
from cloud_hub.explain.matplotlib_classes import (
    CURVES_MAX,
    draw_confusion,
    draw_precision_recall,
    draw_reliability,
    draw_roc,
)
from cloud_hub.explain.matplotlib_figure import Picture
from cloud_hub.explain.matplotlib_scores import (
    draw_anomaly_scores,
    draw_f1_by_confidence,
    draw_numbers,
    draw_slices,
)
from cloud_hub.explain.numbers import TOLERANCE
from shared.model.postprocess import Boxes
from shared.model.spec import ModelSpec

Floats = NDArray[np.float32]


def draw_findings(
    findings: Findings,
    kind: Kind,
    spec: ModelSpec,
    *,
    values: Floats | None,
    found: tuple[Boxes, ...],
    true: tuple[Boxes, ...],
    temperature: float | None,
) -> list[Picture]:
    """Return the pictures of what was found, the most telling first.

    Args:
        findings: of at least one item.
        kind: how outputs are judged.
        spec: the model's.
        values: (n, classes) probabilities or (n,) scores; None for boxes.
        found: boxes of each item; empty unless `kind` is BOXES.
        true: likewise.
        temperature: that would calibrate, if it is known.
    """
    drawn: list[Picture | None] = []
    if findings.confusion:
        drawn.append(draw_confusion(np.array(findings.confusion), findings.classes))
    labels = findings.labels.astype(np.int64)
    match kind:
        case Kind.CLASSES:
            assert values is not None, "classes have probabilities"
            drawn.append(_slices(findings, "Accuracy"))
            error = calibration_error(findings.calibration)
            if error is not None:
                drawn.append(
                    draw_reliability(findings.calibration, error=error, temperature=temperature)
                )
            names, chosen = spec.output.classes, _hardest(findings, spec)
            drawn.append(draw_roc(values, labels, names, chosen))
            drawn.append(draw_precision_recall(values, labels, names, chosen))
        case Kind.ANOMALIES:
            assert values is not None, "anomalies have scores"
            is_anomalous, scores = labels > 0, values[:, None]
            name = (ANOMALY_CLASSES[1],)
            drawn.append(draw_anomaly_scores(values, is_anomalous, threshold=spec.output.threshold))
            drawn.append(_slices(findings, "Accuracy"))
            drawn.append(draw_roc(scores, 1 - labels, name, (0,)))
            drawn.append(draw_precision_recall(scores, 1 - labels, name, (0,)))
        case Kind.NUMBERS:
            assert values is not None, "numbers are scores"
            drawn.append(
                draw_numbers(
                    values, findings.labels, tolerance=TOLERANCE, rmse=findings.metrics["rmse"]
                )
            )
            drawn.append(_slices(findings, f"Share within {TOLERANCE}"))
        case Kind.BOXES:
            pairs = f1_by_confidence(found, true)
            if pairs:
                confidence_min = spec.output.confidence_min
                drawn.append(draw_f1_by_confidence(pairs, confidence_min=confidence_min))
            drawn.append(_slices(findings, "F1 of boxes"))
    return [one for one in drawn if one is not None]


def _hardest(findings: Findings, spec: ModelSpec) -> list[int]:
    """Return the indices of the classes that are hardest to tell, hardest first."""
    index_of = {name: index for index, name in enumerate(spec.output.classes)}
    known = [
        (one.average_precision, index_of[one.name])
        for one in findings.per_class
        if one.average_precision is not None
    ]
    return [index for _, index in sorted(known)[:CURVES_MAX]]


def _slices(findings: Findings, measure: str) -> Picture | None:
    """Return the slices' picture; None where there is no slice."""
    metrics = findings.metrics
    whole = metrics.get("accuracy", metrics.get("within_tolerance", metrics.get("f1")))
    if not findings.slices or whole is None:
        return None
    return draw_slices(findings.slices, whole=whole, measure=measure)
