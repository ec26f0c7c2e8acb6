"""A new token for an operator. Logging in and out of the dashboard is in dashboard/login.py."""

from fastapi import APIRouter
from pydantic import Field

from cloud_hub.api.bodies import AnswerBody, RequestBody, errors
from cloud_hub.api.operators import FIRST_OPERATOR, LOCAL_OPERATOR
from cloud_hub.api.services import ActingDep, ServicesDep
from shared.errors import RefusedError
from shared.ids import NAME_PATTERN

routes = APIRouter(prefix="/api/v1/operators", tags=["Hub"])


class RotateIn(RequestBody):
    """Whose token to replace; a name that has none yet becomes an operator."""

    name: str = Field(default=FIRST_OPERATOR, pattern=NAME_PATTERN)


class OperatorTokenOut(AnswerBody):
    """A token, seen this once."""

    name: str
    token: str


@routes.post("/rotate", summary="Replace an operator's token", responses=errors(409))
def rotate(body: RotateIn, services: ServicesDep, acting: ActingDep) -> OperatorTokenOut:
    """Return a new token; the old one and every login made with it end at once."""
    with acting.act("operator.rotate", body.name):
        if body.name == LOCAL_OPERATOR:
            raise RefusedError(
                "operator.reserved",
                f"The name {LOCAL_OPERATOR!r} is taken by the token on the hub's own machine.",
                remedy="Choose another name.",
            )
        return OperatorTokenOut(name=body.name, token=services.operators.rotate(body.name))
