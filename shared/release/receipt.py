"""Receipt: a device's signed statement of what it runs, which the hub can verify years later.

1. The payload is JSON with sorted keys; the signature is ECDSA P-256 with SHA-256 over exactly
   those bytes, by the key of the device's certificate.
2. A receipt is made only after the release's golden inputs were reproduced on the device itself,
   and after its trial settled (outcome "settled") or was undone and the old release proved again
   (outcome "undone").
"""

from enum import StrEnum
from typing import Annotated

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from msgspec import Meta

from shared.errors import ContractError, IntegrityError
from shared.wire.limits import Count, Digest, Name, Number, ShortText, UnixMs, Version
from shared.wire.report import RECEIPT_BYTES_MAX, SignedReceipt


class ReceiptOutcome(StrEnum):
    """How the device came to run it."""

    SETTLED = "settled"
    UNDONE = "undone"


class Receipt(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one device runs, and how it knows."""

    schema: Annotated[int, Meta(ge=1, le=1)] = 1
    device: Name
    model: Name
    version: Version
    manifest_digest: Digest
    artifact_digest: Digest
    precision: ShortText
    runtime: ShortText  # "onnxruntime 1.31.1 CPUExecutionProvider"
    config_digest: Digest  # SHA-256 of the pipelines' settings that use the model
    boot_id: ShortText
    golden_items: Count
    golden_error_max: Number
    outcome: ReceiptOutcome
    rollout: ShortText
    at_ms: UnixMs


def sign_receipt(receipt: Receipt, key: ec.EllipticCurvePrivateKey) -> SignedReceipt:
    """Return `receipt` signed by the device's key."""
    payload = msgspec.json.encode(receipt, order="deterministic")
    return SignedReceipt(payload=payload, signature=key.sign(payload, ec.ECDSA(hashes.SHA256())))


def verify_receipt(signed: SignedReceipt, key: ec.EllipticCurvePublicKey) -> Receipt:
    """Return what was signed.

    Raises IntegrityError `receipt.signature`, ContractError `receipt.invalid`.
    """
    if len(signed.payload) > RECEIPT_BYTES_MAX:
        raise ContractError("receipt.invalid", f"The receipt is over {RECEIPT_BYTES_MAX} bytes.")
    try:
        key.verify(signed.signature, signed.payload, ec.ECDSA(hashes.SHA256()))
    except InvalidSignature as error:
        raise IntegrityError(
            "receipt.signature", "The receipt is not signed by its device."
        ) from error
    try:
        return msgspec.json.decode(signed.payload, type=Receipt)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise ContractError("receipt.invalid", f"Not a receipt: {error}") from error
