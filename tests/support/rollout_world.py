"""RolloutWorld: one rollout in memory, for tests of the pure rules. Plans are applied to values."""

from dataclasses import replace

from cloud_hub.rollouts import plan as plans
from cloud_hub.rollouts.device_model import DeviceModel, ReportedFailure
from cloud_hub.rollouts.draft import Assigned, Plan, Snapshot
from cloud_hub.rollouts.judge import ItemTotals
from cloud_hub.rollouts.order import RolloutOrder
from cloud_hub.rollouts.rollout import (
    DeviceState,
    ReleaseRef,
    Rollout,
    RolloutDevice,
    RolloutState,
)
from cloud_hub.rollouts.timeline import Entry
from cloud_hub.rollouts.waves import parse_wave, wave_limits, wave_of
from shared.ids import DeviceId, ModelName, RolloutId
from shared.release.receipt import ReceiptOutcome
from shared.wire.report import UpdateState

MODEL = ModelName("tones")
OLD = ReleaseRef(1, "1" * 64)
NEW = ReleaseRef(2, "2" * 64)
ROLLOUT = RolloutId("roll-new")
BEFORE = RolloutId("roll-old")


class RolloutWorld:
    """Facts about devices, set by a test, and the rollout that follows from them."""

    def __init__(
        self, count: int, *, waves: tuple[str, ...] = ("1", "50%", "100%"), **order: object
    ) -> None:
        fields: dict[str, object] = {"wave_deadline_s": 100.0, "bake_s": 10.0, **order}
        sizes = tuple(parse_wave(wave) for wave in waves)
        self.now_ms = 1_000_000
        self.order = RolloutOrder(model=MODEL, version=2, waves=sizes, **fields)  # type: ignore[arg-type]
        limits = wave_limits(sizes, count)
        self.ids = tuple(DeviceId(f"dev-{index}") for index in range(count))
        self.rollout = Rollout(
            rollout_id=ROLLOUT,
            order=self.order,
            release=NEW,
            state=RolloutState.RUNNING,
            wave=0,
            wave_limits=limits,
            created_ms=self.now_ms,
            created_by="ada",
            updated_ms=self.now_ms,
        )
        self.devices = {
            d: RolloutDevice(device_id=d, position=i, wave=wave_of(i, limits))
            for i, d in enumerate(self.ids)
        }
        self.seen: dict[DeviceId, DeviceModel] = {}
        self.assigned = {d: Assigned(OLD, BEFORE) for d in self.ids}
        self.taken_up: set[DeviceId] = set()
        self.active = set(self.ids)
        self.items: ItemTotals | None = None
        self.entries: list[Entry] = []
        for device_id in self.ids:
            self.runs(device_id, OLD)
        self.apply(plans.start(self.snapshot(), now_ms=self.now_ms, by="ada"))

    @property
    def state(self) -> RolloutState:
        return self.rollout.state

    def snapshot(self) -> Snapshot:
        return Snapshot(
            rollout=self.rollout,
            devices=tuple(self.devices.values()),
            seen=dict(self.seen),
            assigned=dict(self.assigned),
            taken_up=frozenset(self.taken_up),
            active=frozenset(self.active),
            items=self.items,
        )

    def apply(self, plan: Plan) -> Plan:
        self.rollout = plan.rollout
        for device in plan.changed:
            self.devices[device.device_id] = device
        for assignment in plan.assignments:
            self.assigned[assignment.device_id] = Assigned(assignment.release, ROLLOUT)
            self.taken_up.discard(assignment.device_id)
        self.entries.extend(plan.entries)
        return plan

    def advance(self) -> Plan:
        return self.apply(plans.advance(self.snapshot(), now_ms=self.now_ms))

    def wait(self, seconds: float) -> None:
        self.now_ms += int(seconds * 1000)

    def states(self) -> list[DeviceState]:
        return [self.devices[device_id].state for device_id in self.ids]

    def codes(self) -> list[str]:
        return [entry.code for entry in self.entries if entry.device_id is None]

    # What a device says

    def runs(
        self,
        device_id: DeviceId,
        release: ReleaseRef | None,
        *,
        proof: ReceiptOutcome | None = ReceiptOutcome.SETTLED,
        state: UpdateState = UpdateState.IDLE,
    ) -> None:
        self.taken_up.add(device_id)
        self.seen[device_id] = DeviceModel(
            device_id=device_id,
            model=MODEL,
            state=state,
            version=release.version if release else 0,
            manifest_digest=release.manifest_digest if release else None,
            precision="int8",
            target_version=2,
            proof=proof if release else None,
            reported_ms=self.now_ms,
        )

    def progresses(self, device_id: DeviceId) -> None:
        self.runs(device_id, OLD, state=UpdateState.TRIAL)

    def fails(self, device_id: DeviceId, *, rollout: str = ROLLOUT) -> None:
        self.runs(device_id, OLD, proof=ReceiptOutcome.UNDONE)
        failure = ReportedFailure(
            release=NEW, rollout=rollout, code="trial.worse", text="It was worse."
        )
        self.seen[device_id] = replace(self.seen[device_id], failure=failure)
