"""Receipts: what a device says it runs, made only from what it has just proved.

A receipt also names the settings and the runtime it was made under. When they have changed at a
start, the release is proved again and the receipt made anew: the old one is no proof of this.

What must not live here: the key. `sign` is given by the composition root.
"""

from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from edge_agent.updates.proving import ProvenRelease
from shared.clock import Clock, now_ms
from shared.ids import DeviceId
from shared.release.receipt import Receipt, ReceiptOutcome
from shared.wire.report import SignedReceipt

RUNTIME_CHARS_MAX = 120


@dataclass(frozen=True, slots=True)
class ReceiptMaker:
    """Makes and signs this device's receipts."""

    device: DeviceId
    boot_id: str
    sign: Callable[[Receipt], SignedReceipt]
    config_digest: Callable[[str], str]  # Of the pipelines' settings that use the model
    clock: Clock

    def make(
        self, proven: ProvenRelease, *, outcome: ReceiptOutcome, rollout: str
    ) -> SignedReceipt:
        """Return the signed receipt for a release that was just proved on this device."""
        loaded = proven.loaded
        receipt = Receipt(
            device=self.device,
            model=loaded.model,
            version=loaded.version,
            manifest_digest=loaded.manifest_digest,
            artifact_digest=proven.artifact_digest,
            precision=loaded.precision,
            runtime=_runtime(proven),
            config_digest=self.config_digest(loaded.model),
            boot_id=self.boot_id,
            golden_items=proven.golden.items_count,
            golden_error_max=proven.golden.error_max,
            outcome=outcome,
            rollout=rollout,
            at_ms=now_ms(self.clock),
        )
        return self.sign(receipt)

    def renew(self, signed: SignedReceipt, proven: ProvenRelease) -> SignedReceipt:
        """Return `signed`, or one like it if settings or runtime have changed since.

        One that cannot be read (it comes from our own journal) is left as it is.
        """
        try:
            receipt = msgspec.json.decode(signed.payload, type=Receipt)
        except (msgspec.MsgspecError, ValueError):
            return signed
        made_under = (receipt.config_digest, receipt.runtime, receipt.precision)
        loaded = proven.loaded
        now = (self.config_digest(loaded.model), _runtime(proven), loaded.precision)
        if made_under == now:
            return signed
        return self.make(proven, outcome=receipt.outcome, rollout=receipt.rollout)


def _runtime(proven: ProvenRelease) -> str:
    return proven.loaded.session.runtime[:RUNTIME_CHARS_MAX]
