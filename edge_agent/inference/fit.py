"""Fit: which variant of a release, on which backend and how many threads, this device runs. Pure.

1. A row that could not be loaded, proved or timed is out; so is one over a pipeline's limits on
   p95 latency and memory.
2. A quantized variant has to be worth what it loses: it must agree with fp32 by
   `agreement_min`, and a run must be `speedup_min` times as fast as the fastest fp32 run with as
   many threads. Where no fp32 row may run here there is nothing to be faster than.
3. Of what is left the row with most items a second is taken. Rows within TIE_SHARE of it are
   equal: then the smaller file, the fewer threads, the less memory.
4. Nothing left is a refusal of the release that names every row's reason. Rows that all failed with
   one code are refused with that code: the release itself is at fault then.

What must not live here: sessions, time, files.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

from shared.errors import RefusedError
from shared.pipeline.pipeline import PipelineLimits
from shared.wire.fit import TEXT_CHARS_MAX, FitChoice, FitHint, FitRow

FULL_PRECISION = "fp32"
TIE_SHARE = 0.05  # Medians of short blocks on a busy machine differ by as much from run to run
CONFIRM_FACTOR = 1.5  # A pooled median holds here within this factor, either way
REASONS_NAMED_MAX = 8


@dataclass(frozen=True, slots=True)
class Chosen:
    """What `choose` came to."""

    row: FitRow
    reasons: tuple[str, ...]  # Why it was taken, and why others were not

    @property
    def choice(self) -> FitChoice:
        """Return the row as a choice."""
        row = self.row
        return FitChoice(precision=row.precision, backend=row.backend, threads=row.threads)


def strictest(limits: Iterable[PipelineLimits]) -> PipelineLimits:
    """Return limits that satisfy every one of `limits`; the defaults if there is none."""
    known = tuple(limits) or (PipelineLimits(),)
    return PipelineLimits(
        latency_ms_p95_max=min(
            (k.latency_ms_p95_max for k in known if k.latency_ms_p95_max), default=0.0
        ),
        rss_bytes_max=min((k.rss_bytes_max for k in known if k.rss_bytes_max), default=0),
        agreement_min=max(k.agreement_min for k in known),
        speedup_min=max(k.speedup_min for k in known),
    )


def is_quantized(precision: str) -> bool:
    """Whether a variant has lost precision, and so has to be worth it."""
    return precision != FULL_PRECISION


def choose(rows: Sequence[FitRow], limits: PipelineLimits) -> Chosen:
    """Return the row that this device runs, and why.

    Raises RefusedError `fit.none` or, where every row failed with one code, that one.
    """
    problems = {row.way: problem for row in rows if (problem := _problem(row, limits))}
    baselines = [row for row in rows if row.way not in problems and not is_quantized(row.precision)]
    for row in rows:
        if row.way not in problems and (problem := _loss(row, baselines, limits)):
            problems[row.way] = problem
    usable = [row for row in rows if row.way not in problems]
    if not usable:
        raise _none(rows, problems)
    best = _best(usable)
    refusals = [f"{name_of(row)}: {problems[row.way]}" for row in rows if row.way in problems]
    return Chosen(best, (_why(best, usable, baselines), *_merged(refusals)))


def confirm(row: FitRow, hint: FitHint, limits: PipelineLimits) -> str:
    """Return why what others chose does not hold here; empty if it does.

    Args: row: the hinted way to run the release, measured here.
    """
    problem = objection(row, limits)
    if problem:
        return f"{name_of(row)}: {problem}"
    problem = unsaid_speedup(row, limits)
    if problem:
        return f"{name_of(row)}: {problem}"
    slowest = hint.run_ms_p50 * CONFIRM_FACTOR
    fastest = hint.run_ms_p50 / CONFIRM_FACTOR
    if fastest <= row.run_ms_p50 <= slowest:
        return ""
    return (
        f"{name_of(row)} takes {row.run_ms_p50:.3g} ms here, {hint.run_ms_p50:.3g} ms on "
        f"{hint.devices_count} devices of this hardware: more than {CONFIRM_FACTOR:g} times apart"
    )


def objection(row: FitRow, limits: PipelineLimits) -> str:
    """Return why a row by itself may not run under `limits`; empty if it may."""
    return _problem(row, limits) or _disagreement(row, limits)


def unsaid_speedup(row: FitRow, limits: PipelineLimits) -> str:
    """Return why a row that others chose, with no fp32 beside it, has to be measured with one.

    Others chose by the default; what is asked for here beyond it, nobody has shown.
    """
    if not is_quantized(row.precision) or limits.speedup_min <= PipelineLimits().speedup_min:
        return ""
    return f"{limits.speedup_min:g} times fp32 is needed, and no fp32 was measured here"


def name_of(row: FitRow) -> str:
    """Return a row as people read it."""
    threads = "1 thread" if row.threads == 1 else f"{row.threads} threads"
    return f"{row.precision} on {row.backend}, {threads}"


def _problem(row: FitRow, limits: PipelineLimits) -> str:
    """Return what keeps a row from running here, whatever the others do."""
    if row.code is not None:
        return f"{row.text} [{row.code}]"
    p95_max, rss_max = limits.latency_ms_p95_max, limits.rss_bytes_max
    if p95_max and row.run_ms_p95 > p95_max:
        return f"its p95 is {row.run_ms_p95:.3g} ms, {p95_max:g} ms are allowed"
    if rss_max and row.rss_bytes > rss_max:
        return f"it takes {row.rss_bytes >> 20} MiB, {rss_max >> 20} MiB are allowed"
    return ""


def _disagreement(row: FitRow, limits: PipelineLimits) -> str:
    # An agreement that is not stated was judged by the hub's gate with the whole release.
    if row.agreement is None or row.agreement >= limits.agreement_min:
        return ""
    return (
        f"it agrees with fp32 on {row.agreement:.1%} of held-out items, "
        f"{limits.agreement_min:.1%} are needed"
    )


def _loss(row: FitRow, baselines: Sequence[FitRow], limits: PipelineLimits) -> str:
    """Return why a quantized row is not worth what it loses."""
    if not is_quantized(row.precision):
        return ""
    speedup = _speedup(row, baselines) if baselines else limits.speedup_min
    if speedup < limits.speedup_min:
        return f"it is {speedup:.2f} times as fast as fp32, {limits.speedup_min:g} times is needed"
    return _disagreement(row, limits)


def _speedup(row: FitRow, baselines: Sequence[FitRow]) -> float:
    """Return how many times as fast a run is as the fastest fp32 run with as many threads."""
    alike = [b.run_ms_p50 for b in baselines if b.threads == row.threads]
    fp32_ms = min(alike or [b.run_ms_p50 for b in baselines])
    if row.run_ms_p50 <= 0.0:
        return 1.0 if fp32_ms <= 0.0 else float("inf")
    return fp32_ms / row.run_ms_p50


def _best(usable: Sequence[FitRow]) -> FitRow:
    most = max(row.items_per_s for row in usable)
    equal = [row for row in usable if row.items_per_s >= (1.0 - TIE_SHARE) * most]
    return min(equal, key=lambda r: (r.artifact_bytes, r.threads, r.rss_bytes, -r.items_per_s))


def _why(best: FitRow, usable: Sequence[FitRow], baselines: Sequence[FitRow]) -> str:
    text = f"{name_of(best)}: {_rate_text(best.items_per_s)} items a second"
    if is_quantized(best.precision) and baselines:
        text += f", {_speedup(best, baselines):.2f} times as fast as fp32"
    most = max(row.items_per_s for row in usable)
    if len(usable) == 1:
        return f"{text}; nothing else may run here"
    if best.items_per_s < most:
        return f"{text}; the smallest of those within {TIE_SHARE:.0%} of the fastest"
    return f"{text}; the most of {len(usable)} ways"


def _none(rows: Sequence[FitRow], problems: dict[tuple[str, str, int], str]) -> RefusedError:
    codes = {row.code for row in rows}
    if len(codes) == 1 and (code := rows[0].code) is not None:
        return RefusedError(code, "; ".join(dict.fromkeys(row.text for row in rows)))
    told = _merged([f"{name_of(row)}: {problems[row.way]}" for row in rows])
    return RefusedError(
        "fit.none",
        f"No variant may run on this device. {'; '.join(told[:REASONS_NAMED_MAX])}.",
        remedy="Loosen the limits of the pipelines that use the model, or publish a smaller one.",
    )


def _merged(reasons: Sequence[str]) -> tuple[str, ...]:
    """Return each reason once, short enough for a Report."""
    return tuple(reason[:TEXT_CHARS_MAX] for reason, _ in groupby(reasons))


def _rate_text(items_per_s: float) -> str:
    return f"{items_per_s:,.0f}" if items_per_s >= 100 else f"{items_per_s:.3g}"
