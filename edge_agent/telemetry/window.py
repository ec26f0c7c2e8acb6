"""TelemetryWindow: the numbers of one pipeline on one release over one stretch of time. Pure.

1. One window is of one (model, version): who feeds it asks `takes` first, and closes it on a swap.
2. Percentiles come from a sample of at most RESERVOIR_ITEMS_MAX items, each item of the window
   being in it with equal chance (Algorithm R: J. S. Vitter, "Random Sampling with a Reservoir",
   1985). Counts, means and maxima are of all items.
3. An item that was held was not run: it has a latency, and no part in the times of inference.
4. How many items came in and were dropped only the source's mailbox knows: given at the close.
5. At most LABELS_MAX labels are counted apart; what comes after them counts as OTHER_LABEL.
"""

import math
import random
from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np
from msgspec import UNSET

from edge_agent.decisions.decision import Decision, ItemResult, MissedItem
from edge_agent.sinks.due import labels_of
from shared.wire.records import LABELS_MAX, StageTimes, TelemetryRecord

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
        # (latency, inference) in milliseconds; the second is NaN where there was no run
        self._sample: list[tuple[float, float]] = []
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
        inference_ms = _bounded(decision.inference_ms, MILLISECONDS_MAX)
        self._keep((latency_ms, math.nan if decision.is_held else inference_ms))
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

    def close(
        self,
        *,
        now_s: float,
        items_in: int,
        items_dropped: int,
        items_gated: int | None = None,
        stages: Mapping[str, StageTimes] = MappingProxyType({}),
        sinks_lost: int = 0,
        worker_rss_bytes: int | None = None,
    ) -> TelemetryRecord:
        """Return what the window holds, told over the time since `started_s`."""
        latencies_ms = [latency_ms for latency_ms, _ in self._sample]
        runs_ms = [run_ms for _, run_ms in self._sample if not math.isnan(run_ms)]
        latency_p50, latency_p95 = _percentiles(latencies_ms)
        inference_p50, inference_p95 = _percentiles(runs_ms)
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
            items_gated=UNSET if items_gated is None else max(0, items_gated),
            stages={name: _bounded_times(times) for name, times in stages.items()} or UNSET,
            sinks_lost=max(0, sinks_lost) or UNSET,
            worker_rss_bytes=UNSET if worker_rss_bytes is None else worker_rss_bytes,
        )


def _percentiles(values: Sequence[float]) -> tuple[float, float]:
    """Return the 50th and the 95th; 0 of nothing."""
    if not values:
        return 0.0, 0.0
    p50, p95 = np.percentile(values, (50, 95))
    return float(p50), float(p95)


def _bounded_times(times: StageTimes) -> StageTimes:
    values = (times.ms_p50, times.ms_p95, times.ms_p99)
    return StageTimes(*(_bounded(value, MILLISECONDS_MAX) for value in values))


def _bounded(value: float, most: float) -> float:
    """Return `value` within 0..most; what is no number counts as 0."""
    return min(max(float(value), 0.0), most) if math.isfinite(value) else 0.0
