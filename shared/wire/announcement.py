"""How a hub makes itself known on the local network (DNS-SD, RFC 6763), and how devices read it.

1. The service type is SERVICE_TYPE; the TXT record holds v (this format), fp (the first
   FINGERPRINT_CHARS digits of the CA certificate's SHA-256) and port (of HTTPS).
2. Nothing in it is trusted: it only says where to ask. Who answers there proves itself by the
   fingerprint in the join token.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from shared.errors import ContractError

SERVICE_TYPE = "_isthmus._tcp.local."
FORMAT = "1"
FINGERPRINT_CHARS = 16
_FINGERPRINT = re.compile(r"[0-9a-f]{16}")


@dataclass(frozen=True, slots=True)
class Announcement:
    """What the TXT record says."""

    fingerprint_start: str
    port: int

    def is_of(self, ca_fingerprint: str) -> bool:
        """Return whether this may be the hub with that CA certificate."""
        return ca_fingerprint.startswith(self.fingerprint_start)


def write_announcement(ca_fingerprint: str, *, port: int) -> dict[str, str]:
    """Return the entries of the TXT record."""
    return {"v": FORMAT, "fp": ca_fingerprint[:FINGERPRINT_CHARS], "port": str(port)}


def read_announcement(entries: Mapping[bytes, bytes | None]) -> Announcement:
    """Return what a TXT record says. Raises ContractError `discovery.invalid`."""
    texts = {key: (value or b"").decode("ascii", "replace") for key, value in entries.items()}
    port = texts.get(b"port", "")
    fingerprint = texts.get(b"fp", "")
    is_port = port.isascii() and port.isdigit() and len(port) <= 5 and 1 <= int(port) <= 65535
    if texts.get(b"v") != FORMAT or not is_port or not _FINGERPRINT.fullmatch(fingerprint):
        raise ContractError("discovery.invalid", "Not an announcement that this program reads.")
    return Announcement(fingerprint_start=fingerprint, port=int(port))
