"""`edge-agent top`: what the running agent does, once a second, in the terminal.

Rich is imported when it is used: the agent itself starts by the same command line, and need not
carry it. What must not live here: where numbers come from (file_status.py).
"""

import sys
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from edge_agent.file_status import AgentStatus
from edge_agent.telemetry.numbers import AgentNumbers, PipelineNumbers
from shared.clock import Clock
from shared.plural import counted

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table
    from rich.text import Text

TOP_S = 1.0
STAGES = ("wait", "prepare", "run", "conclude", "sinks")
STAGES_TITLE = "milliseconds, p50/p95/p99; wait is the age of what waits in the queue"
STATE_CHARS = len("reconnecting")  # The longest word of a state; what is longer goes on below
STATE_COLOURS = {"running": "green", "ended": "cyan", "failed": "red", "failing": "red"}
MIB = 1 << 20


def show_top(
    read: Callable[[], AgentStatus], stop: threading.Event, clock: Clock, *, once: bool
) -> None:
    """Print what `read` gives: once, or again every TOP_S until `stop` is set."""
    from rich.console import Console
    from rich.live import Live

    if once:
        Console().print(top_view(read()))
        return
    with Live(top_view(read()), screen=sys.stdout.isatty(), auto_refresh=False) as live:
        while not stop.is_set():
            live.update(top_view(read()), refresh=True)
            clock.wait(stop, TOP_S)


def top_view(status: AgentStatus) -> "RenderableType":
    """Return the whole screen."""
    from rich.console import Group
    from rich.text import Text

    numbers = status.numbers
    if numbers is None:
        return Text("The agent has not said anything yet.")
    return Group(
        _head(status, numbers),
        _pipelines(numbers),
        Text(STAGES_TITLE, style="dim"),
        _stages(numbers),
        *_notes(numbers),
    )


def _head(status: AgentStatus, numbers: AgentNumbers) -> "Text":
    from rich.text import Text

    host = numbers.host
    link = ("connected", "green") if status.is_connected else ("NOT connected", "red")
    text = Text.assemble(
        (status.device, "bold"),
        " ",
        link,
        f"   cpu {_with_workers(host.cpu_share, numbers)} of a core   "
        f"memory {host.rss_bytes // MIB}{_workers_mib(numbers)} MiB   "
        f"disk {host.disk_free_bytes // MIB} MiB free",
    )
    if host.temperature_c is not None:
        text.append(f"   {host.temperature_c:.0f} °C")
    text.append(f"   outbox {status.outbox_rows}")
    return text


def _with_workers(agent: float, numbers: AgentNumbers) -> str:
    """Return processor time of the agent and, beside it, of the processes that run models."""
    workers = sum(worker.cpu_share for worker in numbers.workers)
    return f"{agent:.0%} + {workers:.0%}" if numbers.workers else f"{agent:.0%}"


def _workers_mib(numbers: AgentNumbers) -> str:
    total = sum(worker.rss_bytes for worker in numbers.workers)
    return f" + {total // MIB}" if numbers.workers else ""


def _pipelines(numbers: AgentNumbers) -> "Table":
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    for name in ("pipeline", "model"):
        table.add_column(name, overflow="fold", min_width=len("pipeline"))
    table.add_column("state", min_width=STATE_CHARS)
    for name in ("/s", "in", "gated", "dropped", "decided", "failed", "lost"):
        table.add_column(name, justify="right", min_width=len(name))
    for one in numbers.pipelines:
        release = f" v{one.version} {one.precision}" if one.version else ""
        table.add_row(
            Text(one.pipeline),
            Text(one.model + release),
            Text(one.state, style=STATE_COLOURS.get(one.state, "yellow")),
            f"{one.items_per_s:.1f}",
            *(
                f"{count:,}"
                for count in (
                    one.items_in,
                    one.items_gated,
                    one.items_dropped,
                    one.items_decided,
                    one.items_failed,
                    one.sinks_lost,
                )
            ),
        )
    return table


def _stages(numbers: AgentNumbers) -> "Table":
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    table.add_column("pipeline")
    for stage in STAGES:
        table.add_column(stage, justify="right", overflow="fold")
    for one in numbers.pipelines:
        table.add_row(Text(one.pipeline), *(_times(one, stage) for stage in STAGES))
    return table


def _times(one: PipelineNumbers, stage: str) -> str:
    times = one.stages.get(stage)
    return f"{_ms(times.ms_p50)}/{_ms(times.ms_p95)}/{_ms(times.ms_p99)}" if times else "-"


def _ms(value: float) -> str:
    return f"{value:.1f}" if value < 10 else f"{value:.0f}"


def _losses(one: PipelineNumbers) -> tuple[str, ...]:
    return tuple(f"{sink} lost {count:,}" for sink, count in one.lost_by_sink.items())


def _notes(numbers: AgentNumbers) -> "list[Text]":
    from rich.text import Text

    notes = [
        Text(f"{one.pipeline}: {detail}", style="yellow")
        for one in numbers.pipelines
        for detail in (one.detail, *one.sinks, *_losses(one))
        if detail
    ]
    notes += [
        Text(
            f"{worker.model} v{worker.version}: its process was started again "
            f"{counted(worker.restarts_count, 'time')}, last because it was {worker.last_cause}",
            style="yellow",
        )
        for worker in numbers.workers
        if worker.restarts_count
    ]
    return notes
