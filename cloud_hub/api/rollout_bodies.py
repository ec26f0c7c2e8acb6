"""Bodies about rollouts: what a person asks for, and what the hub answers. Values only."""

from collections import Counter
from collections.abc import Sequence
from typing import Annotated, Self

from pydantic import Field

from cloud_hub.api.bodies import PROSE_PATTERN, AnswerBody, RequestBody
from cloud_hub.rollouts.device_model import DeviceModel, ReportedFailure
from cloud_hub.rollouts.order import FailureLimit, RolloutOrder
from cloud_hub.rollouts.rollout import DeviceState, Rollout, RolloutDevice, RolloutState
from cloud_hub.rollouts.timeline import Entry, ReceiptFact
from cloud_hub.rollouts.waves import WAVES_MAX, parse_wave
from shared.ids import NAME_PATTERN, DeviceId, ModelName
from shared.release.receipt import ReceiptOutcome
from shared.wire.report import UpdateState
from shared.wire.target import TrialPolicy

DEVICES_NAMED_MAX = 1000  # More are chosen by group
NamePattern = Annotated[str, Field(pattern=NAME_PATTERN)]
_ORDER = RolloutOrder(model=ModelName("any"), version=1)  # For its defaults
_TRIAL = TrialPolicy()


class TrialIn(RequestBody):
    """When a device may call the new release no worse than the old one, on its own items."""

    items_min: int = Field(default=_TRIAL.items_min, ge=1)
    seconds_min: float = _TRIAL.seconds_min
    deadline_s: float = _TRIAL.deadline_s
    failed_share_max: float = _TRIAL.failed_share_max
    latency_ratio_max: float = _TRIAL.latency_ratio_max
    latency_ms_floor: float = _TRIAL.latency_ms_floor
    confidence_drop_max: float = _TRIAL.confidence_drop_max
    disagreement_share_max: float = _TRIAL.disagreement_share_max


class RolloutIn(RequestBody):
    """Which release goes where, how fast, and when to stop. Defaults are the careful ones."""

    model: NamePattern = Field(examples=["digits"])
    version: int = Field(ge=1, le=1_000_000, examples=[2])
    group: NamePattern | None = Field(default=None, description="A group; without, every device")
    devices: list[NamePattern] = Field(default=[], max_length=DEVICES_NAMED_MAX)
    waves: list[str] = Field(
        default=[str(wave) for wave in _ORDER.waves],
        min_length=1,
        max_length=WAVES_MAX,
        description="Rising sizes, counts or shares; the last reaches all",
        examples=[["1", "25%", "100%"]],
    )
    failure_share_max: float = _ORDER.failure_limit.share_max
    failure_count_min: int = _ORDER.failure_limit.count_min
    success_share_min: float = _ORDER.success_share_min
    unknown_share_max: float = _ORDER.unknown_share_max
    wave_deadline_s: float = _ORDER.wave_deadline_s
    bake_s: float = _ORDER.bake_s
    bake_items_min: int = _ORDER.bake_items_min
    items_failed_share_max: float = _ORDER.items_failed_share_max
    trial: TrialIn = TrialIn()
    undo_on_failure: bool = True
    keeps_absorbing: bool = False
    notes: str = Field(default="", max_length=500, pattern=PROSE_PATTERN)

    def to_order(self) -> RolloutOrder:
        """Return it as the domain's order. Raises ContractError `rollout.waves`."""
        return RolloutOrder(
            model=ModelName(self.model),
            version=self.version,
            group=self.group,
            devices=tuple(DeviceId(device) for device in self.devices),
            waves=tuple(parse_wave(wave) for wave in self.waves),
            failure_limit=FailureLimit(
                share_max=self.failure_share_max, count_min=self.failure_count_min
            ),
            success_share_min=self.success_share_min,
            unknown_share_max=self.unknown_share_max,
            wave_deadline_s=self.wave_deadline_s,
            bake_s=self.bake_s,
            bake_items_min=self.bake_items_min,
            items_failed_share_max=self.items_failed_share_max,
            trial=TrialPolicy(**self.trial.model_dump()),
            undo_on_failure=self.undo_on_failure,
            keeps_absorbing=self.keeps_absorbing,
            notes=self.notes,
        )


class RolloutOut(AnswerBody):
    """One rollout."""

    rollout_id: str
    model: str
    version: int
    manifest_digest: str
    state: RolloutState
    group: str | None
    devices_named: tuple[str, ...]
    waves: tuple[str, ...]
    wave: int = Field(description="The wave under way, from 0")
    wave_limits: tuple[int, ...] = Field(description="Devices reached by the end of each wave")
    hold_code: str
    created_ms: int
    created_by: str
    updated_ms: int
    notes: str
    counts: dict[str, int] = Field(description="Devices by state", examples=[{"updated": 2}])

    @classmethod
    def of(cls, rollout: Rollout, devices: Sequence[RolloutDevice]) -> Self:
        """Return a rollout in the form of the API."""
        return cls(
            rollout_id=rollout.rollout_id,
            model=rollout.model,
            version=rollout.release.version,
            manifest_digest=rollout.release.manifest_digest,
            state=rollout.state,
            group=rollout.order.group,
            devices_named=rollout.order.devices,
            waves=tuple(str(wave) for wave in rollout.order.waves),
            wave=rollout.wave,
            wave_limits=rollout.wave_limits,
            hold_code=rollout.hold_code,
            created_ms=rollout.created_ms,
            created_by=rollout.created_by,
            updated_ms=rollout.updated_ms,
            notes=rollout.order.notes,
            counts=_count_states(devices),
        )


def _count_states(devices: Sequence[RolloutDevice]) -> dict[str, int]:
    counts = Counter(device.state for device in devices)
    return {state.value: counts[state] for state in DeviceState if counts[state]}


class DeviceFailureOut(AnswerBody):
    """What a device said of why it did not keep the release."""

    code: str
    text: str
    undo_ms: int | None


class RolloutDeviceOut(AnswerBody):
    """One device's part in one rollout."""

    device_id: str
    wave: int
    state: DeviceState
    since_ms: int
    previous_version: int | None
    failure: DeviceFailureOut | None
    failures_count: int
    is_excused: bool

    @classmethod
    def of(cls, device: RolloutDevice) -> Self:
        """Return a device's part in the form of the API."""
        failure = device.failure
        return cls(
            device_id=device.device_id,
            wave=device.wave,
            state=device.state,
            since_ms=device.since_ms,
            previous_version=device.previous.version if device.previous else None,
            failure=DeviceFailureOut.model_validate(failure) if failure else None,
            failures_count=device.failures_count,
            is_excused=device.is_excused,
        )


class EntryOut(AnswerBody):
    """One line of a timeline."""

    at_ms: int
    code: str
    text: str
    by: str
    device_id: str | None
    measured: float | None
    limit: float | None
    sentence: str

    @classmethod
    def of(cls, entry: Entry) -> Self:
        """Return an entry in the form of the API."""
        return cls.model_validate(entry)


class ReportedFailureOut(AnswerBody):
    """The last release the device did not keep, and why."""

    version: int
    rollout: str
    code: str
    text: str
    undo_ms: int | None

    @classmethod
    def of(cls, failure: ReportedFailure) -> Self:
        """Return a failure in the form of the API."""
        return cls(
            version=failure.release.version,
            rollout=failure.rollout,
            code=failure.code,
            text=failure.text,
            undo_ms=failure.undo_ms,
        )


class DeviceModelOut(AnswerBody):
    """One model on one device, from its newest report."""

    model: str
    state: UpdateState
    version: int = Field(description="0: nothing runs")
    manifest_digest: str | None
    precision: str
    target_version: int
    rollout: str
    progress: float
    trial_items: int
    failure: ReportedFailureOut | None
    proof: ReceiptOutcome | None = Field(description="Of the verified receipt for what runs")
    receipt_id: int | None
    receipt_problem: str
    reported_ms: int

    @classmethod
    def of(cls, found: DeviceModel) -> Self:
        """Return a device's model in the form of the API."""
        failure = found.failure
        return cls(
            model=found.model,
            state=found.state,
            version=found.version,
            manifest_digest=found.manifest_digest,
            precision=found.precision,
            target_version=found.target_version,
            rollout=found.rollout,
            progress=found.progress,
            trial_items=found.trial_items,
            failure=ReportedFailureOut.of(failure) if failure else None,
            proof=found.proof,
            receipt_id=found.receipt_id,
            receipt_problem=found.receipt_problem,
            reported_ms=found.reported_ms,
        )


class ReceiptOut(AnswerBody):
    """A verified receipt: the device's signed statement of what it runs."""

    receipt_id: int
    model: str
    version: int
    manifest_digest: str
    artifact_digest: str
    precision: str
    runtime: str
    golden_items: int
    golden_error_max: float
    outcome: str
    rollout: str
    at_ms: int

    @classmethod
    def of(cls, fact: ReceiptFact) -> Self:
        """Return a receipt in the form of the API."""
        return cls(
            receipt_id=fact.receipt_id,
            model=fact.model,
            version=fact.release.version,
            manifest_digest=fact.release.manifest_digest,
            artifact_digest=fact.artifact_digest,
            precision=fact.precision,
            runtime=fact.runtime,
            golden_items=fact.golden_items,
            golden_error_max=fact.golden_error_max,
            outcome=fact.outcome,
            rollout=fact.rollout,
            at_ms=fact.at_ms,
        )
