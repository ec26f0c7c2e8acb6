"""Limits and headers around every HTTP answer: body sizes, and what browsers may do with a page.

1. A body must say its length first, so that one that is too large is refused unread. Of uploads
   only UPLOADS_MAX are taken at once: each is held in memory whole, and its examination takes a
   thread for as long as it lasts.
2. No page of ours loads anything from elsewhere, runs inline script or style, or is framed.
"""

import re

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cloud_hub.api.errors import error_response
from cloud_hub.api.settings import ApiSettings
from shared.errors import ContractError, TransientError

UPLOAD_PATH = "/api/v1/releases"
UPLOADS = frozenset({("POST", UPLOAD_PATH), ("POST", "/api/v1/checkpoints")})
EVALUATION_PATH = re.compile(r"/api/v1/models/[^/]+/evaluation-set")
UPLOADS_MAX = 4
STATIC_PREFIX = "/static/"
CONTENT_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data:",
        "font-src 'self'",
        "connect-src 'self'",
        "form-action 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
    )
)
HEADERS = {
    "Content-Security-Policy": CONTENT_POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    # Not "no-referrer": with that, browsers send `Origin: null` with our own forms.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
}


class SafeHeaders:
    """ASGI middleware: the same safe headers on every answer."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        is_static = scope["path"].startswith(STATIC_PREFIX)

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
                headers.setdefault("Cache-Control", "no-cache" if is_static else "no-store")
            await send(message)

        await self._app(scope, receive, send_with_headers)


class BodyLimit:
    """ASGI middleware: refuses a body that is too large, or does not say how large it is."""

    def __init__(self, app: ASGIApp, *, settings: ApiSettings) -> None:
        self._app = app
        self._settings = settings
        self._uploads_count = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        problem = self._problem(scope) if scope["type"] == "http" else None
        if problem is not None:
            await error_response(problem)(scope, receive, send)
        elif scope["type"] == "http" and _is_upload(scope):
            await self._serve_upload(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _serve_upload(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._uploads_count >= UPLOADS_MAX:
            busy = TransientError(
                "limit.uploads",
                f"{UPLOADS_MAX} uploads are being taken in.",
                remedy="Try again when they are done.",
            )
            await error_response(busy)(scope, receive, send)
            return
        self._uploads_count += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._uploads_count -= 1

    def _problem(self, scope: Scope) -> ContractError | None:
        headers = Headers(scope=scope)
        if "transfer-encoding" in headers:
            return ContractError(
                "limit.length_missing",
                "The request does not say how long its body is.",
                remedy="Send Content-Length instead of a chunked body.",
            )
        is_upload = _is_upload(scope)
        limit = self._settings.upload_bytes_max if is_upload else self._settings.body_bytes_max
        length = headers.get("content-length", "0")
        if not length.isdigit() or int(length) > limit:
            return ContractError(
                "limit.body",
                f"The body has {length[:20]} bytes; the limit here is {limit}.",
                remedy="Raise api.upload_bytes_max in the hub's settings." if is_upload else "",
            )
        return None


def _is_upload(scope: Scope) -> bool:
    method, path = scope["method"], scope["path"]
    is_evaluation = method == "PUT" and EVALUATION_PATH.fullmatch(path) is not None
    return (method, path) in UPLOADS or is_evaluation
