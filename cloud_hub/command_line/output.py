"""Output: what a command says. People get tables and sentences; `--json` gets one object.

1. With `--json` stdout holds exactly one line, the hub's own answer as JSON.
2. Errors are shared/command_line.py's to tell.
"""

import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime

from rich.console import Console, Group, JustifyMethod
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

NUMBER = "#"  # Ends a column's name whose cells are numbers
PLAIN_WIDTH = 160  # Where stdout is no terminal: wide enough that no row is broken.
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")  # But tab and ends of lines
LiveTable = Callable[[Sequence[Sequence[str]], str], None]


class Output:
    """Where a command writes."""

    def __init__(self, *, is_json: bool) -> None:
        self.is_json = is_json
        width = None if sys.stdout.isatty() else PLAIN_WIDTH
        self._console = Console(width=width, highlight=False, soft_wrap=True)

    def say(self, text: str) -> None:
        """Write a line for people."""
        if not self.is_json:
            self._console.print(escape(text))

    @contextmanager
    def live(self) -> Iterator[Callable[[str], None] | None]:
        """Give a function that rewrites one line below all others; None where there is no terminal.

        What is written meanwhile stands above it; it is gone at the end.
        """
        if self.is_json or not self._console.is_terminal:
            yield None
            return
        with self._console.status("…") as status:
            yield lambda text: status.update(escape(text))

    @contextmanager
    def live_table(self, columns: Sequence[str]) -> Iterator[LiveTable | None]:
        """Give a function that rewrites a table below all lines; None where there is no terminal.

        Its arguments are the rows, and a line below them. The table is gone at the end.
        """
        if self.is_json or not self._console.is_terminal:
            yield None
            return
        with Live(console=self._console, transient=True, auto_refresh=False) as live:

            def show(rows: Sequence[Sequence[str]], line: str) -> None:
                live.update(Group(_table(columns, rows), Text(line)), refresh=True)

            yield show

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[str]], *, empty: str) -> None:
        """Write a table for people, or `empty` where there is nothing to show."""
        if self.is_json:
            return
        if not rows:
            self._console.print(escape(empty))
            return
        self._console.print(_table(columns, rows))

    def facts(self, facts: Sequence[tuple[str, str]]) -> None:
        """Write names and values for people, one a line; empty values are left out."""
        if self.is_json:
            return
        width = max((len(name) for name, _ in facts), default=0)
        for name, value in facts:
            if value:
                self._console.print(f"[dim]{escape(name.ljust(width))}[/dim]  {escape(value)}")

    def raw(self, text: str) -> None:
        """Write text for people and pipes, a log or a table of commas, without control codes."""
        if not self.is_json:
            sys.stdout.write(_CONTROL.sub("", text))

    def result(self, json: bytes) -> None:
        """Write the answer for programs: one line of JSON, the last one."""
        if self.is_json:
            print(json.decode().replace("\n", " "))


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for column in columns:
        justify: JustifyMethod = "right" if column.endswith(NUMBER) else "left"
        table.add_column(column.removesuffix(NUMBER), justify=justify)
    for row in rows:
        table.add_row(*(escape(cell) for cell in row))
    return table


def clock_text(at_ms: int | None) -> str:
    """Return a time of day here, with the date if it is not today."""
    if not at_ms:
        return "never"
    at = datetime.fromtimestamp(at_ms / 1000, UTC).astimezone()
    is_today = at.date() == datetime.now(UTC).astimezone().date()
    return at.strftime("%H:%M:%S" if is_today else "%Y-%m-%d %H:%M")


def ago_text(at_ms: int | None, *, now_ms: int) -> str:
    """Return how long ago something was: "12 s ago"."""
    return f"{span_text((now_ms - at_ms) / 1000)} ago" if at_ms else "never"


def span_text(seconds: float) -> str:
    """Return a span of time in its largest fitting unit: "12 s", "3 min", "5 h", "2 d"."""
    value = max(0.0, seconds)
    for unit, size in (("d", 86_400), ("h", 3600), ("min", 60)):
        if value >= 2 * size:
            return f"{value / size:.0f} {unit}"
    return f"{value:.0f} s"
