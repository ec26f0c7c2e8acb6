"""Bounded field types of the wire: every text, number and list in a message has a limit here.

NaN and infinity are refused by the codec, wherever a float stands.
"""

from typing import Annotated

from msgspec import Meta

from shared.ids import DIGEST_PATTERN, NAME_PATTERN


def _whole(pattern: str) -> str:
    r"""Return `pattern` so that it ends at the very end: `$` alone also matches before a "\n"."""
    return pattern.removesuffix("$") + r"\Z"


Name = Annotated[str, Meta(pattern=_whole(NAME_PATTERN))]  # 1..63 characters
Digest = Annotated[str, Meta(pattern=_whole(DIGEST_PATTERN))]  # SHA-256, lower-case hexadecimal
ShortText = Annotated[str, Meta(max_length=120)]
LongText = Annotated[str, Meta(max_length=2000)]
Code = Annotated[str, Meta(pattern=_whole(r"^[a-z][a-z0-9_.]{0,79}$"))]  # An error's stable code
Session = Annotated[str, Meta(pattern=_whole(r"^[0-9a-f]{16}$"))]
Stream = Annotated[str, Meta(pattern=_whole(r"^[0-9a-f]{16}$"))]
Count = Annotated[int, Meta(ge=0, le=2**53)]
Sequence = Annotated[int, Meta(ge=1, le=2**53)]  # Position in a stream, from 1
Version = Annotated[int, Meta(ge=1, le=1_000_000)]
UnixMs = Annotated[int, Meta(ge=0, le=2**53)]  # Milliseconds since 1970 UTC
Milliseconds = Annotated[float, Meta(ge=0.0, le=1e9)]
Seconds = Annotated[float, Meta(ge=0.0, le=1e9)]
Share = Annotated[float, Meta(ge=0.0, le=1.0)]
NUMBER_MAX = 1e18
Number = Annotated[float, Meta(ge=-NUMBER_MAX, le=NUMBER_MAX)]
CertificatePem = Annotated[str, Meta(max_length=8192)]
