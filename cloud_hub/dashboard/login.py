"""Logging in and out of the dashboard: the operator token for a session in a cookie."""

from typing import Annotated

from fastapi import APIRouter, Form, Request
from fastapi.responses import RedirectResponse, Response

from cloud_hub.api.auth import SESSION_COOKIE, refuse_foreign_origin, set_session_cookie
from cloud_hub.api.errors import status_of
from cloud_hub.api.operators import TOKEN_CHARS_MAX
from cloud_hub.api.services import ServicesDep
from cloud_hub.api.sql_store import Outcome
from cloud_hub.dashboard.render import render
from shared.clock import now_ms
from shared.errors import RefusedError

routes = APIRouter()

NEXT_CHARS_MAX = 500
LOGIN = "operator.login"
THROTTLED = "auth.too_many_attempts"


@routes.get("/login")
def show_login(request: Request, services: ServicesDep, next: str = "/") -> Response:  # noqa: A002
    """Ask for the operator token."""
    return render(request, "login", clock=services.clock, next=own_path(next), error=None)


@routes.post("/login")
def log_in(
    request: Request,
    services: ServicesDep,
    token: Annotated[str, Form(max_length=TOKEN_CHARS_MAX)],
    next: Annotated[str, Form(max_length=NEXT_CHARS_MAX)] = "/",  # noqa: A002
) -> Response:
    """Start a session, or say why not."""
    refuse_foreign_origin(request)
    address = request.client.host if request.client else ""
    try:
        session = services.operators.log_in(token.strip(), address=address)
    except RefusedError as error:
        if error.code != THROTTLED:  # One address must not fill the log.
            services.audit.note("", LOGIN, address, Outcome.REFUSED, code=error.code)
        return render(
            request,
            "login",
            clock=services.clock,
            status=status_of(error),
            next=own_path(next),
            error=error,
        )
    services.audit.note(session.operator.name, LOGIN, address, Outcome.OK)
    response = RedirectResponse(own_path(next), status_code=303)
    seconds = (session.expires_ms - now_ms(services.clock)) // 1000
    is_https = request.url.scheme == "https"
    set_session_cookie(response, session.text, seconds=seconds, is_https=is_https)
    return response


@routes.post("/logout")
def log_out(request: Request, services: ServicesDep) -> Response:
    """End the session."""
    services.operators.log_out(request.cookies.get(SESSION_COOKIE, ""))
    response = RedirectResponse("/login", status_code=303)
    response.delete_cookie(SESSION_COOKIE, path="/")
    return response


def own_path(path: str) -> str:
    """Return `path` if it leads to a page of ours, else the first page: no open redirect."""
    is_own = path.startswith("/") and not path.startswith(("//", "/\\")) and path.isprintable()
    return path if is_own and len(path) <= NEXT_CHARS_MAX else "/"
