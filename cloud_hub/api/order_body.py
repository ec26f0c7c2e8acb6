"""The bodies of orders: JSON read straight into the domain's own structs, and their OpenAPI.

1. JobOrder (cloud_hub/training/order.py) and CloudOrder (cloud_hub/training/cloud/order.py) are the
   only descriptions of orders: limits, defaults and unions are not written down twice. msgspec
   checks them as strictly as other bodies are checked: no unknown fields, and `true` is no number.
2. An error names the field as a path: "$.strategy.eta".
3. A Report is answered as the training process wrote it; its JSON Schema stands with theirs.
"""

import re
from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

import msgspec
from fastapi import Depends, Request

from cloud_hub.api.bodies import PROSE_PATTERN
from cloud_hub.explain.report import Report
from cloud_hub.training.cloud.order import CloudOrder
from cloud_hub.training.order import JobOrder
from shared.errors import ContractError

JSON_TYPE = "application/json"
SCHEMA_REF = "#/components/schemas/{name}"
REMEDY = (
    "See /api/v1/openapi.json, {name}, for what it holds; `$` stands for all of it, and paths "
    "begin there."
)
JOB_EXAMPLE: Mapping[str, object] = {
    "model": "digits",
    "group": "north",
    "strategy": {"name": "fedavg"},
    "rounds": 5,
    "devices_min": 3,
}
CLOUD_EXAMPLE: Mapping[str, object] = {
    "model": "digits",
    "dataset": "digits",
    "checkpoint": "ckpt-7fk2mq9x",
    "method": {"kind": "supervised", "label_smoothing": 0.1},
    "recipe": {"epochs": 10, "batch": 128, "learning_rate": 0.05},
}
_PROSE = re.compile(PROSE_PATTERN)
S = TypeVar("S")


async def read_bytes(request: Request) -> bytes:
    """Return the body as it came; its size was checked before (http_limits.py)."""
    return await request.body()


async def read_order(request: Request) -> JobOrder:
    """Return the order in the body. Raises ContractError `request.invalid`, naming the field."""
    return checked_order(parse_struct(await request.body(), JobOrder))


async def read_cloud_order(request: Request) -> CloudOrder:
    """Return the order in the body. Raises ContractError `request.invalid`, naming the field."""
    return checked_cloud_order(parse_struct(await request.body(), CloudOrder))


def parse_struct(data: bytes, shape: type[S]) -> S:
    """Return JSON as a struct. Raises ContractError `request.invalid`, naming the field."""
    try:
        return msgspec.json.decode(data, type=shape)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ContractError(
            "request.invalid", f"{error}.", remedy=REMEDY.format(name=shape.__name__)
        ) from error


def checked_order(order: JobOrder) -> JobOrder:
    """Return an order whose prose can be stored and shown. Raises ContractError."""
    _check_prose(notes=order.notes)
    return order


def checked_cloud_order(order: CloudOrder) -> CloudOrder:
    """Return an order whose prose can be stored and shown. Raises ContractError."""
    _check_prose(notes=order.notes, owner=order.owner)
    return order


def order_description() -> dict[str, Any]:
    """Return OpenAPI's description of a call whose body is an order to devices."""
    return _described(JobOrder, JOB_EXAMPLE)


def cloud_order_description() -> dict[str, Any]:
    """Return OpenAPI's description of a call whose body is an order to the cloud."""
    return _described(CloudOrder, CLOUD_EXAMPLE)


def struct_answer(shape: type[msgspec.Struct]) -> dict[int | str, dict[str, Any]]:
    """Return OpenAPI's description of an answer that is one of the domain's structs."""
    schema = {"$ref": SCHEMA_REF.format(name=shape.__name__)}
    return {200: {"description": "As it was written", "content": {JSON_TYPE: {"schema": schema}}}}


def order_schemas() -> dict[str, Any]:
    """Return the JSON Schemas of orders and Reports, and of everything in them, by name."""
    _, components = msgspec.json.schema_components(
        [JobOrder, CloudOrder, Report], ref_template=SCHEMA_REF
    )
    return components


def _described(shape: type[msgspec.Struct], example: Mapping[str, object]) -> dict[str, Any]:
    schema = {"$ref": SCHEMA_REF.format(name=shape.__name__)}
    content = {JSON_TYPE: {"schema": schema, "example": dict(example)}}
    return {"requestBody": {"required": True, "content": content}}


def _check_prose(**texts: str) -> None:
    for field, text in texts.items():
        if not _PROSE.fullmatch(text):
            raise ContractError(
                "request.invalid",
                f"Control characters are not allowed - at `$.{field}`.",
                remedy="Write plain text.",
            )


OrderBody = Annotated[JobOrder, Depends(read_order)]
CloudOrderBody = Annotated[CloudOrder, Depends(read_cloud_order)]
BytesBody = Annotated[bytes, Depends(read_bytes)]
