"""conclude: raw outputs of any task to an Outcome and how sure it is. Pure."""

from dataclasses import dataclass
from typing import assert_never

import numpy as np
from numpy.typing import NDArray

from edge_agent.decisions import anomaly, classify, detect
from shared.errors import RefusedError
from shared.model.postprocess import (
    anomaly_score,
    class_scores,
    detected_boxes,
    estimated_values,
    segmented,
    shares_by_name,
)
from shared.model.preprocess import Placement
from shared.model.spec import ModelSpec, Task
from shared.pipeline.decisions import DecisionSettings
from shared.wire.records import Classified, Estimated, Outcome, Segmented

NUMBER_MAX = 1e18  # What a score on the wire may be at most

Array = NDArray[np.generic]


@dataclass(frozen=True, slots=True)
class Conclusion:
    """What was concluded from one item."""

    outcome: Outcome
    confidence: float  # 0..1, defined in each task's module


def conclude(
    outputs: tuple[Array, ...],
    spec: ModelSpec,
    settings: DecisionSettings,
    *,
    batch: Array,
    placement: Placement | None,
    previous: Outcome | None,
) -> Conclusion:
    """Return what the outputs mean.

    Args:
        outputs: the model's.
        spec: the model's.
        settings: this device's.
        batch: the input tensor, or what the model is to foretell (preprocess.compared_with).
        placement: where the frame lay within the input; None for a window.
        previous: what was concluded from the item before, for hysteresis.

    Raises:
        RefusedError: `inference.output`.
    """
    match spec.task:
        case Task.CLASSIFICATION:
            classified = classify.classify(
                class_scores(outputs, spec),
                spec.output.classes,
                previous=previous.label if isinstance(previous, Classified) else None,
                margin=settings.hysteresis_margin,
            )
            return Conclusion(classified, classified.confidence)
        case Task.DETECTION:
            if placement is None:
                raise RefusedError("inference.input", "Objects can only be detected in images.")
            boxes = detected_boxes(
                outputs,
                spec,
                placement=placement,
                confidence_min=settings.confidence_min,
                overlap_max=settings.overlap_max,
            )
            detected = detect.detect(boxes, spec.output.classes)
            return Conclusion(detected, detect.confidence_of(detected))
        case Task.ANOMALY:
            threshold = spec.output.threshold if settings.threshold is None else settings.threshold
            score = anomaly_score(outputs, batch, spec)
            if abs(score) > NUMBER_MAX:
                raise RefusedError("inference.output", f"A score of {score} is out of bounds.")
            scored = anomaly.judge_score(score, threshold)
            return Conclusion(scored, anomaly.confidence_of(scored))
        # Neither says how sure it is.
        case Task.REGRESSION | Task.FORECAST:
            return Conclusion(Estimated(estimated_values(outputs, spec)), 1.0)
        case Task.SEGMENTATION:
            if placement is None:
                raise RefusedError("inference.input", "Only images can be segmented.")
            segments = segmented(outputs, spec, placement=placement)
            return Conclusion(Segmented(shares_by_name(segments, spec)), 1.0)
        case _:
            assert_never(spec.task)
