"""A model's outputs as an answer, by the very code that reads them on devices. Pure."""

import numpy as np

from cloud_hub.serving.messages import (
    PROBABILITIES_SHOWN_MAX,
    Answer,
    Box,
    Classified,
    Detected,
    Estimated,
    Scored,
    Segmented,
)
from cloud_hub.serving.prepared import Prepared
from shared.model.postprocess import (
    Array,
    anomaly_score,
    class_scores,
    detected_boxes,
    estimated_values,
    segmented,
    shares_by_name,
)
from shared.model.spec import ModelSpec, Task


def answer_of(outputs: tuple[Array, ...], item: Prepared, spec: ModelSpec) -> Answer:
    """Return what a model says of one item. Raises RefusedError `inference.output`."""
    match spec.task:
        case Task.CLASSIFICATION:
            return _classified(outputs, spec)
        case Task.DETECTION:
            return _detected(outputs, item, spec)
        case Task.ANOMALY:
            score = anomaly_score(outputs, item.compared_with, spec)
            return Scored(score=score, is_anomalous=score > spec.output.threshold)
        case Task.REGRESSION | Task.FORECAST:
            values = estimated_values(outputs, spec)
            return Estimated(values, spec.output.classes, spec.output.unit)
        case Task.SEGMENTATION:
            assert item.placement is not None, "segmentation takes pictures"
            segments = segmented(outputs, spec, placement=item.placement)
            return Segmented(shares_by_name(segments, spec))


def _classified(outputs: tuple[Array, ...], spec: ModelSpec) -> Classified:
    scores = class_scores(outputs, spec)  # (classes,)
    best = np.argsort(-scores, kind="stable")[:PROBABILITIES_SHOWN_MAX]
    names = spec.output.classes
    shown = {names[index]: float(scores[index]) for index in best}
    return Classified(names[best[0]], float(scores[best[0]]), shown)


def _detected(outputs: tuple[Array, ...], item: Prepared, spec: ModelSpec) -> Detected:
    assert item.placement is not None, "detection takes pictures"
    found = detected_boxes(outputs, spec, placement=item.placement)
    return Detected(
        tuple(
            Box(spec.output.classes[index], float(score), *map(float, corners))
            for index, score, corners in zip(
                found.classes, found.scores, found.corners, strict=True
            )
        )
    )
