"""Detections: how well boxes are found - average precision, F1 by confidence, what is false. Pure.

1. Boxes match as shared/model/metrics.py says, at an overlap of 0.5.
2. Average precision takes all boxes the model gives; precision, recall and F1 those at the
   confidence the model is used with.
3. Sizes are COCO's: below 32 x 32 pixels of the model's input small, below 96 x 96 medium.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cloud_hub.explain.intervals import share_of
from cloud_hub.explain.report import ClassScores
from shared.model.metrics import match_boxes, mean_average_precision
from shared.model.postprocess import Boxes

CONFIDENCES = tuple(round(0.05 * step, 2) for step in range(1, 20))
SMALL_PIXELS, MEDIUM_PIXELS = 32.0**2, 96.0**2


@dataclass(frozen=True, slots=True)
class Counts:
    """Boxes of each picture, (n,) each."""

    right: NDArray[np.float64]
    found: NDArray[np.float64]
    true: NDArray[np.float64]

    @property
    def f1(self) -> float | None:
        """Return the F1 over all pictures; None where there is no box at all."""
        total = float(self.found.sum() + self.true.sum())
        return 2.0 * float(self.right.sum()) / total if total else None


def confident(boxes: Boxes, confidence_min: float) -> Boxes:
    """Return the boxes at this confidence or above."""
    chosen = boxes.scores >= confidence_min
    return Boxes(boxes.corners[chosen], boxes.scores[chosen], boxes.classes[chosen])


def of_class(boxes: Boxes, class_index: int) -> Boxes:
    """Return the boxes of one class."""
    chosen = boxes.classes == class_index
    return Boxes(boxes.corners[chosen], boxes.scores[chosen], boxes.classes[chosen])


def count_boxes(found: Sequence[Boxes], true: Sequence[Boxes]) -> Counts:
    """Return how many boxes are right, found and there, picture by picture."""
    matches = [match_boxes(ours, theirs) for ours, theirs in zip(found, true, strict=True)]
    return Counts(
        right=np.array([match.right_count for match in matches], np.float64),
        found=np.array([match.is_right.size for match in matches], np.float64),
        true=np.array([match.true_count for match in matches], np.float64),
    )


def detection_class_scores(
    found: Sequence[Boxes], true: Sequence[Boxes], names: Sequence[str], *, confidence_min: float
) -> tuple[ClassScores, ...]:
    """Return the scores of each class; see rule 2."""
    scores = []
    for index, name in enumerate(names):
        ours = [of_class(boxes, index) for boxes in found]
        theirs = [of_class(boxes, index) for boxes in true]
        counts = count_boxes([confident(boxes, confidence_min) for boxes in ours], theirs)
        support = int(counts.true.sum())
        right = float(counts.right.sum())
        scores.append(
            ClassScores(
                name=name,
                support=support,
                precision=share_of(right, float(counts.found.sum())),
                recall=share_of(right, support),
                f1=counts.f1 if support else None,
                roc_area=None,
                average_precision=_average_precision(ours, theirs, index) if support else None,
            )
        )
    return tuple(scores)


def detection_metrics(
    found: Sequence[Boxes],
    true: Sequence[Boxes],
    per_class: Sequence[ClassScores],
    *,
    confidence_min: float,
    input_pixels: float,
) -> dict[str, float]:
    """Return what one number each says of all pictures; empty where there is none.

    `best_f1_confidence` is chosen on these very pictures: to choose by, take the validation part.
    """
    if not found:
        return {}
    used = [confident(boxes, confidence_min) for boxes in found]
    counts = count_boxes(used, true)
    by_confidence = f1_by_confidence(found, true)
    best = max(by_confidence, key=lambda row: row[1], default=None)
    precisions = [s.average_precision for s in per_class if s.average_precision is not None]
    metrics: dict[str, float | None] = {
        "map": float(np.mean(precisions)) if precisions else None,
        "f1": counts.f1,
        "confidence_min": confidence_min,
        "best_f1": best[1] if best else None,
        "best_f1_confidence": best[0] if best else None,
        "false_boxes_per_item": float((counts.found - counts.right).mean()),
        "missed_boxes_per_item": float((counts.true - counts.right).mean()),
    }
    for size, count in false_by_size(used, true, input_pixels=input_pixels).items():
        metrics[f"false_boxes_{size}"] = float(count)
    return {name: value for name, value in metrics.items() if value is not None}


def f1_by_confidence(
    found: Sequence[Boxes], true: Sequence[Boxes]
) -> tuple[tuple[float, float], ...]:
    """Return (confidence, F1) pairs over CONFIDENCES; empty where there is no box at all.

    Boxes match best first, so that what is above a confidence matches the same with or without the
    rest: matching once serves all confidences.
    """
    rows = [
        (ours.scores, match_boxes(ours, theirs)) for ours, theirs in zip(found, true, strict=True)
    ]
    scores = np.concatenate([scores for scores, _ in rows]) if rows else np.zeros(0)
    is_right = np.concatenate([match.is_right for _, match in rows]) if rows else np.zeros(0, bool)
    true_count = sum(match.true_count for _, match in rows)
    if not true_count:
        return ()
    pairs = []
    for confidence in CONFIDENCES:
        kept = scores >= confidence
        total = int(kept.sum()) + true_count
        pairs.append((confidence, 2.0 * int(is_right[kept].sum()) / total))
    return tuple(pairs)


def false_by_size(
    found: Sequence[Boxes], true: Sequence[Boxes], *, input_pixels: float
) -> dict[str, int]:
    """Return how many found boxes are false, by size; rule 3. Args: input_pixels: of it all."""
    counts = {"small": 0, "medium": 0, "large": 0}
    for ours, theirs in zip(found, true, strict=True):
        corners = ours.corners[~match_boxes(ours, theirs).is_right].astype(np.float64)
        areas = (corners[:, 2] - corners[:, 0]) * (corners[:, 3] - corners[:, 1]) * input_pixels
        counts["small"] += int((areas < SMALL_PIXELS).sum())
        counts["medium"] += int(((areas >= SMALL_PIXELS) & (areas < MEDIUM_PIXELS)).sum())
        counts["large"] += int((areas >= MEDIUM_PIXELS).sum())
    return counts


def _average_precision(ours: Sequence[Boxes], theirs: Sequence[Boxes], index: int) -> float:
    # Of one class that occurs, the mean over classes is its own.
    return mean_average_precision(ours, theirs, classes_count=index + 1)
