"""The gate before every route: who asks is settled before a byte of the body is read.

1. Closed unless named here: a new route needs an operator without anybody thinking of it.
2. A program sends `Authorization: Bearer <operator token>`; a browser its session cookie.
3. A cookie alone may not change anything: such a request must also come from our own pages
   (Origin, or Sec-Fetch-Site), on top of the cookie's SameSite=Strict.
"""

from urllib.parse import quote, urlsplit

from fastapi.responses import JSONResponse, RedirectResponse, Response
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from cloud_hub.api.errors import error_response
from cloud_hub.api.operator_service import OperatorService
from cloud_hub.api.operators import Operator
from cloud_hub.api.settings import ApiSettings
from shared.errors import IsthmusError, RefusedError
from shared.wire.device_samples import ITEM_PATH, OFFER_PATH
from shared.wire.enrolment import CA_PATH, JOIN_PATH, RENEW_PATH

SESSION_COOKIE = "isthmus_session"
# Who asks at the last two says so with a device's own key (api/device_samples.py).
DEVICE_PATHS = frozenset({CA_PATH, JOIN_PATH, RENEW_PATH, OFFER_PATH, ITEM_PATH})
OPEN_PATHS = frozenset({"/health", "/login", "/favicon.ico"}) | DEVICE_PATHS
OPEN_PREFIX = "/static/"
METRICS_PATH = "/metrics"
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
PROGRAM_PREFIXES = ("/api/", METRICS_PATH)  # Answered with JSON, never with a login page.


class Gate:
    """ASGI middleware: finds out who asks, or answers in the route's place."""

    def __init__(self, app: ASGIApp, *, operators: OperatorService, settings: ApiSettings) -> None:
        self._app = app
        self._operators = operators
        self._open_paths = OPEN_PATHS | ({METRICS_PATH} if settings.metrics_are_open else set())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http" or self._is_open(scope["path"]):
            await self._app(scope, receive, send)
            return
        request = Request(scope)
        try:
            operator = await run_in_threadpool(self._identify, request)
        except IsthmusError as error:
            await _refuse(request, error)(scope, receive, send)
            return
        scope.setdefault("state", {})["operator"] = operator
        await self._app(scope, receive, send)

    def _is_open(self, path: str) -> bool:
        return path in self._open_paths or path.startswith(OPEN_PREFIX)

    def _identify(self, request: Request) -> Operator:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and token:
            return self._operators.authenticate(token.strip())
        session = request.cookies.get(SESSION_COOKIE)
        if not session:
            raise RefusedError(
                "auth.token_missing",
                "This needs an operator.",
                remedy="Send `Authorization: Bearer <operator token>`.",
            )
        operator = self._operators.resume(session)
        if request.method not in SAFE_METHODS:
            refuse_foreign_origin(request)
        return operator


def refuse_foreign_origin(request: Request) -> None:
    """Raise RefusedError `auth.origin` unless one of our own pages sent this request.

    The scheme is left out of the comparison: a proxy in front may have ended the TLS.
    """
    origin = request.headers.get("origin")
    site = request.headers.get("sec-fetch-site")
    is_own = origin is not None and urlsplit(origin).netloc == request.headers.get("host")
    if site not in (None, "same-origin") or not (is_own or (origin is None and site)):
        raise RefusedError("auth.origin", "This request did not come from one of our own pages.")


def set_session_cookie(response: Response, text: str, *, seconds: int, is_https: bool) -> None:
    """Give the browser its session."""
    response.set_cookie(
        SESSION_COOKIE,
        text,
        max_age=seconds,
        path="/",
        secure=is_https,
        httponly=True,
        samesite="strict",
    )


def _refuse(request: Request, error: IsthmusError) -> Response:
    """Return the refusal in the form that the asker can use: JSON, or the way to the login."""
    is_program = request.url.path.startswith(PROGRAM_PREFIXES)
    if is_program or not error.code.startswith(("auth.token", "auth.session")):
        return error_response(error)
    login = "/login?next=" + quote(request.url.path, safe="/")
    if request.headers.get("hx-request"):
        return JSONResponse({"code": error.code}, 401, headers={"HX-Redirect": login})
    return RedirectResponse(login, status_code=303)
