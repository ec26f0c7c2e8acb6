"""Who may see the live view. Pure.

1. The token: in the address (`?token=`), as `Authorization: Bearer`, or as the cookie that the
   first visit with a token leaves. The cookie holds a hash of it, not the token. All are compared
   in constant time.
2. The Host header must be an address in numbers, "localhost", or a name that the device knows as
   its own: else a stranger's page, whose name was turned to our address (DNS rebinding), would
   speak to us as if it were ours.
"""

import hashlib
import hmac
import ipaddress
from collections.abc import Collection
from http.cookies import CookieError, SimpleCookie

LOCALHOST = "localhost"
BEARER = "bearer "
HEADER_CHARS_MAX = 4096


class Access:
    """See the rules above."""

    def __init__(self, token: str, *, port: int, names: Collection[str]) -> None:
        """Args: names: what the device is called, in lower case; port: cookies know no ports."""
        assert token, "there is always a token"
        self._token = token.encode()
        self._names = {LOCALHOST, *names}
        self.cookie_name = f"isthmus_live_{port}"
        self.cookie_value = hmac.new(self._token, b"cookie", hashlib.sha256).hexdigest()

    def is_token(self, text: str) -> bool:
        """Return whether `text` is the token."""
        return hmac.compare_digest(text[:HEADER_CHARS_MAX].encode(), self._token)

    def is_known(self, *, query_token: str, authorization: str, cookie: str) -> bool:
        """Return whether a request may see; see rule 1."""
        if query_token and self.is_token(query_token):
            return True
        if authorization[: len(BEARER)].lower() == BEARER:
            return self.is_token(authorization[len(BEARER) :].strip())
        try:
            morsel = SimpleCookie(cookie[:HEADER_CHARS_MAX]).get(self.cookie_name)
        except CookieError:
            return False
        value = morsel.value if morsel is not None else ""
        return hmac.compare_digest(value.encode(), self.cookie_value.encode())

    def is_host(self, host: str) -> bool:
        """Return whether the Host header names this device; see rule 2."""
        name = _name(host.strip().lower())
        if name in self._names:
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True


def _name(host: str) -> str:
    """Return a Host header without its port, and an IPv6 address without its brackets."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() and ":" in host else host
