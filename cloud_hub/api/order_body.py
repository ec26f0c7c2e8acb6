"""The body of an order: JSON read straight into the domain's own JobOrder, and its OpenAPI.

1. JobOrder (cloud_hub/training/order.py) is the only description of an order: its limits, defaults
   and unions are not written down twice. msgspec checks it as strictly as other bodies are checked:
   no unknown fields, and `true` is no number.
2. An error names the field as a path: "$.strategy.eta".
"""

import re
from typing import Annotated, Any

import msgspec
from fastapi import Depends, Request

from cloud_hub.api.bodies import PROSE_PATTERN
from cloud_hub.training.order import JobOrder
from shared.errors import ContractError

JSON_TYPE = "application/json"
SCHEMA_REF = "#/components/schemas/{name}"
REMEDY = "See /api/v1/openapi.json, JobOrder, for what an order holds; `$` stands for all of it."
EXAMPLE = {
    "model": "digits",
    "group": "north",
    "strategy": {"name": "fedavg"},
    "rounds": 5,
    "devices_min": 3,
}
_PROSE = re.compile(PROSE_PATTERN)


async def read_bytes(request: Request) -> bytes:
    """Return the body as it came; its size was checked before (http_limits.py)."""
    return await request.body()


async def read_order(request: Request) -> JobOrder:
    """Return the order in the body. Raises ContractError `request.invalid`, naming the field."""
    return parse_order(await request.body())


def parse_order(data: bytes) -> JobOrder:
    """Return JSON as an order. Raises ContractError `request.invalid`, naming the field."""
    try:
        order = msgspec.json.decode(data, type=JobOrder)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ContractError("request.invalid", f"{error}.", remedy=REMEDY) from error
    return checked_order(order)


def checked_order(order: JobOrder) -> JobOrder:
    """Return an order whose prose can be stored and shown. Raises ContractError."""
    if not _PROSE.fullmatch(order.notes):
        raise ContractError(
            "request.invalid",
            "Control characters are not allowed - at `$.notes`.",
            remedy="Write plain text.",
        )
    return order


def order_description() -> dict[str, Any]:
    """Return OpenAPI's description of a call whose body is an order."""
    schema = {"$ref": SCHEMA_REF.format(name=JobOrder.__name__)}
    content = {JSON_TYPE: {"schema": schema, "example": EXAMPLE}}
    return {"requestBody": {"required": True, "content": content}}


def order_schemas() -> dict[str, Any]:
    """Return the JSON Schemas of an order and of everything in it, by name."""
    _, components = msgspec.json.schema_components([JobOrder], ref_template=SCHEMA_REF)
    return components


OrderBody = Annotated[JobOrder, Depends(read_order)]
BytesBody = Annotated[bytes, Depends(read_bytes)]
