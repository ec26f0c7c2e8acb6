"""Report: what one device runs and how its updates stand. Retained; the newest is the truth."""

from enum import StrEnum
from typing import Annotated, ClassVar

import msgspec
from msgspec import UNSET, Meta, UnsetType

from shared.wire.fit import FitReport
from shared.wire.limits import (
    Code,
    Count,
    Digest,
    LongText,
    Name,
    Share,
    ShortText,
    UnixMs,
    Version,
)
from shared.wire.target import LEARNING_MAX, MODELS_MAX, PIPELINES_MAX

RECEIPT_BYTES_MAX = 2048
SIGNATURE_BYTES_MAX = 128


class UpdateState(StrEnum):
    """Where one model's update stands on one device; the table is in updates/machine.py."""

    IDLE = "idle"
    FETCHING = "fetching"
    STAGED = "staged"
    TRIAL = "trial"
    UNDOING = "undoing"
    REFUSED = "refused"


class Failure(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Why the device did not keep a release."""

    version: Version
    manifest_digest: Digest
    rollout: Name
    code: Code  # "trial.worse", "tuf.expired", "golden.mismatch", …
    text: LongText
    undo_ms: Count | None = None  # From deciding to undo until the old release served again


class SignedReceipt(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A Receipt (shared/release/receipt.py) as bytes, and the device key's signature over them."""

    payload: Annotated[bytes, Meta(max_length=RECEIPT_BYTES_MAX)]
    signature: Annotated[bytes, Meta(max_length=SIGNATURE_BYTES_MAX)]


class ModelReport(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One model on the device. Version 0 means that nothing runs yet."""

    model: Name
    state: UpdateState
    version: Annotated[int, Meta(ge=0, le=1_000_000)]
    manifest_digest: Digest | None = None
    precision: ShortText = ""
    target_version: Annotated[int, Meta(ge=0, le=1_000_000)] = 0
    rollout: ShortText = ""
    progress: Share = 0.0  # Of the download
    trial_items: Count = 0
    failure: Failure | None = None  # The last one; cleared by the next release that settles
    receipt: SignedReceipt | None = None  # For what runs now
    # The newest table of a release's variants here. Left out of the bytes where there is none.
    fit: FitReport | UnsetType = UNSET


class PipelineReport(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One pipeline on the device."""

    pipeline: Name
    model: Name
    # "running", "waiting for a model", "reconnecting", "stalled", "frozen", "ended", "stopped",
    # "refused"
    state: ShortText
    detail: LongText = ""
    is_ordered: bool | UnsetType = UNSET  # By the hub; left out where it is the device's own
    # How its source stands, where that is not the state itself: "running", "reconnecting", …
    source: ShortText | UnsetType = UNSET


class LearningState(StrEnum):
    """How a device stands to a Job that wants it."""

    REFUSED = "refused"  # Its owner's policy or a spent budget says no, for good
    WAITING = (
        "waiting"  # Not now: on battery, too hot, too busy, outside its hours, too few samples
    )
    JOINING = "joining"  # The learning process starts or has lost the hub
    READY = "ready"  # The hub answered it lately


class LearningReport(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One Job on the device."""

    job: Name
    model: Name
    state: LearningState
    code: Code | None = None  # Why it is REFUSED or WAITING: "policy.model", "eligibility.battery"
    text: LongText = ""
    restarts_count: Count = 0  # Of the learning process
    rounds_count: Count = 0  # That the device has answered
    epsilon_spent: Annotated[float, Meta(ge=0.0, le=1e9)] | None = None
    epsilon_max: Annotated[float, Meta(ge=0.0, le=1e9)] | None = None


class Report(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The whole of what one device runs."""

    schema: ClassVar[int] = 1

    target_revision: Count  # The newest Target the device has taken up
    at_ms: UnixMs
    models: Annotated[tuple[ModelReport, ...], Meta(max_length=MODELS_MAX)]
    pipelines: Annotated[tuple[PipelineReport, ...], Meta(max_length=PIPELINES_MAX)] = ()
    learning: Annotated[tuple[LearningReport, ...], Meta(max_length=LEARNING_MAX)] | UnsetType = (
        UNSET
    )
