"""Receipts: whether a device's signed statement proves that it runs a release. Pure.

1. The signature must be of the device's own key, over exactly the bytes it sent.
2. What was signed must name the same device, model, version and manifest as the Report it came in,
   and an artifact and precision that the manifest lists.
3. Golden inputs must have been run, with a finite error that is within the spec's tolerance as far
   as the hub can tell without the outputs: with a relative tolerance of 0, at most the absolute.
4. The outcome may be "settled" or "undone". Only a settled one makes a device count as updated; an
   undone one proves that the old release runs again.

What must not live here: the database. A receipt that holds is kept for ever by sql_reports.py.
"""

import math

from cryptography.hazmat.primitives.asymmetric import ec

from shared.errors import IntegrityError
from shared.ids import DeviceId
from shared.release.digest import digest_of
from shared.release.manifest import Manifest
from shared.release.receipt import Receipt, verify_receipt
from shared.wire.report import ModelReport, SignedReceipt


def check_receipt(
    claim: ModelReport,
    signed: SignedReceipt,
    *,
    device_id: DeviceId,
    key: ec.EllipticCurvePublicKey,
    manifest: Manifest,
) -> Receipt:
    """Return the receipt in `claim` if it proves that `device_id` runs the claimed release.

    Args: manifest is that of the claimed release.

    Raises IntegrityError `receipt.signature`, `receipt.mismatch` or `receipt.golden`;
    ContractError `receipt.invalid`.
    """
    receipt = verify_receipt(signed, key)
    for name, said, expected in (
        ("device", receipt.device, device_id),
        ("model", receipt.model, claim.model),
        ("version", receipt.version, claim.version),
        ("manifest digest", receipt.manifest_digest, claim.manifest_digest),
    ):
        if said != expected:
            raise _mismatch(f"{name} {said}, not {expected}")
    variants = [v for v in manifest.variants if v.artifact.digest == receipt.artifact_digest]
    if not variants:
        raise _mismatch(f"artifact {receipt.artifact_digest[:12]}, which the release does not hold")
    if all(variant.precision != receipt.precision for variant in variants):
        raise _mismatch(f"precision {receipt.precision!r}, not {variants[0].precision!r}")
    _check_golden(receipt, manifest)
    return receipt


def payload_digest(signed: SignedReceipt) -> str:
    """Return what tells one receipt of a device from another."""
    return digest_of(signed.payload)


def _check_golden(receipt: Receipt, manifest: Manifest) -> None:
    if receipt.golden_items == 0:
        raise IntegrityError("receipt.golden", "The receipt names no golden items that were run.")
    error, tolerance = receipt.golden_error_max, manifest.spec.tolerance
    is_exceeded = tolerance.relative == 0.0 and error > tolerance.absolute
    if not math.isfinite(error) or error < 0.0 or is_exceeded:
        raise IntegrityError(
            "receipt.golden",
            f"The receipt names a golden error of {error:g}; "
            f"the release allows {tolerance.absolute:g}.",
        )


def _mismatch(what: str) -> IntegrityError:
    return IntegrityError("receipt.mismatch", f"The receipt names {what}.")
