"""LocalServer: what this device serves to people beside it, and where. Pure; never a token itself.

What must not live here: the servers (http_metrics.py, sinks/http_live.py).
"""

import ipaddress
from urllib.parse import urlsplit

import msgspec

LIVE = "live view"
METRICS = "metrics"
SECTIONS = {LIVE: "live", METRICS: "metrics"}  # Of the device's own file


class LocalServer(msgspec.Struct, frozen=True, kw_only=True):
    """One of them."""

    name: str
    url: str = ""  # Empty: it is off
    token_path: str = ""  # The file that holds its token; empty: it has none
    trouble: str = ""  # Why it is off though the file wants it

    @property
    def is_loopback(self) -> bool:
        """Return whether only this machine reaches it."""
        host = urlsplit(self.url).hostname or ""
        try:
            return ipaddress.ip_address(host).is_loopback
        except ValueError:
            return host == "localhost"


def local_server_text(server: LocalServer) -> str:
    """Return what a person is told of it."""
    if not server.url:
        return f"off: {server.trouble or f'the file has no [{SECTIONS[server.name]}]'}"
    reach = "this machine only" if server.is_loopback else "reachable from other machines"
    token = f"its token is in {server.token_path}" if server.token_path else "it asks for no token"
    return f"on at {server.url} ({reach}); {token}"
