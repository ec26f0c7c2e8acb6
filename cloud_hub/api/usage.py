"""Usage: what training took, by month and by model or owner, for people and as a table of commas.

1. Device-seconds are wall seconds times processes, of all attempts, also those that failed.
2. A cell of the table that a spreadsheet would take for a formula begins with an apostrophe.
"""

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import replace
from enum import StrEnum
from typing import Annotated, Self

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import JSONResponse
from pydantic import Field

from cloud_hub.api.bodies import PROSE_PATTERN, AnswerBody, Name, errors
from cloud_hub.api.services import ServicesDep
from cloud_hub.training.cloud.planner import OWNER_CHARS_MAX
from cloud_hub.training.cloud.views import UsageRow

routes = APIRouter(prefix="/api/v1/usage", tags=["Training"])

CSV_TYPE = "text/csv"
MONTH_PATTERN = r"^[0-9]{4}-(0[1-9]|1[0-2])$"
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")
COLUMNS = (
    "month", "model", "owner", "device_seconds", "jobs_count", "runs_count", "memory_bytes_max",
    "items_per_s_max",
)  # fmt: skip


class UsageBy(StrEnum):
    """What rows are added up by, within a month."""

    MODEL = "model"
    OWNER = "owner"


class UsageFormat(StrEnum):
    """How it is answered, whatever the request says it accepts."""

    JSON = "json"
    CSV = "csv"


class UsageRowOut(AnswerBody):
    """What training took: one month, model and owner. Null: added up over all."""

    month: str = Field(examples=["2026-11"])
    model: str | None
    owner: str | None
    device_seconds: float
    jobs_count: int
    runs_count: int
    memory_bytes_max: int
    items_per_s_max: float

    @classmethod
    def of(cls, row: UsageRow) -> Self:
        """Return a row in the form of the API."""
        return cls(
            month=row.month,
            model=row.model or None,
            owner=row.owner or None,
            device_seconds=row.device_seconds,
            jobs_count=row.jobs_count,
            runs_count=row.runs_count,
            memory_bytes_max=row.memory_bytes_max,
            items_per_s_max=row.items_per_s_max,
        )


class UsageOut(AnswerBody):
    """Usage, newest month first."""

    rows: tuple[UsageRowOut, ...]
    device_seconds: float = Field(description="Of all rows")
    items_served: dict[str, int] = Field(
        description="Items that released models were asked, by model, since the hub's start"
    )


@routes.get(
    "",
    summary="What training took",
    response_model=UsageOut,
    responses={**errors(), 200: {"content": {CSV_TYPE: {}}}},
)
def get_usage(
    request: Request,
    services: ServicesDep,
    by: UsageBy | None = None,
    month: Annotated[str | None, Query(pattern=MONTH_PATTERN, examples=["2026-11"])] = None,
    model: Name | None = None,
    owner: Annotated[str | None, Query(max_length=OWNER_CHARS_MAX, pattern=PROSE_PATTERN)] = None,
    format: Annotated[UsageFormat | None, Query()] = None,  # noqa: A002  # The query's own name
) -> Response:
    """Return device-seconds by month, model and owner: JSON, or CSV by `Accept` or `format`."""
    found = services.cloud_jobs.usage(model=model, owner=owner, month=month)
    rows = add_up(found, by)
    is_csv = CSV_TYPE in request.headers.get("accept", "").lower()
    if format is UsageFormat.CSV or (format is None and is_csv):
        headers = {"Content-Disposition": 'attachment; filename="usage.csv"'}
        return Response(usage_csv(rows), media_type=f"{CSV_TYPE}; charset=utf-8", headers=headers)
    served = services.serving.items_by_model
    wanted = {name: served[name] for name in sorted(served) if model in (None, name)}
    answer = UsageOut(
        rows=tuple(UsageRowOut.of(row) for row in rows),
        device_seconds=sum(row.device_seconds for row in rows),
        items_served=wanted,
    )
    return JSONResponse(answer.model_dump(mode="json"))


def add_up(rows: Iterable[UsageRow], by: UsageBy | None) -> tuple[UsageRow, ...]:
    """Return rows added up by month and model or owner; what was added up over is empty."""
    if by is None:
        return tuple(rows)
    sums: dict[tuple[str, str], UsageRow] = {}
    for row in rows:
        is_model = by is UsageBy.MODEL
        kept = replace(row, owner="") if is_model else replace(row, model="")
        key = (row.month, row.model if is_model else row.owner)
        known = sums.get(key)
        sums[key] = kept if known is None else _sum(known, kept)
    return tuple(
        sorted(sums.values(), key=lambda row: (_descending(row.month), row.model, row.owner))
    )


def usage_csv(rows: Sequence[UsageRow]) -> bytes:
    """Return rows as comma-separated values with a heading (RFC 4180)."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(COLUMNS)
    for row in rows:
        writer.writerow([_cell(getattr(row, column)) for column in COLUMNS])
    return text.getvalue().encode()


def _sum(one: UsageRow, other: UsageRow) -> UsageRow:
    return replace(
        one,
        device_seconds=one.device_seconds + other.device_seconds,
        memory_bytes_max=max(one.memory_bytes_max, other.memory_bytes_max),
        items_per_s_max=max(one.items_per_s_max, other.items_per_s_max),
        runs_count=one.runs_count + other.runs_count,
        jobs_count=one.jobs_count + other.jobs_count,
    )


def _descending(month: str) -> tuple[int, ...]:
    return tuple(-int(part) for part in month.split("-"))


def _cell(value: str | float) -> str | float:
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA_STARTS) else value
