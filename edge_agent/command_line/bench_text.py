"""What `edge-agent bench` measured, as people and programs read it.

Rich is imported when it is used: the agent itself starts by the same command line, and need not
carry it.
"""

import sys
from typing import TYPE_CHECKING

import msgspec

from edge_agent.command_line.bench_model import BenchSummary
from shared.wire.fit import FitReport, FitRow

if TYPE_CHECKING:
    from rich.table import Table

PLAIN_WIDTH = 240  # Where no terminal says how wide it is
COLUMNS = ("variant", "backend", "threads", "p50 ms", "p95 ms", "items/s", "MiB", "agrees", "")


def print_bench(summary: BenchSummary) -> None:
    """Write the table, the choice and the reasons to stdout."""
    from rich.console import Console

    width = None if sys.stdout.isatty() else PLAIN_WIDTH
    console = Console(width=width, highlight=False, soft_wrap=True)
    console.print(f"{summary.name} on this device:", markup=False)
    console.print(_table(summary.measured))
    for line in (*summary.measured.reasons, *([summary.refusal] if summary.refusal else [])):
        console.print(f"  {line}", markup=False)
    if summary.told is not None:
        console.print(f"As measured when it came ({summary.told.standing}):", markup=False)
        console.print(_table(summary.told))


def bench_as_json(summary: BenchSummary) -> dict[str, object]:
    """Return what was measured as one JSON object."""
    return {
        "name": summary.name,
        "measured": msgspec.to_builtins(summary.measured),
        "refusal": summary.refusal,
        "told": msgspec.to_builtins(summary.told),
    }


def _table(report: FitReport) -> "Table":
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for column in COLUMNS:
        table.add_column(
            column, justify="left" if column in ("variant", "backend", "") else "right"
        )
    chosen = report.choice.way if report.choice else None
    for row in report.rows:
        table.add_row(*_cells(row), "chosen" if row.way == chosen else row.code or "")
    return table


def _cells(row: FitRow) -> tuple[str, ...]:
    name = (row.precision, row.backend, str(row.threads))
    if row.code is not None:
        return (*name, "–", "–", "–", "–", "–")
    return (
        *name,
        f"{row.run_ms_p50:.3g}",
        f"{row.run_ms_p95:.3g}",
        f"{row.items_per_s:.4g}",
        str(row.rss_bytes >> 20) if row.rss_bytes else "–",
        "–" if row.agreement is None else f"{row.agreement:.1%}",
    )
