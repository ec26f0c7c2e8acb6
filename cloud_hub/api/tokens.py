"""Join tokens: each brings one device into the fleet. Made, listed while open, withdrawn."""

import shlex
from typing import Annotated

from fastapi import APIRouter
from pydantic import Field

from cloud_hub.api.bodies import AnswerBody, NamePath, RequestBody, errors
from cloud_hub.api.devices import GROUPS_MAX
from cloud_hub.api.services import ActingDep, ServicesDep
from cloud_hub.devices.join_token import TTL_S_MAX, TTL_S_MIN
from shared.ids import NAME_PATTERN

routes = APIRouter(prefix="/api/v1/tokens", tags=["Devices"])

TTL_S_DEFAULT = 3600


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

    token_id: str
    token: str
    expires_ms: int
    join_command: str


class OpenTokenOut(AnswerBody):
    """A token as it can be listed: not its text, which the hub does not keep."""

    token_id: str
    name: str | None
    groups: tuple[str, ...]
    created_ms: int
    expires_ms: int


class OpenTokensOut(AnswerBody):
    """Tokens with which a device can join now, the one that ends first, first."""

    tokens: tuple[OpenTokenOut, ...]


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
        token_id=issued.token_id,
        token=issued.text,
        expires_ms=issued.expires_ms,
        join_command=join_command(services.hub.join_url, issued.text),
    )


@routes.get("", summary="Join tokens that nobody used yet", responses=errors())
def list_tokens(services: ServicesDep) -> OpenTokensOut:
    """Return the tokens with which a device can join now."""
    found = services.devices.open_tokens()
    return OpenTokensOut(tokens=tuple(OpenTokenOut.model_validate(token) for token in found))


@routes.post("/{token_id}/revoke", summary="Withdraw a token", responses=errors(409))
def revoke_token(token_id: NamePath, services: ServicesDep, acting: ActingDep) -> OpenTokenOut:
    """Let nobody join with a token any more; return it as it was."""
    with acting.act("token.revoke", token_id):
        token = services.devices.withdraw_token(token_id)
    return OpenTokenOut.model_validate(token)
