"""Limits and headers around every HTTP answer: body sizes, and what browsers may do with a page.

1. A body must say its length first, so that one that is too large is refused unread. Of uploads
   only UPLOADS_MAX are taken at once: each is held in memory whole (but for datasets, which go to
   the disk as they come), and its examination takes a thread for as long as it lasts.
2. Samples that devices send are held in memory whole, too: of those SAMPLES_MAX at once.
3. No page of ours loads anything from elsewhere, runs inline script or style, or is framed.
"""

import re

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cloud_hub.api.errors import error_response
from cloud_hub.api.settings import ApiSettings
from shared.errors import ContractError, TransientError
from shared.wire.device_samples import ITEM_PATH, ITEM_REQUEST_BYTES_MAX

UPLOAD_PATH = "/api/v1/releases"
UPLOADS = frozenset({("POST", UPLOAD_PATH), ("POST", "/api/v1/checkpoints")})
DATASET_PATH = re.compile(r"/api/v1/datasets/[^/]+/(import|labels)")
LABELS_PATH = re.compile(r"/api/v1/datasets/[^/]+/labels")
EVALUATION_PATH = re.compile(r"/api/v1/models/[^/]+/evaluation-set")
INFER_PATH = re.compile(r"/api/v1/models/[^/]+/infer")
UPLOADS_MAX = 4
SAMPLES_MAX = 16
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
        self._samples_count = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        problem = self._problem(scope) if scope["type"] == "http" else None
        if problem is not None:
            await error_response(problem)(scope, receive, send)
        elif scope["type"] == "http" and _is_upload(scope):
            await self._serve_upload(scope, receive, send)
        elif scope["type"] == "http" and _is_sample(scope):
            await self._serve_sample(scope, receive, send)
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

    async def _serve_sample(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._samples_count >= SAMPLES_MAX:
            busy = TransientError("limit.samples", f"{SAMPLES_MAX} samples are being taken in.")
            await error_response(busy)(scope, receive, send)
            return
        self._samples_count += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._samples_count -= 1

    def _problem(self, scope: Scope) -> ContractError | None:
        headers = Headers(scope=scope)
        if "transfer-encoding" in headers:
            return ContractError(
                "limit.length_missing",
                "The request does not say how long its body is.",
                remedy="Send Content-Length instead of a chunked body.",
            )
        limit, setting = _limit(scope, self._settings)
        length = headers.get("content-length", "0")
        if not length.isdigit() or int(length) > limit:
            return ContractError(
                "limit.body",
                f"The body has {length[:20]} bytes; the limit here is {limit}.",
                remedy=f"Raise {setting} in the hub's settings." if setting else "",
            )
        return None


def _limit(scope: Scope, settings: ApiSettings) -> tuple[int, str]:
    """Return how long a body may be, and the setting that says so where it is one for uploads."""
    if _is_dataset(scope):
        return settings.dataset_bytes_max, "api.dataset_bytes_max"
    if _is_sample(scope):
        return ITEM_REQUEST_BYTES_MAX, ""
    if scope["method"] == "POST" and INFER_PATH.fullmatch(scope["path"]):
        return settings.infer_bytes_max, "api.infer_bytes_max"
    if _is_upload(scope):
        return settings.upload_bytes_max, "api.upload_bytes_max"
    return settings.body_bytes_max, ""


def _is_upload(scope: Scope) -> bool:
    method, path = scope["method"], scope["path"]
    is_evaluation = method == "PUT" and EVALUATION_PATH.fullmatch(path) is not None
    is_labels = method == "POST" and LABELS_PATH.fullmatch(path) is not None
    return (method, path) in UPLOADS or is_evaluation or is_labels or _is_dataset(scope)


def _is_sample(scope: Scope) -> bool:
    return (scope["method"], scope["path"]) == ("POST", ITEM_PATH)


def _is_dataset(scope: Scope) -> bool:
    return scope["method"] == "PUT" and DATASET_PATH.fullmatch(scope["path"]) is not None
