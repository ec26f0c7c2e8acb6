"""How devices join: open to everybody, since nobody is known yet. See shared/wire/enrolment.py.

1. The introduction tells nothing secret; a device believes it only if its token names the CA.
2. Joining needs a token, renewing the device's own key. Whoever fails FAILURES_MAX times within
   WINDOW_S must wait.
"""

import base64
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field

from cloud_hub.api.errors import ErrorOut
from cloud_hub.devices.service import DeviceService
from shared.clock import Clock, SystemClock, now_ms
from shared.errors import ContractError, RefusedError
from shared.ids import NAME_PATTERN, DeviceId
from shared.wire.enrolment import CA_PATH, JOIN_PATH, RENEW_PATH
from shared.wire.presence import Hardware

FAILURES_MAX = 10
WINDOW_S = 60.0
ADDRESSES_MAX = 10_000

Text = Annotated[str, Field(max_length=120)]
Pem = Annotated[str, Field(max_length=8192)]
Amount = Annotated[int, Field(ge=0, le=2**53)]


@dataclass(frozen=True, slots=True)
class EnrolmentInfo:
    """What devices are told about the hub."""

    ca_pem: str
    broker_port: int
    broker_host: str | None = None  # None: the host under which the device reached the hub
    hub_name: str = ""
    hub_version: str = ""


class IntroductionOut(BaseModel):
    """Who the hub is."""

    model_config = ConfigDict(strict=True, frozen=True)

    ca_pem: str
    now_ms: int
    hub_name: str
    hub_version: str


class HardwareIn(BaseModel):
    """What the device is made of."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    machine: Text
    board: Text
    cores_count: Amount
    memory_bytes: Amount


class JoinIn(BaseModel):
    """A token, and a signing request for the device's own key."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    token: Annotated[str, Field(max_length=200)]
    csr_pem: Pem
    hardware: HardwareIn | None = None


class JoinOut(BaseModel):
    """All that a device needs from now on."""

    model_config = ConfigDict(strict=True, frozen=True)

    device_id: str
    certificate_pem: str
    ca_pem: str
    broker_host: str | None
    broker_port: int
    tuf_root: str = Field(description="Base64")
    hub_name: str
    hub_version: str


class RenewIn(BaseModel):
    """A signing request for the key that the device joined with."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    device_id: Annotated[str, Field(pattern=NAME_PATTERN)]
    csr_pem: Pem


class RenewOut(BaseModel):
    """The new certificate."""

    model_config = ConfigDict(strict=True, frozen=True)

    certificate_pem: str


class FailureLimit:
    """Counts each address's failures; safe to share between threads."""

    def __init__(self, clock: Clock, *, code: str = "enrolment.too_many_failures") -> None:
        self._clock, self._code = clock, code
        self._lock = threading.Lock()
        self._failures: OrderedDict[str, tuple[float, int]] = OrderedDict()  # Since when, how many

    def require_free(self, address: str) -> None:
        """Raise RefusedError, such as `enrolment.too_many_failures`, if this address must wait."""
        with self._lock:
            since_s, count = self._failures.get(address, (0.0, 0))
        wait_s = since_s + WINDOW_S - self._clock.monotonic_s()
        if count >= FAILURES_MAX and wait_s > 0:
            raise RefusedError(
                self._code,
                f"It failed {count} times from {address}.",
                remedy=f"Wait {int(wait_s) + 1} seconds, and look at the token or the key.",
            )

    def note_failure(self, address: str) -> None:
        """Count one failure."""
        at_s = self._clock.monotonic_s()
        with self._lock:
            since_s, count = self._failures.get(address, (at_s, 0))
            if at_s - since_s >= WINDOW_S:
                since_s, count = at_s, 0
            self._failures[address] = (since_s, count + 1)
            self._failures.move_to_end(address)
            if len(self._failures) > ADDRESSES_MAX:
                self._failures.popitem(last=False)


def make_enrolment_router(
    devices: DeviceService,
    hub: EnrolmentInfo,
    bootstrap_root: Callable[[], bytes],
    *,
    clock: Clock | None = None,
) -> APIRouter:
    """Return the routes. Args: bootstrap_root gives the TUF root that devices begin with."""
    own_clock = clock or SystemClock()
    limit = FailureLimit(own_clock)
    routes = APIRouter(tags=["Enrolment"])

    @routes.get(CA_PATH)
    def introduce() -> IntroductionOut:
        """Say who the hub is."""
        return IntroductionOut(
            ca_pem=hub.ca_pem,
            now_ms=now_ms(own_clock),
            hub_name=hub.hub_name,
            hub_version=hub.hub_version,
        )

    @routes.post(
        JOIN_PATH,
        status_code=201,
        responses={
            400: {"model": ErrorOut, "description": "The token or the signing request is broken"},
            409: {"model": ErrorOut, "description": "The token is unknown, used or expired"},
            429: {"model": ErrorOut, "description": "Too many failures; wait"},
        },
    )
    def join(body: JoinIn, request: Request) -> JoinOut:
        """Let a device join."""
        address = request.client.host if request.client else ""
        limit.require_free(address)
        hardware = Hardware(**body.hardware.model_dump()) if body.hardware else None
        try:
            enrolment = devices.enrol(body.token, body.csr_pem, hardware=hardware)
        except (RefusedError, ContractError):
            limit.note_failure(address)
            raise
        return JoinOut(
            device_id=enrolment.device_id,
            certificate_pem=enrolment.certificate_pem,
            ca_pem=hub.ca_pem,
            broker_host=hub.broker_host,
            broker_port=hub.broker_port,
            tuf_root=base64.b64encode(bootstrap_root()).decode("ascii"),
            hub_name=hub.hub_name,
            hub_version=hub.hub_version,
        )

    @routes.post(
        RENEW_PATH,
        responses={
            409: {"model": ErrorOut, "description": "Not this device's key, or it is revoked"},
            429: {"model": ErrorOut, "description": "Too many failures; wait"},
        },
    )
    def renew(body: RenewIn, request: Request) -> RenewOut:
        """Renew the certificate of a device that was off until it expired."""
        address = request.client.host if request.client else ""
        limit.require_free(address)
        reply = devices.renew(DeviceId(body.device_id), body.csr_pem)
        if reply.code is not None:
            limit.note_failure(address)
            raise RefusedError(reply.code, reply.text)
        return RenewOut(certificate_pem=reply.certificate_pem)

    return routes
