"""What the hub remembers of a join token, and when one may be used. See shared/join_token.py."""

from dataclasses import dataclass

from shared.errors import RefusedError
from shared.ids import DeviceId

TTL_S_MIN = 60
TTL_S_MAX = 30 * 24 * 3600
KEPT_AFTER_EXPIRY_S = 90 * 24 * 3600  # So that "used" and "expired" can be told from "unknown".
TOKEN_ID_CHARS = 12
_REMEDY = "Make a new one on the hub: cloud-hub token create."


@dataclass(frozen=True, slots=True)
class IssuedToken:
    """A new token: the only time that its text is seen."""

    token_id: str
    text: str
    expires_ms: int


@dataclass(frozen=True, slots=True)
class StoredToken:
    """A token as the hub keeps it."""

    token_hash: str
    name: str | None
    groups: tuple[str, ...]
    created_ms: int
    expires_ms: int
    redeemed_ms: int | None = None
    device_id: DeviceId | None = None  # Who joined with it

    @property
    def token_id(self) -> str:
        """Return by what people name it: the first digits of the hash, no part of its text."""
        return self.token_hash[:TOKEN_ID_CHARS]


def parse_ttl_s(ttl_s: int) -> int:
    """Return how long a token shall be good. Raises RefusedError `enrolment.ttl`."""
    if not TTL_S_MIN <= ttl_s <= TTL_S_MAX:
        raise RefusedError(
            "enrolment.ttl",
            f"A join token can be good for {TTL_S_MIN} seconds to {TTL_S_MAX // 86400} days.",
        )
    return ttl_s


def require_usable(token: StoredToken | None, *, now_ms: int) -> StoredToken:
    """Return the token if a device may join with it now.

    Raises RefusedError `enrolment.token_unknown`, `enrolment.token_used`,
    `enrolment.token_expired`.
    """
    if token is None:
        raise RefusedError(
            "enrolment.token_unknown", "This hub knows no such join token.", remedy=_REMEDY
        )
    if token.redeemed_ms is not None:
        raise RefusedError(
            "enrolment.token_used",
            "Another device has joined with this token; it is good for one.",
            remedy=_REMEDY,
        )
    if token.expires_ms <= now_ms:
        minutes = (now_ms - token.expires_ms) // 60_000
        raise RefusedError(
            "enrolment.token_expired",
            f"This join token expired {minutes} minutes ago.",
            remedy=_REMEDY,
        )
    return token


def require_withdrawable(token: StoredToken | None) -> StoredToken:
    """Return the token if no device has joined with it.

    Raises RefusedError `enrolment.token_unknown`, `enrolment.token_used`.
    """
    if token is None:
        raise RefusedError(
            "enrolment.token_unknown",
            "This hub knows no such join token.",
            remedy="See which there are: cloud-hub token list.",
        )
    if token.redeemed_ms is not None:
        raise RefusedError(
            "enrolment.token_used",
            f"{token.device_id} has joined with this token.",
            remedy=f"To put that device out: cloud-hub devices revoke {token.device_id}.",
        )
    return token
