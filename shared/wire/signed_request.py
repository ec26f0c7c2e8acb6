"""A device's request over HTTPS, signed with its own key: what is signed, and where it is told.

1. The signature is ECDSA P-256 with SHA-256 (DER, base64 in its header) by the key that the device
   joined with, over `signed_bytes`: method, path with its query, SHA-256 of the body, device, time
   and nonce, each on a line of its own after PREFIX. No field can hold a line's end.
2. A time that is further than STALE_MS_MAX from the hub's is refused. Every answer tells the hub's
   time in TIME_HEADER, so that a device whose clock is wrong can sign with the hub's.
3. The nonce only makes every signature another; within STALE_MS_MAX a request can be sent again by
   whoever has it. What is asked this way must come to the same when it is asked twice.
"""

import base64
from collections.abc import Mapping
from typing import Annotated

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from msgspec import Meta

from shared.errors import ContractError, IntegrityError
from shared.release.digest import digest_of
from shared.wire.limits import Name, Session, UnixMs

PREFIX = "isthmus-request-1"
DEVICE_HEADER = "Isthmus-Device"
TIME_HEADER = "Isthmus-Time-Ms"
NONCE_HEADER = "Isthmus-Nonce"
SIGNATURE_HEADER = "Isthmus-Signature"
STALE_MS_MAX = 300_000
SIGNATURE_BYTES_MAX = 80  # 72 at most in DER
DIGITS_MAX = 16  # Of a time


class RequestProof(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who asks, and when."""

    device: Name
    at_ms: UnixMs
    nonce: Session
    signature: Annotated[bytes, Meta(min_length=8, max_length=SIGNATURE_BYTES_MAX)]


def signed_bytes(
    method: str, target: str, body: bytes, *, device: str, at_ms: int, nonce: str
) -> bytes:
    """Return what is signed; `target` is the path with its query."""
    lines = (PREFIX, method, target, digest_of(body), device, str(at_ms), nonce)
    return "\n".join(lines).encode()


def headers_of(proof: RequestProof) -> dict[str, str]:
    """Return a proof as the headers of a request."""
    return {
        DEVICE_HEADER: proof.device,
        TIME_HEADER: str(proof.at_ms),
        NONCE_HEADER: proof.nonce,
        SIGNATURE_HEADER: base64.b64encode(proof.signature).decode("ascii"),
    }


def proof_of(headers: Mapping[str, str]) -> RequestProof:
    """Return the proof in the headers of a request. Raises ContractError `request.unsigned`."""
    signature, at_ms = headers.get(SIGNATURE_HEADER, ""), headers.get(TIME_HEADER, "")
    # Told as they are: int() also takes "1_0" and " 1", and a number of any length.
    is_number = at_ms.isascii() and at_ms.isdecimal() and len(at_ms) <= DIGITS_MAX
    found = {
        "device": headers.get(DEVICE_HEADER, ""),
        "at_ms": int(at_ms) if is_number else at_ms,
        "nonce": headers.get(NONCE_HEADER, ""),
        "signature": signature,
    }
    try:
        return msgspec.convert(found, RequestProof)
    except msgspec.ValidationError as error:
        raise ContractError(
            "request.unsigned",
            f"The request is not signed by a device: {error}.",
            remedy=f"Only devices ask this, with {DEVICE_HEADER} and {SIGNATURE_HEADER}.",
        ) from error


def verify(
    proof: RequestProof, key: ec.EllipticCurvePublicKey, method: str, target: str, body: bytes
) -> None:
    """Return if this device signed this request. Raises IntegrityError `request.signature`."""
    signed = signed_bytes(
        method, target, body, device=proof.device, at_ms=proof.at_ms, nonce=proof.nonce
    )
    try:
        key.verify(proof.signature, signed, ec.ECDSA(hashes.SHA256()))
    except InvalidSignature as error:
        raise IntegrityError(
            "request.signature", "The request is not signed by the device that it names."
        ) from error
