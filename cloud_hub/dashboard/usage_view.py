"""What the page about usage shows: device-seconds by month, of each model or owner."""

from collections.abc import Sequence
from dataclasses import dataclass

from cloud_hub.api.services import Services
from cloud_hub.api.usage import UsageBy, add_up
from cloud_hub.dashboard.formats import hours
from cloud_hub.training.cloud.views import UsageRow

MONTHS_SHOWN = 12
NAMES_DRAWN = 6  # Each with a tone of its own; the rest is one part
ROWS_SHOWN = 300
REST = "the rest"
HEIGHT = 150.0
LEFT, TOP = 52.0, 10.0
WIDTH = 720.0
TICKS = 3


@dataclass(frozen=True, slots=True)
class Block:
    """One name's part of a month's column."""

    name: str
    tone: int
    y: float
    height: float
    title: str


@dataclass(frozen=True, slots=True)
class Column:
    """One month."""

    month: str
    x: float
    width: float
    blocks: tuple[Block, ...]


@dataclass(frozen=True, slots=True)
class UsageChart:
    """Columns, with a legend and marks."""

    columns: tuple[Column, ...]
    names: tuple[tuple[str, int], ...]
    ticks: tuple[tuple[float, str], ...]


@dataclass(frozen=True, slots=True)
class UsageLine:
    """One row of the table."""

    row: UsageRow
    name: str
    share: float  # Of the month's device-seconds


@dataclass(frozen=True, slots=True)
class UsagePage:
    """The whole page."""

    by: UsageBy
    lines: tuple[UsageLine, ...]
    chart: UsageChart | None
    device_seconds: float
    month_seconds: float  # Of the newest month
    month: str
    served: tuple[tuple[str, int], ...]  # Items that released models were asked


def view_usage(services: Services, by: UsageBy) -> UsagePage:
    """Return what training took, added up."""
    rows = add_up(services.cloud_jobs.usage(), by)
    months: dict[str, float] = {}
    for row in rows:
        months[row.month] = months.get(row.month, 0.0) + row.device_seconds
    newest = max(months, default="")
    served = services.serving.items_by_model
    return UsagePage(
        by=by,
        lines=tuple(
            UsageLine(row, _name(row, by), row.device_seconds / (months[row.month] or 1.0))
            for row in sorted(rows, key=lambda row: (row.month, row.device_seconds), reverse=True)
        )[:ROWS_SHOWN],
        chart=usage_chart(rows, by),
        device_seconds=sum(months.values()),
        month_seconds=months.get(newest, 0.0),
        month=newest,
        served=tuple(sorted(served.items())),
    )


def usage_chart(rows: Sequence[UsageRow], by: UsageBy) -> UsageChart | None:
    """Return months as columns; None where nothing was used."""
    months = sorted({row.month for row in rows})[-MONTHS_SHOWN:]
    sums: dict[str, float] = {}
    for row in rows:
        sums[_name(row, by)] = sums.get(_name(row, by), 0.0) + row.device_seconds
    most = max((_of_month(rows, month) for month in months), default=0.0)
    if most <= 0.0:
        return None
    drawn = sorted(sums, key=lambda name: -sums[name])[:NAMES_DRAWN]
    tones = {name: index for index, name in enumerate(drawn)}
    step = (WIDTH - LEFT) / max(len(months), 3)
    columns = tuple(
        _column(
            [row for row in rows if row.month == month],
            month,
            by,
            tones,
            x=LEFT + step * (index + 0.5),
            width=min(step * 0.6, 56.0),
            unit=HEIGHT / most,
        )
        for index, month in enumerate(months)
    )
    marks = [most * index / (TICKS - 1) for index in range(TICKS)]
    ticks = tuple((round(TOP + HEIGHT - HEIGHT * mark / most, 1), hours(mark)) for mark in marks)
    names = list(tones.items())
    names += [(REST, NAMES_DRAWN)] if len(sums) > NAMES_DRAWN else []
    return UsageChart(columns, tuple(names), ticks)


def _column(
    rows: Sequence[UsageRow],
    month: str,
    by: UsageBy,
    tones: dict[str, int],
    *,
    x: float,
    width: float,
    unit: float,
) -> Column:
    seconds: dict[str, float] = {}
    for row in rows:
        name = _name(row, by)
        name = name if name in tones else REST
        seconds[name] = seconds.get(name, 0.0) + row.device_seconds
    blocks = []
    top = TOP + HEIGHT
    for name in (*tones, REST):
        if name in seconds:
            height = seconds[name] * unit
            top -= height
            title = f"{month}, {name}: {hours(seconds[name])}"
            blocks.append(
                Block(name, tones.get(name, NAMES_DRAWN), round(top, 2), round(height, 2), title)
            )
    return Column(month, round(x - width / 2, 1), round(width, 1), tuple(blocks))


def _of_month(rows: Sequence[UsageRow], month: str) -> float:
    return sum(row.device_seconds for row in rows if row.month == month)


def _name(row: UsageRow, by: UsageBy) -> str:
    return (row.model if by is UsageBy.MODEL else row.owner) or "nobody"
