"""Join tokens: one prints the one command that brings one device into the fleet."""

import shlex
from typing import Annotated

from fastapi import APIRouter
from pydantic import Field

from cloud_hub.api.bodies import AnswerBody, RequestBody, errors
from cloud_hub.api.devices import GROUPS_MAX
from cloud_hub.api.services import ActingDep, ServicesDep
from shared.ids import NAME_PATTERN

routes = APIRouter(prefix="/api/v1/tokens", tags=["Devices"])

TTL_S_DEFAULT = 3600
TTL_S_MIN = 60
TTL_S_MAX = 30 * 86_400


class TokenIn(RequestBody):
    """Which device the token is for."""

    name: str | None = Field(
        default=None,
        min_length=1,
        max_length=63,
        description="The device's name",
        examples=["gate camera"],
    )
    groups: list[Annotated[str, Field(pattern=NAME_PATTERN)]] = Field(
        default=[], max_length=GROUPS_MAX, examples=[["canary"]]
    )
    ttl_s: int = Field(default=TTL_S_DEFAULT, ge=TTL_S_MIN, le=TTL_S_MAX)


class TokenOut(AnswerBody):
    """A join token, seen this once, and the command to run on the device."""

    token: str
    expires_ms: int
    join_command: str


def join_command(join_url: str, token: str) -> str:
    """Return what a person runs on the device."""
    return shlex.join(["edge-agent", "join", join_url, "--token", token])


@routes.post("", summary="Make a join token", responses=errors(409), status_code=201)
def create_token(body: TokenIn, services: ServicesDep, acting: ActingDep) -> TokenOut:
    """Return a one-time token. It carries the CA's fingerprint: the device knows whom it joins."""
    with acting.act("token.create", body.name or "", f"groups: {' '.join(body.groups)}"):
        issued = services.devices.create_token(
            name=body.name, groups=tuple(body.groups), ttl_s=body.ttl_s
        )
    return TokenOut(
        token=issued.text,
        expires_ms=issued.expires_ms,
        join_command=join_command(services.hub.join_url, issued.text),
    )
