"""What comes with a request about datasets: a source that goes to the disk as it comes, and rules.

1. An upload is never in memory whole: it is written to a folder that is gone after the request.
2. Rules are the domain's own structs (datasets/making.py, datasets/splits.py), read strictly from
   JSON; they are described once.
"""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated, TypeVar

import msgspec
from fastapi import Depends, Query, Request
from fastapi.concurrency import run_in_threadpool

from cloud_hub.api.services import ServicesDep
from cloud_hub.datasets.making import ImportRule
from shared.errors import ContractError, TransientError

PIECE_BYTES = 1 << 20  # Written at once
FILE_NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,119}$"
RULE_CHARS_MAX = 20_000
RULE_TEXT = (
    "JSON of how the source is read and put into parts: `layout`, `options`, `split_by`, `train`, "
    "`validation`, `test`, `seed`, `keeps_duplicates`; what is left out has its default"
)
RULE_EXAMPLE = '{"split_by": "device", "train": 0.7, "validation": 0.15, "test": 0.15}'

FileName = Annotated[
    str, Query(pattern=FILE_NAME_PATTERN, description="Its ending says what it is: .zip, .csv, …")
]
S = TypeVar("S")


async def received_file(
    request: Request, services: ServicesDep, file_name: FileName
) -> AsyncIterator[Path]:
    """Give the body as a file; see rule 1. Raises TransientError `disk.write_failed`."""
    with services.datasets.room() as folder:
        path = folder / file_name
        await _write(request, path)
        yield path


def import_rule(
    rule: Annotated[
        str | None,
        Query(max_length=RULE_CHARS_MAX, description=RULE_TEXT, examples=[RULE_EXAMPLE]),
    ] = None,
) -> ImportRule:
    """Return the rule in the query. Raises ContractError `request.invalid`, naming the field."""
    return ImportRule() if rule is None else parsed(rule.encode(errors="replace"), ImportRule)


def parsed(data: bytes, shape: type[S]) -> S:
    """Return JSON as a struct. Raises ContractError `request.invalid`, naming the field."""
    try:
        return msgspec.json.decode(data, type=shape)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ContractError(
            "request.invalid",
            f"{error}.",
            remedy="See /api/v1/openapi.json for what this call takes.",
        ) from error


async def _write(request: Request, path: Path) -> None:
    pending = bytearray()
    try:
        with path.open("wb") as file:
            async for chunk in request.stream():
                pending += chunk
                if len(pending) >= PIECE_BYTES:
                    await run_in_threadpool(file.write, bytes(pending))
                    pending.clear()
            await run_in_threadpool(file.write, bytes(pending))
    except OSError as error:
        raise TransientError(
            "disk.write_failed",
            f"The upload cannot be kept: {error.strerror or error}.",
            remedy="Free some space in the hub's state folder.",
        ) from error


ReceivedFile = Annotated[Path, Depends(received_file)]
ImportRuleQuery = Annotated[ImportRule, Depends(import_rule)]
