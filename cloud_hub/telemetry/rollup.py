"""Combining windows: what many TelemetryRecords say together. Pure.

1. Counts add up; the largest of maxima is the maximum.
2. A percentile of the whole cannot be had from percentiles of the parts. What is given instead is
   their median, weighted by decided items: the latency that half of the items saw windows below.
3. A mean weighted by decided items is exact.
4. Windows without a decided item have counts, but no latency and no confidence.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from shared.wire.records import LABELS_MAX, TelemetryRecord

POINTS_MAX = 1000


@dataclass(frozen=True, slots=True)
class Totals:
    """Several windows taken together."""

    windows_count: int
    window_s: float  # Sum of their lengths
    items_in: int
    items_decided: int
    items_dropped: int
    items_failed: int
    latency_ms_p50: float | None  # None: nothing was decided (rule 4)
    latency_ms_p95: float | None
    latency_ms_max: float
    inference_ms_p50: float | None
    confidence_mean: float | None
    swap_pause_ms_max: float
    decided_per_s: float
    labels: dict[str, int]

    @property
    def failed_share(self) -> float:
        """Return failed items as a share of those that inference took; 0 if it took none."""
        taken = self.items_decided + self.items_failed
        return self.items_failed / taken if taken else 0.0


@dataclass(frozen=True, slots=True)
class Point:
    """The windows of one stretch of time."""

    at_ms: int  # Where the stretch begins
    totals: Totals


def combine(windows: Sequence[TelemetryRecord]) -> Totals:
    """Return what `windows` say together; see the rules above."""
    deciding = [window for window in windows if window.items_decided > 0]
    weights = [window.items_decided for window in deciding]
    decided = sum(weights)
    seconds = sum(window.window_s for window in windows)
    labels: Counter[str] = Counter()
    for window in windows:
        labels.update(window.labels)
    return Totals(
        windows_count=len(windows),
        window_s=seconds,
        items_in=sum(window.items_in for window in windows),
        items_decided=decided,
        items_dropped=sum(window.items_dropped for window in windows),
        items_failed=sum(window.items_failed for window in windows),
        latency_ms_p50=weighted_median([w.latency_ms_p50 for w in deciding], weights),
        latency_ms_p95=weighted_median([w.latency_ms_p95 for w in deciding], weights),
        latency_ms_max=max((window.latency_ms_max for window in windows), default=0.0),
        inference_ms_p50=weighted_median([w.inference_ms_p50 for w in deciding], weights),
        confidence_mean=(
            sum(window.confidence_mean * window.items_decided for window in deciding) / decided
            if decided
            else None
        ),
        swap_pause_ms_max=max((window.swap_pause_ms_max for window in windows), default=0.0),
        decided_per_s=decided / seconds if seconds > 0 else 0.0,
        labels=dict(labels.most_common(LABELS_MAX)),
    )


def combine_over_time(
    windows: Iterable[tuple[int, TelemetryRecord]], *, points_max: int = POINTS_MAX
) -> tuple[Point, ...]:
    """Return (at_ms, window) pairs as at most `points_max` points of equal stretches, in order.

    For charts: a stretch without a window has no point.
    """
    assert points_max > 0
    ordered = sorted(windows, key=lambda pair: pair[0])
    if not ordered:
        return ()
    first_ms, last_ms = ordered[0][0], ordered[-1][0]
    stretch_ms = max(1, -(-(last_ms - first_ms + 1) // points_max))  # Rounded up
    stretches: dict[int, list[TelemetryRecord]] = {}
    for at_ms, window in ordered:
        stretches.setdefault((at_ms - first_ms) // stretch_ms, []).append(window)
    return tuple(
        Point(first_ms + index * stretch_ms, combine(parts)) for index, parts in stretches.items()
    )


def weighted_median(values: Sequence[float], weights: Sequence[int]) -> float | None:
    """Return the smallest value at which half of all weight is reached; None if there is none."""
    half = sum(weights) / 2
    if half == 0:
        return None
    reached = 0
    for value, weight in sorted(zip(values, weights, strict=True)):
        reached += weight
        if reached >= half:
            return value
    raise AssertionError("half of the weight lies within all of it")
