"""What changed limits mean to a release that has settled: the stored table judged anew. Pure.

1. A table with a row of every variant that the limits admit is judged as it was when it was made:
   the same row goes on, another one is switched to, or no row keeps the limits.
2. Where no row keeps them, what serves goes on serving, and it is said: to serve nothing is worse.
3. A table that lacks an admitted variant (equal devices' choice was confirmed, or the limits left
   the variant out then) goes on with its choice while that keeps the limits. It is measured anew
   where it does not, where it would have to gain more over fp32 than anybody has shown, and where
   the limits admit a variant that they did not admit before.

What must not live here: the steps that carry it out (refitting.py), sessions, files.
"""

from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum

import msgspec

from edge_agent.inference.fit import FULL_PRECISION, choose, objection, unsaid_speedup
from shared.errors import RefusedError
from shared.pipeline.pipeline import PipelineLimits
from shared.wire.fit import TEXT_CHARS_MAX, FitReport

CHANGED = "The limits of its pipelines have changed."


class Refit(StrEnum):
    """What to do."""

    KEEP = "keep"  # What serves is still the choice
    SWITCH = "switch"  # Another row is: its variant is brought and tried
    MEASURE = "measure"  # The table does not say: every variant is brought and measured
    NONE = "none"  # No row keeps the limits; what serves goes on


@dataclass(frozen=True, slots=True)
class Rejudged:
    """What a table comes to under other limits."""

    refit: Refit
    report: FitReport | None = None  # With its new choice, for SWITCH
    why: str = ""


def rejudge(
    report: FitReport | None,
    limits: PipelineLimits,
    *,
    admitted: Collection[str],
    admitted_before: Collection[str],
) -> Rejudged:
    """Return what a settled release's table comes to under `limits`.

    Args:
        report: the table with its choice; None: there is none on the disk.
        limits: as they are now.
        admitted: the precisions worth bringing under them.
        admitted_before: those under the limits that were judged last.
    """
    if report is None:
        return Rejudged(Refit.MEASURE, why=f"{CHANGED} It was never measured here.")
    known = {row.precision for row in report.rows}
    if not known.issuperset(admitted):
        return _judge_partial(report, limits, set(admitted) - known - set(admitted_before))
    try:
        chosen = choose(report.rows, limits)
    except RefusedError as error:
        return Rejudged(Refit.NONE, why=error.message[:TEXT_CHARS_MAX])
    if chosen.choice == report.choice:
        return Rejudged(Refit.KEEP)
    anew = msgspec.structs.replace(
        report, choice=chosen.choice, reasons=chosen.reasons, why=CHANGED
    )
    return Rejudged(Refit.SWITCH, anew, f"{CHANGED} {chosen.reasons[0]}"[:TEXT_CHARS_MAX])


def _judge_partial(report: FitReport, limits: PipelineLimits, gained: set[str]) -> Rejudged:
    row = report.chosen
    if row is None:
        problem = "its row is not in the table"
    else:
        problem = objection(row, limits)
        if not problem and all(other.precision != FULL_PRECISION for other in report.rows):
            problem = unsaid_speedup(row, limits)
    if problem:
        return Rejudged(Refit.MEASURE, why=f"{CHANGED} The choice: {problem}."[:TEXT_CHARS_MAX])
    if gained:
        names = ", ".join(sorted(gained))
        return Rejudged(Refit.MEASURE, why=f"{CHANGED} They admit {names}."[:TEXT_CHARS_MAX])
    return Rejudged(Refit.KEEP)
