"""JoinToken: the text that lets one device join one hub, once.

1. The text is "<secret>.<fingerprint>": 48 and 64 hexadecimal digits. It never starts with a dash,
   so it can stand in any command line.
2. The secret has 192 random bits. The hub keeps only its SHA-256: whoever reads the database
   cannot join with it, and no slow hash is needed, since nobody can guess 192 bits.
3. The fingerprint is the SHA-256 of the hub's CA certificate (DER). With it the device knows the
   right hub on first contact, before it has any certificate, and sends the secret to no other.
"""

import re
import secrets
from dataclasses import dataclass

from shared.errors import ContractError
from shared.release.digest import digest_of

SECRET_BYTES = 24
TOKEN_CHARS = 2 * SECRET_BYTES + 1 + 64
_TOKEN = re.compile(r"([0-9a-f]{48})\.([0-9a-f]{64})")


@dataclass(frozen=True, slots=True)
class JoinToken:
    """A secret, and the hub it is for."""

    secret: str
    ca_fingerprint: str

    @property
    def text(self) -> str:
        """Return the token as people pass it on."""
        return f"{self.secret}.{self.ca_fingerprint}"

    @property
    def secret_hash(self) -> str:
        """Return what the hub keeps of the secret."""
        return digest_of(self.secret.encode("ascii"))


def new_join_token(ca_fingerprint: str) -> JoinToken:
    """Return a fresh token for the hub with this CA certificate."""
    return JoinToken(secret=secrets.token_hex(SECRET_BYTES), ca_fingerprint=ca_fingerprint)


def parse_join_token(text: str) -> JoinToken:
    """Return a token from its text. Raises ContractError `enrolment.token_invalid`."""
    match = _TOKEN.fullmatch(text.strip())
    if match is None:
        raise ContractError(
            "enrolment.token_invalid",
            "This is not a join token, or a part of it is missing.",
            remedy="Copy the whole line that `cloud-hub token create` printed.",
        )
    return JoinToken(secret=match[1], ca_fingerprint=match[2])
