"""What every router shares: the base of request and answer bodies, and how long lists may be.

1. Bodies are strict: no unknown fields, and `true` is no number.
2. A list answers at most LIST_MAX items; the next ones come `before` the last one's id.
"""

from typing import Annotated, Any

import msgspec
from fastapi import Path, Query
from pydantic import BaseModel, ConfigDict

from cloud_hub.api.errors import ErrorOut
from shared.ids import NAME_PATTERN

PROSE_PATTERN = r"^[^\x00-\x08\x0b-\x1f\x7f]*$"  # No control characters but tab and newline
LIST_DEFAULT = 50
LIST_MAX = 500


class RequestBody(BaseModel):
    """Base of what a client sends."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")


class AnswerBody(BaseModel):
    """Base of what we answer; made from the domain's frozen dataclasses."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", from_attributes=True)


Limit = Annotated[int, Query(ge=1, le=LIST_MAX, description="How many at most")]
NamePath = Annotated[str, Path(pattern=NAME_PATTERN, description="Lower-case name or id")]
VersionPath = Annotated[int, Path(ge=1, le=1_000_000)]
Name = Annotated[str, Query(pattern=NAME_PATTERN)]

_TEXTS = {
    400: "The request is not valid; the message names the field",
    401: "No operator token, or a wrong one",
    404: "There is no such thing",
    409: "A rule of the hub said no",
    422: "The bytes are not what was signed",
    503: "The hub cannot do this now; try again",
}


def plain(value: msgspec.Struct) -> dict[str, Any]:
    """Return a settings struct as the JSON object that it is on the wire and in files."""
    found: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(value))
    return found


def errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the OpenAPI description of these refusals, and of those that every call may get."""
    return {
        status: {"model": ErrorOut, "description": _TEXTS[status]}
        for status in sorted({400, 401, 503, *statuses})
    }
