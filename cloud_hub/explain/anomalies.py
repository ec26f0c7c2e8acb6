"""Anomalies: how well a score tells anomalous items from normal ones. Pure numpy.

1. Flagged is what scores above the spec's threshold.
2. The table of thresholds says what a stricter or laxer one would give on these very items: to
   choose by, take a report on the validation part.
"""

import numpy as np
from numpy.typing import NDArray

from cloud_hub.explain.curves import area_under_roc, at_false_rate, average_precision, row_at
from shared.model.metrics import f1_anomalies

Floats = NDArray[np.floating]
Flags = NDArray[np.bool_]
FALSE_RATES = (0.001, 0.01, 0.05, 0.1)


def anomaly_metrics(scores: Floats, is_anomalous: Flags, *, threshold: float) -> dict[str, float]:
    """Return what one number each says of all items, (n,) each; empty where there is none.

    Of the table of thresholds: `recall_at_false_rate_0.01` and `threshold_at_false_rate_0.01`, for
    every rate of FALSE_RATES that these many normal items can show.
    """
    if not scores.size:
        return {}
    flagged = scores > threshold
    row = row_at(scores, is_anomalous, threshold=threshold)
    found: dict[str, float | None] = {
        "accuracy": float(np.mean(flagged == is_anomalous)),
        "f1": f1_anomalies(flagged, is_anomalous),
        "roc_area": area_under_roc(scores, is_anomalous),
        "average_precision": average_precision(scores, is_anomalous),
        "threshold": threshold,
        "flagged_share": float(np.mean(flagged)),
        "recall": row.recall if is_anomalous.any() else None,
        "precision": row.precision if flagged.any() else None,
        "false_rate": row.false_rate if not is_anomalous.all() else None,
    }
    for rate in FALSE_RATES:
        if rate * int((~is_anomalous).sum()) < 1.0:
            continue  # Less than one item: such a rate cannot be seen
        at = at_false_rate(scores, is_anomalous, false_rate=rate)
        if at is not None:
            found[f"recall_at_false_rate_{rate:g}"] = at.recall
            found[f"threshold_at_false_rate_{rate:g}"] = at.threshold
    return {name: value for name, value in found.items() if value is not None}


def anomaly_losses(scores: Floats, is_anomalous: Flags, *, threshold: float) -> NDArray[np.float64]:
    """Return how far each score lies on the wrong side of the threshold; below 0 if on the right.

    In the scores' standard deviations, so that it means the same for every model.
    """
    spread = (float(np.std(scores)) if scores.size else 0.0) or 1.0
    side = np.where(is_anomalous, -1.0, 1.0)
    distances: NDArray[np.float64] = side * (scores.astype(np.float64) - threshold) / spread
    return distances
