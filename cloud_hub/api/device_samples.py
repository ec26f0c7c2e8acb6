"""What devices send by their owners' policy: open to no operator, signed with the device's own key.

1. See shared/wire/device_samples.py for what is said, signed_request.py for how it is signed. The
   hub's time is in every answer.
2. Whoever fails FAILURES_MAX times within WINDOW_S (enrolment.py) must wait; a wrong clock alone is
   no failure.
"""

from collections.abc import Callable
from typing import Any

import msgspec
from fastapi import APIRouter, Request, Response

from cloud_hub.api.dataset_upload import parsed
from cloud_hub.api.enrolment import FailureLimit
from cloud_hub.api.errors import ErrorOut, error_response
from cloud_hub.api.order_body import BytesBody
from cloud_hub.api.services import Services
from cloud_hub.devices.signed_requests import SignedRequests
from shared.clock import now_ms
from shared.errors import ContractError, IntegrityError, IsthmusError, RefusedError
from shared.ids import DeviceId
from shared.wire.device_samples import (
    ITEM_PATH,
    OFFER_PATH,
    ItemReply,
    OfferReply,
    SampleOffer,
    SharedItem,
)
from shared.wire.signed_request import TIME_HEADER

JSON_TYPE = "application/json"
PACKED_TYPE = "application/msgpack"
STALE = "request.stale"
TOO_MANY = "samples.too_many_failures"
_RESPONSES: dict[int | str, dict[str, Any]] = {
    400: {"model": ErrorOut, "description": "It is not signed, or makes no sense"},
    404: {"model": ErrorOut, "description": "There is no such device"},
    409: {"model": ErrorOut, "description": "Revoked, stale, or not wanted"},
    422: {"model": ErrorOut, "description": "The signature or the digest is wrong"},
    429: {"model": ErrorOut, "description": "Too many failures; wait"},
    503: {"model": ErrorOut, "description": "The hub has no room now; try again"},
}

_ITEMS = msgspec.msgpack.Decoder(SharedItem)


def make_device_samples_router(services: Services) -> APIRouter:
    """Return the routes; they remember who failed."""
    limit = FailureLimit(services.clock, code=TOO_MANY)
    signed = SignedRequests(services.devices, services.clock)
    routes = APIRouter(tags=["Learning"])

    def answer(
        request: Request, body: bytes, act: Callable[[DeviceId], OfferReply | ItemReply]
    ) -> Response:
        """Return what `act` answers to the device that signed; errors too tell the hub's time."""
        address = request.client.host if request.client else ""
        try:
            limit.require_free(address)
            device = _device(signed, limit, request, body, address)
            response = Response(msgspec.json.encode(act(device)), media_type=JSON_TYPE)
        except IsthmusError as error:
            response = error_response(error)
        response.headers[TIME_HEADER] = str(now_ms(services.clock))
        return response

    @routes.post(
        OFFER_PATH,
        summary="Offer samples",
        responses={**_RESPONSES, 200: {"content": {JSON_TYPE: {}}}},
        openapi_extra=_body(JSON_TYPE, "SampleOffer: digests of samples that could be sent"),
        response_class=Response,
    )
    def offer_samples(request: Request, body: BytesBody) -> Response:
        """Say which of these samples the hub wants now."""
        return answer(
            request,
            body,
            lambda device: services.collections.offer(device, parsed(body, SampleOffer)),
        )

    @routes.post(
        ITEM_PATH,
        summary="Send a sample",
        responses={**_RESPONSES, 200: {"content": {JSON_TYPE: {}}}},
        openapi_extra=_body(PACKED_TYPE, "SharedItem: one sample and what is known of it"),
        response_class=Response,
    )
    def send_sample(request: Request, body: BytesBody) -> Response:
        """Keep one sample; the answer comes when it is on the hub's disk."""
        return answer(
            request, body, lambda device: services.collections.take(device, _unpacked(body))
        )

    return routes


def _device(
    signed: SignedRequests, limit: FailureLimit, request: Request, body: bytes, address: str
) -> DeviceId:
    query = f"?{request.url.query}" if request.url.query else ""
    try:
        return signed.device_of(
            request.headers, method=request.method, target=request.url.path + query, body=body
        )
    except (ContractError, RefusedError, IntegrityError) as error:
        if error.code != STALE:
            limit.note_failure(address)
        raise


def _unpacked(body: bytes) -> SharedItem:
    try:
        return _ITEMS.decode(body)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise ContractError("request.invalid", f"{error}.") from error


def _body(media: str, description: str) -> dict[str, Any]:
    schema = {"type": "object"} if media == JSON_TYPE else {"type": "string", "format": "binary"}
    content = {media: {"schema": schema}}
    return {"requestBody": {"required": True, "description": description, "content": content}}
