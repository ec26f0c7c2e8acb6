"""Asking a released model: the same weights and the same scaling as on devices, over HTTP.

1. A POST with a picture as its body is one item; JSON holds up to ITEMS_MAX items.
2. Items of many requests are run together (cloud_hub/serving); each is answered, or refused, alone:
   one that cannot be read refuses its own request and nobody else's.
"""

import asyncio
from collections.abc import Sequence
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Request
from msgspec import Meta
from pydantic import Field
from starlette.concurrency import run_in_threadpool

from cloud_hub.api.bodies import AnswerBody, NamePath, errors
from cloud_hub.api.services import ServicesDep
from cloud_hub.serving.example import example_item, model_openapi
from cloud_hub.serving.items import (
    ITEMS_MAX,
    bad,
    checked_picture,
    picture_bytes,
    text_bytes,
    wanted_field,
    window_bytes,
)
from cloud_hub.serving.messages import Answer, Told
from shared.errors import ContractError, RefusedError
from shared.model.spec import ImageInput, ModelSpec, WindowInput

routes = APIRouter(prefix="/api/v1/models/{model}", tags=["Serving"])

JSON_TYPE = "application/json"
IMAGE_PREFIX = "image/"
TEXT_CHARS_MAX = 100_000
_BODY = {
    "requestBody": {
        "required": True,
        "description": "A picture, or JSON: `items`, each with `image` (base64), `window` (T rows "
        "of C numbers) or `text`. GET the same address for what one model takes, and an example.",
        "content": {
            JSON_TYPE: {
                "schema": {
                    "type": "object",
                    "required": ["items"],
                    "properties": {"items": {"type": "array", "items": {"type": "object"}}},
                }
            },
            "image/*": {"schema": {"type": "string", "format": "binary"}},
        },
    }
}


class _Item(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    image: str | None = None
    window: list[list[float]] | None = None
    text: Annotated[str, Meta(max_length=TEXT_CHARS_MAX)] | None = None


class _Items(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    items: Annotated[list[_Item], Meta(min_length=1, max_length=ITEMS_MAX)]


_DECODER = msgspec.json.Decoder(_Items)


class TimesOut(AnswerBody):
    """Where the time went, of the slowest item."""

    wait_ms: float = Field(description="For others to fill the batch")
    run_ms: float = Field(description="The whole batch, pictures decoded")
    batch: int = Field(description="Items that were run together")


class InferredOut(AnswerBody):
    """What a model said of each item, in order."""

    model: str
    version: int
    precision: str
    answers: tuple[dict[str, Any], ...] = Field(
        description="Each with `task`: classification (label, probability, probabilities), "
        "detection (boxes: label, score, corners as shares) or anomaly (score, is_anomalous)"
    )
    times: TimesOut


class ServedOut(AnswerBody):
    """What is served of a model."""

    model: str
    version: int
    precision: str
    task: str
    takes: str = Field(description='The field of an item: "image", "window" or "text"')
    classes: tuple[str, ...]
    example: dict[str, Any] = Field(description="A body that the model answers")


@routes.post(
    "/infer", summary="Ask the released model", responses=errors(404, 409), openapi_extra=_BODY
)
async def infer(model: NamePath, request: Request, services: ServicesDep) -> InferredOut:
    """Return what the released model says of the items, by the release that is served now."""
    serving = services.serving
    manifest = await run_in_threadpool(serving.manifest, model)
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    items = read_items(await request.body(), kind, manifest.spec)
    served = await run_in_threadpool(serving.submit, model, items)
    told = await asyncio.gather(*map(asyncio.wrap_future, served.futures))
    answers = _answers(told)
    slowest = max(told, key=lambda one: one.wait_ms + one.run_ms)
    return InferredOut(
        model=model,
        version=served.manifest.version,
        precision=served.precision,
        answers=tuple(msgspec.to_builtins(answer) for answer in answers),
        times=TimesOut(wait_ms=slowest.wait_ms, run_ms=slowest.run_ms, batch=slowest.batch),
    )


@routes.get("/infer", summary="What the released model takes", responses=errors(404))
def describe(model: NamePath, services: ServicesDep) -> ServedOut:
    """Return what is served of a model, and a body that it answers."""
    manifest = services.serving.manifest(model)
    spec = manifest.spec
    return ServedOut(
        model=model,
        version=manifest.version,
        precision=manifest.variants[0].precision,
        task=spec.task,
        takes=wanted_field(spec),
        classes=spec.output.classes,
        example={"items": [example_item(spec)]},
    )


@routes.get("/openapi.json", summary="The model's own OpenAPI", responses=errors(404))
def describe_openapi(model: NamePath, request: Request, services: ServicesDep) -> dict[str, Any]:
    """Return an OpenAPI document for this one model, from which clients can be generated."""
    manifest = services.serving.manifest(model)
    return model_openapi(
        manifest.spec,
        version=manifest.version,
        path=f"/api/v1/models/{model}/infer",
        server=str(request.base_url).rstrip("/"),
    )


def read_items(body: bytes, kind: str, spec: ModelSpec) -> list[bytes]:
    """Return a request's items as a serving process takes them.

    Raises ContractError `request.invalid`, naming the field.
    """
    if kind.startswith(IMAGE_PREFIX):
        if not isinstance(spec.input, ImageInput):
            raise bad("body", f"the model takes a {wanted_field(spec)}, not a picture")
        return [checked_picture(body, "body")]
    if kind != JSON_TYPE:
        raise bad("Content-Type", f"{kind[:60]!r} is neither {JSON_TYPE} nor a picture's")
    try:
        asked = _DECODER.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise bad("body", str(error)) from error
    return [_bytes_of(item, f"items[{index}]", spec) for index, item in enumerate(asked.items)]


def _bytes_of(item: _Item, place: str, spec: ModelSpec) -> bytes:
    wanted = wanted_field(spec)
    given = [name for name in ("image", "window", "text") if getattr(item, name) is not None]
    if given != [wanted]:
        raise bad(place, f"the model takes {wanted!r}, not {' and '.join(given) or 'nothing'}")
    if item.image is not None:
        return picture_bytes(item.image, f"{place}.image")
    if item.window is not None:
        assert isinstance(spec.input, WindowInput), "wanted_field said so"
        return window_bytes(item.window, spec.input, f"{place}.window")
    return text_bytes(item.text or "")


def _answers(told: Sequence[Told]) -> list[Answer]:
    answers = []
    for index, one in enumerate(told):
        if one.answer is None:
            family = ContractError if one.code == "serving.item" else RefusedError
            raise family(one.code, f"items[{index}]: {one.text}", remedy=one.remedy)
        answers.append(one.answer)
    return answers
