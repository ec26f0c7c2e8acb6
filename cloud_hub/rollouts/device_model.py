"""DeviceModel: what one device last said of one model, and whether it proved it. Pure."""

from dataclasses import dataclass

from cloud_hub.rollouts.rollout import ReleaseRef
from shared.ids import DeviceId, ModelName
from shared.release.receipt import ReceiptOutcome
from shared.wire.report import UpdateState


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportedFailure:
    """The last release the device did not keep, and why."""

    release: ReleaseRef
    rollout: str
    code: str
    text: str
    undo_ms: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceModel:
    """One model on one device, from its newest Report."""

    device_id: DeviceId
    model: ModelName
    state: UpdateState
    version: int  # 0: nothing runs
    manifest_digest: str | None = None
    precision: str = ""
    target_version: int = 0
    rollout: str = ""
    progress: float = 0.0
    trial_items: int = 0
    failure: ReportedFailure | None = None
    proof: ReceiptOutcome | None = None  # Of the verified receipt in the report, for what runs
    receipt_id: int | None = None
    receipt_problem: str = ""  # Why there is no proof
    reported_ms: int  # By the hub's clock

    @property
    def running(self) -> ReleaseRef | None:
        """Return what the device says it runs."""
        if self.version == 0 or self.manifest_digest is None:
            return None
        return ReleaseRef(self.version, self.manifest_digest)

    def has_settled(self, release: ReleaseRef) -> bool:
        """Whether the device proved that it runs `release` for good, not only for a trial."""
        return (
            self.running == release
            and self.proof is ReceiptOutcome.SETTLED
            and self.state not in (UpdateState.TRIAL, UpdateState.UNDOING)
        )
