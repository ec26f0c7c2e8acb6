"""Fits: what devices of one kind measured of a release, pooled, and the hint it makes. Pure.

1. Devices of the same hardware are pooled; a device counts once, with its newest table.
2. The pooled choice is the one that most of them came to; of equals the one with the lower median
   time. A device that found nothing it may run has a table and no voice.
3. The hint is that choice with the median of the times of those who came to it. One device is
   enough: whoever gets a hint confirms it, and measures anew where it does not hold. A quantized
   choice that gains less over its table's fp32 than pipelines ask for by default makes no hint: it
   came of limits that others need not have, and they see no fp32 beside it.
4. Figures of a pooled row are medians over the devices that have it.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median

from shared.ids import DeviceId
from shared.pipeline.pipeline import PipelineLimits
from shared.wire.fit import FitChoice, FitHint, FitReport, FitRow, FitStanding

FULL_PRECISION = "fp32"


@dataclass(frozen=True, slots=True)
class DeviceFit:
    """One device's newest table of a release."""

    device_id: DeviceId
    fingerprint: str
    hardware: str  # As people read it
    report: FitReport
    received_ms: int


@dataclass(frozen=True, slots=True)
class PooledRow:
    """One way to run a release on one kind of hardware."""

    precision: str
    backend: str
    threads: int
    devices_count: int
    chosen_count: int
    refused_count: int
    run_ms_p50: float | None  # None: on no device did it run
    run_ms_p95: float | None
    items_per_s: float | None
    rss_bytes: int
    agreement: float | None
    text: str  # Why it was refused, where it was


@dataclass(frozen=True, slots=True)
class PooledFit:
    """A release on one kind of hardware."""

    fingerprint: str
    hardware: str
    devices_count: int
    confirmed_count: int
    anew_count: int
    hint: FitHint | None
    rows: tuple[PooledRow, ...]
    reasons: tuple[str, ...]  # Of the newest device that came to the pooled choice


def pool(fits: Sequence[DeviceFit]) -> tuple[PooledFit, ...]:
    """Return one release on each kind of hardware, the kind with most devices first."""
    kinds = dict.fromkeys(fit.fingerprint for fit in fits)
    pooled = [_pool_kind([fit for fit in fits if fit.fingerprint == kind]) for kind in kinds]
    return tuple(sorted(pooled, key=lambda kind: (-kind.devices_count, kind.fingerprint)))


def hint_of(reports: Iterable[FitReport]) -> FitHint | None:
    """Return what most devices of one kind came to; None if none came to anything."""
    chosen = [
        (report.choice, row)
        for report in reports
        if (row := report.chosen) and _is_worth_it(row, report.rows)
    ]
    if not chosen:
        return None
    votes = Counter(choice.way for choice, _ in chosen if choice)
    way = min(votes, key=lambda w: (-votes[w], _median_ms(chosen, w), w))
    return FitHint(
        precision=way[0],
        backend=way[1],
        threads=way[2],
        run_ms_p50=_median_ms(chosen, way),
        devices_count=votes[way],
    )


def _is_worth_it(chosen: FitRow, rows: Sequence[FitRow]) -> bool:
    """Whether a row is fp32, or as much faster as pipelines ask for by default; rule 3."""
    runs = [row for row in rows if row.precision == FULL_PRECISION and row.code is None]
    if chosen.precision == FULL_PRECISION or not runs:
        return True
    alike = [row.run_ms_p50 for row in runs if row.threads == chosen.threads]
    fp32_ms = min(alike or [row.run_ms_p50 for row in runs])
    return fp32_ms >= PipelineLimits().speedup_min * chosen.run_ms_p50


def _median_ms(
    chosen: Sequence[tuple[FitChoice | None, FitRow]], way: tuple[str, str, int]
) -> float:
    return median(row.run_ms_p50 for _, row in chosen if row.way == way)


def _pool_kind(fits: Sequence[DeviceFit]) -> PooledFit:
    hint = hint_of(fit.report for fit in fits)
    standings = Counter(fit.report.standing for fit in fits)
    newest = sorted(fits, key=lambda fit: -fit.received_ms)
    ways = dict.fromkeys(row.way for fit in newest for row in fit.report.rows)
    wanted = (hint.precision, hint.backend, hint.threads) if hint else None
    agreeing = (
        fit.report.reasons
        for fit in newest
        if fit.report.choice and fit.report.choice.way == wanted
    )
    return PooledFit(
        fingerprint=fits[0].fingerprint,
        hardware=newest[0].hardware,
        devices_count=len(fits),
        confirmed_count=standings[FitStanding.CONFIRMED],
        anew_count=standings[FitStanding.ANEW],
        hint=hint,
        rows=tuple(_pool_way(newest, way) for way in ways),
        reasons=next(agreeing, newest[0].report.reasons),
    )


def _pool_way(newest: Sequence[DeviceFit], way: tuple[str, str, int]) -> PooledRow:
    rows = [row for fit in newest for row in fit.report.rows if row.way == way]
    ran = [row for row in rows if row.code is None]
    refused = [row for row in rows if row.code is not None]
    choices = [fit.report.choice for fit in newest if fit.report.choice]
    agreements = [row.agreement for row in rows if row.agreement is not None]
    return PooledRow(
        precision=way[0],
        backend=way[1],
        threads=way[2],
        devices_count=len(rows),
        chosen_count=sum(choice.way == way for choice in choices),
        refused_count=len(refused),
        run_ms_p50=median(r.run_ms_p50 for r in ran) if ran else None,
        run_ms_p95=median(r.run_ms_p95 for r in ran) if ran else None,
        items_per_s=median(r.items_per_s for r in ran) if ran else None,
        rss_bytes=int(median(r.rss_bytes for r in ran)) if ran else 0,
        agreement=agreements[0] if agreements else None,
        text=f"{refused[0].text} [{refused[0].code}]" if refused else "",
    )
