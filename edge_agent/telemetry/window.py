"""TelemetryWindow: the numbers of one pipeline on one release over one stretch of time. Pure.

1. One window is of one (model, version): who feeds it asks `takes` first, and closes it on a swap.
2. Percentiles come from a sample of at most RESERVOIR_ITEMS_MAX items, each item of the window
   being in it with equal chance (Algorithm R: J. S. Vitter, "Random Sampling with a Reservoir",
   1985). Counts, means and maxima are of all items.
3. How many items came in and were dropped only the source's mailbox knows: given at the close.
4. At most LABELS_MAX labels are counted apart; what comes after them counts as OTHER_LABEL.
"""

import math
import random

import numpy as np

from edge_agent.decisions.decision import Decision, ItemResult, MissedItem
from shared.wire.records import (
    LABELS_MAX,
    Classified,
    Detected,
    Outcome,
    Scored,
    TelemetryRecord,
)

RESERVOIR_ITEMS_MAX = 1024
MILLISECONDS_MAX = 1e9  # The wire's
OTHER_LABEL = "(other)"


class TelemetryWindow:
    """See the rules above. Not thread-safe."""

    def __init__(
        self, pipeline: str, model: str, version: int, *, started_s: float, seed: int | None = None
    ) -> None:
        """Args: `started_s` is of the clock that `close` gets its `now_s` from."""
        self.pipeline, self.model, self.version = pipeline, model, version
        self.started_s = started_s
        self._random = random.Random(seed)  # noqa: S311  (samples, keeps no secret)
        self._sample: list[tuple[float, float]] = []  # (latency, inference), milliseconds
        self._decided_count = 0
        self._failed_count = 0
        self._confidence_sum = 0.0
        self._latency_ms_max = 0.0
        self._swap_pause_ms_max = 0.0
        self._labels: dict[str, int] = {}

    def takes(self, result: ItemResult) -> bool:
        """Return whether `result` is of this window's release."""
        return (result.model, result.version) == (self.model, self.version)

    def add(self, result: ItemResult) -> None:
        """Count one item of this window's release."""
        assert self.takes(result), "a swap closes the window"
        match result:
            case MissedItem():
                self._failed_count += 1
            case Decision():
                self._add_decision(result)

    def _add_decision(self, decision: Decision) -> None:
        latency_ms = _bounded(decision.latency_ms, MILLISECONDS_MAX)
        self._decided_count += 1
        self._confidence_sum += _bounded(decision.confidence, 1.0)
        self._latency_ms_max = max(self._latency_ms_max, latency_ms)
        self._swap_pause_ms_max = max(
            self._swap_pause_ms_max, _bounded(decision.swap_pause_ms, MILLISECONDS_MAX)
        )
        self._keep((latency_ms, _bounded(decision.inference_ms, MILLISECONDS_MAX)))
        for label in labels_of(decision.outcome):
            self._count_label(label)

    def _keep(self, times: tuple[float, float]) -> None:
        if len(self._sample) < RESERVOIR_ITEMS_MAX:
            self._sample.append(times)
            return
        place = self._random.randrange(self._decided_count)
        if place < RESERVOIR_ITEMS_MAX:
            self._sample[place] = times

    def _count_label(self, label: str) -> None:
        if label not in self._labels and len(self._labels) >= LABELS_MAX - 1:
            label = OTHER_LABEL
        self._labels[label] = self._labels.get(label, 0) + 1

    def close(self, *, now_s: float, items_in: int, items_dropped: int) -> TelemetryRecord:
        """Return what the window holds, told over the time since `started_s`."""
        latency_p50 = latency_p95 = inference_p50 = inference_p95 = 0.0
        if self._sample:
            sample = np.asarray(self._sample)  # (items, 2)
            p50, p95 = np.percentile(sample, (50, 95), axis=0)  # (2,) each
            latency_p50, inference_p50 = float(p50[0]), float(p50[1])
            latency_p95, inference_p95 = float(p95[0]), float(p95[1])
        return TelemetryRecord(
            pipeline=self.pipeline,
            model=self.model,
            version=self.version,
            window_s=max(0.0, now_s - self.started_s),
            items_in=max(0, items_in),
            items_decided=self._decided_count,
            items_dropped=max(0, items_dropped),
            items_failed=self._failed_count,
            latency_ms_p50=latency_p50,
            latency_ms_p95=latency_p95,
            latency_ms_max=self._latency_ms_max,
            inference_ms_p50=inference_p50,
            inference_ms_p95=inference_p95,
            confidence_mean=min(1.0, self._confidence_sum / max(1, self._decided_count)),
            swap_pause_ms_max=self._swap_pause_ms_max,
            labels=dict(self._labels),
        )


def labels_of(outcome: Outcome) -> tuple[str, ...]:
    """Return what an outcome counts as: its class, the label of each box, or normal/anomalous."""
    match outcome:
        case Classified(label=label):
            return (label,)
        case Detected(boxes=boxes):
            return tuple(box.label for box in boxes)
        case Scored(is_anomalous=is_anomalous):
            return ("anomalous" if is_anomalous else "normal",)


def _bounded(value: float, most: float) -> float:
    """Return `value` within 0..most; what is no number counts as 0."""
    return min(max(float(value), 0.0), most) if math.isfinite(value) else 0.0
