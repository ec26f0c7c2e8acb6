"""Operators and how they prove who they are: values and rules, no I/O.

1. An operator token is 256 random bits. Only its SHA-256 is kept: what was drawn at random needs
   no slow hash, there is nothing to guess.
2. A session is the same kind of secret with an end; a browser holds it in a cookie.
3. The local token is a token of one life of the hub; it lies in a file that only the hub's own
   user can read, and is never stored.
4. Too many wrong tokens at the login page from one address close it to that address for a while.
"""

import hashlib
import hmac
import secrets
from collections import OrderedDict
from dataclasses import dataclass

from shared.errors import RefusedError

TOKEN_PREFIX = "isthmus-op-"  # noqa: S105  # Lets secret scanners find a leaked one.
LOCAL_PREFIX = "isthmus-local-"
SESSION_PREFIX = "isthmus-session-"
SECRET_BYTES = 32
TOKEN_CHARS_MAX = 200
FIRST_OPERATOR = "operator"
LOCAL_OPERATOR = "local"
ADDRESSES_MAX = 4096  # Remembered by the login throttle; the oldest is forgotten first.


@dataclass(frozen=True, slots=True)
class Operator:
    """Someone who may tell the hub what to do."""

    name: str


@dataclass(frozen=True, slots=True)
class Session:
    """A browser's login; `text` is what the cookie holds and is known only here and there."""

    text: str
    operator: Operator
    expires_ms: int


def new_secret(prefix: str) -> str:
    """Return a fresh secret of 256 random bits."""
    return prefix + secrets.token_urlsafe(SECRET_BYTES)


def hash_secret(text: str) -> str:
    """Return what is stored of a secret: its SHA-256 in hexadecimal."""
    return hashlib.sha256(text[:TOKEN_CHARS_MAX].encode()).hexdigest()


def is_same_hash(first: str, second: str) -> bool:
    """Whether two hashes are equal, told in constant time."""
    return hmac.compare_digest(first, second)


class LoginThrottle:
    """Counts wrong tokens by address; not safe between threads, its owner holds a lock."""

    def __init__(self, *, failures_max: int, window_s: float) -> None:
        """Args: at most `failures_max` wrong tokens per address in any `window_s`."""
        self._failures_max = failures_max
        self._window_s = window_s
        self._failures: OrderedDict[str, list[float]] = OrderedDict()

    def check(self, address: str, *, now_s: float) -> None:
        """Raise RefusedError `auth.too_many_attempts` if `address` must wait."""
        recent = self._recent(address, now_s)
        if len(recent) >= self._failures_max:
            wait_s = int(recent[0] + self._window_s - now_s) + 1
            raise RefusedError(
                "auth.too_many_attempts",
                "Too many wrong tokens from this address.",
                remedy=f"Wait {wait_s} seconds and try again.",
            )

    def failed(self, address: str, *, now_s: float) -> None:
        """Count one wrong token."""
        recent = self._recent(address, now_s)
        recent.append(now_s)
        self._failures[address] = recent[-self._failures_max :]
        self._failures.move_to_end(address)
        while len(self._failures) > ADDRESSES_MAX:
            self._failures.popitem(last=False)

    def _recent(self, address: str, now_s: float) -> list[float]:
        since_s = now_s - self._window_s
        return [at_s for at_s in self._failures.get(address, []) if at_s > since_s]
