"""Who may say what to Flower's SuperLink: a guard before its app, and a lock on its Control API.

1. The device listener answers FLEET_PATHS, the loopback listener SERVER_PATHS, both exactly as
   written, by POST only, and both GET /health; all else is 404, whoever asks. Registering nodes,
   the Control API and taking tasks are on neither: the steward does these inside the process.
   Nor is fetching Flower's app (FAB): no code travels.
2. On the device listener the key that a request claims must be one of those registered, before a
   byte of its body is read; that the request is signed with it is then checked by Flower.
3. A body says its length first, and is no longer than its listener allows.
4. Flower builds the path it judges by from the Host header too; the guard sets that header itself.
5. Behind the guard the Control API needs a token, and taking tasks a secret, that nobody is told:
   should a Flower to come have another way in, it is shut as well.
"""

import binascii
import hmac
from base64 import b64decode
from collections.abc import Callable, Sequence

from flwr.common.constant import ACCESS_TOKEN_KEY, NOOP_ACCOUNT_NAME, NOOP_FLWR_AID
from flwr.supercore.auth.typing import (
    AccountAuthCredentials,
    AccountAuthLoginDetails,
    AccountInfo,
)
from flwr.supercore.constant import FLEET_HTTP_PUBLIC_KEY_HEADER
from flwr.superlink.auth_plugin import ControlAuthnPlugin
from starlette.types import ASGIApp, Receive, Scope, Send

FLEET_PATHS = frozenset(
    f"/v1/fleet/{name}"
    for name in (
        "activate-node",
        "deactivate-node",
        "send-node-heartbeat",
        "pull-messages",
        "push-messages",
        "get-run",
        "push-object",
        "pull-object",
        "confirm-message-received",
    )
)
SERVER_PATHS = frozenset(
    f"/v1/runtime/{name}"
    for name in (
        "pull-task-input",
        "push-task-output",
        "send-task-heartbeat",
        "push-messages",
        "pull-messages",
        "push-object",
        "pull-object",
        "confirm-message-received",
        "get-nodes",
        "push-logs",
    )
)
HEALTH = "/health"
FLEET_BODY_BYTES_MAX = 8 << 20  # Flower's objects come in pieces of 5 MiB
SERVER_BODY_BYTES_MAX = 64 << 20  # One call asks a Round's devices, thousands perhaps
_HOST = b"superlink"

ACCOUNT = AccountInfo(flwr_aid=NOOP_FLWR_AID, account_name=NOOP_ACCOUNT_NAME)


class Guard:
    """An ASGI app before Flower's: see rules 1 to 4."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        paths: frozenset[str],
        body_bytes_max: int,
        is_known: Callable[[bytes], bool] | None = None,
    ) -> None:
        """Args: `is_known` says whether a public key (PEM) is registered; None: not asked."""
        self._app, self._paths, self._body_bytes_max = app, paths, body_bytes_max
        self._is_known = is_known

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let one request through, or answer it."""
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] != "http":
            return  # The app has no lifespan of its own here
        status = self._judge(scope)
        if status is not None:
            headers = [(b"content-length", b"0"), (b"connection", b"close")]
            await send({"type": "http.response.start", "status": status, "headers": headers})
            await send({"type": "http.response.body", "body": b""})
            return
        kept = [(name, value) for name, value in scope["headers"] if name != b"host"]
        await self._app({**scope, "headers": [(b"host", _HOST), *kept]}, receive, send)

    def _judge(self, scope: Scope) -> int | None:
        """Return the status with which to refuse, or None."""
        path, method = scope["path"], scope["method"]
        if scope.get("raw_path") != path.encode("utf-8", "replace"):
            return 404  # Written in another way than it reads
        if path == HEALTH:
            return None if method in ("GET", "HEAD") else 404
        if path not in self._paths or method != "POST":
            return 404
        headers = list(scope["headers"])
        if self._is_known is not None and not self._claims_known(headers, self._is_known):
            return 401
        return self._judge_body(headers)

    def _claims_known(
        self, headers: list[tuple[bytes, bytes]], is_known: Callable[[bytes], bool]
    ) -> bool:
        claims = _all(headers, FLEET_HTTP_PUBLIC_KEY_HEADER.lower().encode())
        try:
            return len(claims) == 1 and is_known(b64decode(claims[0], validate=True))
        except (ValueError, binascii.Error):
            return False

    def _judge_body(self, headers: list[tuple[bytes, bytes]]) -> int | None:
        lengths = _all(headers, b"content-length")
        if _all(headers, b"transfer-encoding") or len(lengths) != 1 or not lengths[0].isdigit():
            return 411
        return 413 if int(lengths[0]) > self._body_bytes_max else None


class TokenAuthn(ControlAuthnPlugin):
    """Flower's Control API answers only who has the token."""

    def __init__(self, token: str) -> None:
        """Args: `token` is of this process alone."""
        self._token = token.encode()

    def validate_tokens_in_metadata(
        self, metadata: Sequence[tuple[str, str | bytes]]
    ) -> tuple[bool, AccountInfo | None]:
        """Return whether the token is there, and whose it is."""
        given = dict(metadata).get(ACCESS_TOKEN_KEY, b"")
        given = given.encode() if isinstance(given, str) else given
        if not hmac.compare_digest(given, self._token):
            return False, None
        return True, ACCOUNT

    def get_login_details(self) -> AccountAuthLoginDetails | None:
        """Nobody logs in."""
        return None

    def get_auth_tokens(self, device_code: str) -> AccountAuthCredentials | None:  # noqa: ARG002
        """Nobody is given a token."""
        return None

    def refresh_tokens(
        self,
        metadata: Sequence[tuple[str, str | bytes]],  # noqa: ARG002
    ) -> tuple[Sequence[tuple[str, str | bytes]] | None, AccountInfo | None]:
        """Nor a new one."""
        return None, None


def _all(headers: list[tuple[bytes, bytes]], name: bytes) -> list[bytes]:
    return [value for key, value in headers if key.lower() == name]
