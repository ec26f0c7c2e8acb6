"""FleetSimulator: devices that answer Targets with Reports over MemoryLinks, each in its own way.

A device keeps the contract of edge_agent/updates/plan.py: what a Target does not name goes on, an
attempt that nobody asks for any more is withdrawn, a release that failed is not tried again for the
same rollout. Nothing runs by itself: a test calls `step`.
"""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

import msgspec
from cryptography.hazmat.primitives.asymmetric import ec

from cloud_hub.devices.service import DeviceService
from cloud_hub.rollouts.controller import RolloutController
from edge_agent.uplink.file_identity import make_csr
from shared.clock import Clock, now_ms
from shared.ids import HUB_ID, DeviceId
from shared.link.link import Connected, Delivery
from shared.link.memory_link import MemoryBroker, MemoryLink
from shared.release.receipt import Receipt, ReceiptOutcome, sign_receipt
from shared.wire.presence import Presence
from shared.wire.report import Failure, ModelReport, Report, SignedReceipt, UpdateState
from shared.wire.target import Target, TargetRelease
from shared.wire.topics import device_filters, hub_filters
from tests.support.release_shelf import ReleaseShelf

ATTEMPT = (UpdateState.FETCHING, UpdateState.STAGED, UpdateState.TRIAL)


class Behaviour(StrEnum):
    """What a device makes of a new release."""

    GOOD = "good"
    SLOW = "slow"  # Stays in its trial
    SILENT = "silent"  # Hears nothing and says nothing
    FAILING = "failing"  # Goes back by itself after its trial
    REFUSING = "refusing"  # Does not even try
    FLAPPING = "flapping"  # Settles, and runs the old release again at the next step, in turns
    NO_RECEIPT = "no receipt"  # This and what follows lie: they say they run it
    FORGED = "forged"  # Signed with another key
    BORROWED = "borrowed"  # A good receipt of another device
    OTHER_ARTIFACT = "other artifact"
    NO_GOLDEN = "no golden"
    FAR_OFF = "far off"  # Its golden error is over the tolerance
    OTHER_VERSION = "other version"  # A good receipt, but of the release before
    NEVER_SETTLED = "never settled"  # Undone, and never settled before
    MUTE_STATE = "mute state"  # A good receipt while it says that its trial still runs


LIARS = frozenset(
    {
        Behaviour.NO_RECEIPT,
        Behaviour.FORGED,
        Behaviour.BORROWED,
        Behaviour.OTHER_ARTIFACT,
        Behaviour.NO_GOLDEN,
        Behaviour.FAR_OFF,
        Behaviour.OTHER_VERSION,
        Behaviour.NEVER_SETTLED,
        Behaviour.MUTE_STATE,
    }
)


@dataclass
class SimulatedModel:
    """One model on one device."""

    name: str
    state: UpdateState = UpdateState.IDLE
    settled: TargetRelease | None = None
    receipt: SignedReceipt | None = None
    attempt: TargetRelease | None = None
    failure: Failure | None = None
    claims: TargetRelease | None = None  # What a liar says it runs
    quarantine: set[tuple[str, str]] = field(default_factory=set)


class SimulatedDevice:
    """One device. Its behaviour concerns releases of a version above `honest_up_to`."""

    def __init__(
        self,
        device_id: DeviceId,
        key: ec.EllipticCurvePrivateKey,
        link: MemoryLink,
        shelf: ReleaseShelf,
        clock: Clock,
    ) -> None:
        self.device_id = device_id
        self.behaviour = Behaviour.GOOD
        self.honest_up_to = 1
        self.models: dict[str, SimulatedModel] = {}
        self.revision = 0
        self.targets: list[Target] = []  # Every new one that was taken up
        self.link = link
        self._key = key
        self._shelf = shelf
        self._clock = clock
        self._target: Target | None = None
        self._lies: dict[str, SignedReceipt | None] = {}  # By manifest digest: told the same again

    def running(self, model: str) -> int:
        """Return the version that really serves; 0 for none."""
        held = self.models.get(model)
        return held.settled.version if held and held.settled else 0

    def step(self) -> None:
        """Hear what came, do one step, say how it stands."""
        arrivals = list(self.link.arrivals(wait_s=0))
        if self.behaviour is Behaviour.SILENT:
            return  # Not acknowledged: the broker keeps it.
        for arrival in arrivals:
            if isinstance(arrival, Delivery) and isinstance(arrival.received.message, Target):
                self._take(arrival.received.message)
            self.link.acknowledge(arrival)
        for release in self._target.releases if self._target else ():
            self.models.setdefault(release.model, SimulatedModel(release.model))
        for model in self.models.values():
            self._advance(model)
        self.report()

    def wake(self) -> None:
        """Connect again, as after a restart: what is retained comes once more."""
        self.link.reconnect()

    def report(self) -> None:
        """Say how it stands."""
        self.link.publish(
            self.device_id,
            Report(
                target_revision=self.revision,
                at_ms=now_ms(self._clock),
                models=tuple(self._describe(model) for model in self.models.values()),
            ),
        )

    def _take(self, target: Target) -> None:
        if target.revision > self.revision:
            self.revision, self._target = target.revision, target
            self.targets.append(target)

    def _wanted(self, model: SimulatedModel) -> TargetRelease | None:
        releases = self._target.releases if self._target else ()
        return next((release for release in releases if release.model == model.name), None)

    def _advance(self, model: SimulatedModel) -> None:
        wanted = self._wanted(model)
        if wanted is None or _same(wanted, model.settled):
            model.attempt, model.claims = None, None
            model.state = UpdateState.IDLE
            is_asked_again = (
                wanted is not None
                and model.settled is not None
                and wanted.rollout != model.settled.rollout
            )
            if wanted is not None and is_asked_again:
                self._settle(model, wanted)  # It proves it again.
            self._flap(model)
            return
        if (wanted.manifest_digest, wanted.rollout) in model.quarantine:
            self._flap(model)
            return
        behaviour = Behaviour.GOOD if wanted.version <= self.honest_up_to else self.behaviour
        model.claims = None
        if behaviour in LIARS:
            model.claims, model.attempt, model.state = wanted, None, UpdateState.IDLE
            return
        if behaviour is Behaviour.REFUSING:
            self._fail(model, wanted, "golden.mismatch", UpdateState.REFUSED)
            return
        if not _same(wanted, model.attempt):
            model.attempt, model.state = wanted, UpdateState.FETCHING
        elif model.state is not UpdateState.TRIAL:
            model.state = ATTEMPT[ATTEMPT.index(model.state) + 1]
        elif behaviour is Behaviour.FAILING:
            self._fail(model, wanted, "trial.worse", UpdateState.IDLE)
        elif behaviour is not Behaviour.SLOW:
            self._settle(model, wanted)

    def _flap(self, model: SimulatedModel) -> None:
        """Run the old release again, as one does whose disk is failing."""
        wanted = self._wanted(model)
        if (
            self.behaviour is Behaviour.FLAPPING
            and wanted is not None
            and wanted.version > self.honest_up_to
            and model.settled is not None
        ):
            older = self._shelf.get(model.name, 1)
            model.settled = msgspec.structs.replace(
                wanted, version=1, manifest_digest=older.manifest_digest
            )
            model.receipt = self._sign(model.settled, ReceiptOutcome.UNDONE)

    def _settle(self, model: SimulatedModel, release: TargetRelease) -> None:
        model.settled, model.attempt, model.failure = release, None, None
        model.state = UpdateState.IDLE
        model.receipt = self._sign(release, ReceiptOutcome.SETTLED)

    def _fail(
        self, model: SimulatedModel, release: TargetRelease, code: str, state: UpdateState
    ) -> None:
        model.attempt, model.state = None, state
        model.quarantine.add((release.manifest_digest, release.rollout))
        model.failure = Failure(
            version=release.version,
            manifest_digest=release.manifest_digest,
            rollout=release.rollout,
            code=code,
            text=f"Version {release.version} was worse here.",
            undo_ms=120 if code == "trial.worse" else None,
        )
        if model.settled is not None and code == "trial.worse":
            model.receipt = self._sign(model.settled, ReceiptOutcome.UNDONE)

    def _describe(self, model: SimulatedModel) -> ModelReport:
        runs, receipt, state = model.settled, model.receipt, model.state
        if model.claims is not None:
            runs = model.claims
            if runs.manifest_digest not in self._lies:
                self._lies[runs.manifest_digest] = self._lie(model, runs)
            receipt = self._lies[runs.manifest_digest]
            if self.behaviour is Behaviour.MUTE_STATE:
                state = UpdateState.TRIAL
        wanted = self._wanted(model)
        return ModelReport(
            model=model.name,
            state=state,
            version=runs.version if runs else 0,
            manifest_digest=runs.manifest_digest if runs else None,
            precision="int8" if runs else "",
            target_version=wanted.version if wanted else 0,
            rollout=wanted.rollout if wanted else "",
            progress=0.5 if state is UpdateState.FETCHING else 0.0,
            failure=model.failure,
            receipt=receipt,
        )

    def _lie(self, model: SimulatedModel, release: TargetRelease) -> SignedReceipt | None:
        match self.behaviour:
            case Behaviour.FORGED:
                key = ec.generate_private_key(ec.SECP256R1())
                return self._sign(release, ReceiptOutcome.SETTLED, key=key)
            case Behaviour.BORROWED:
                return self._sign(release, ReceiptOutcome.SETTLED, device="dev-another")
            case Behaviour.OTHER_ARTIFACT:
                return self._sign(release, ReceiptOutcome.SETTLED, artifact_digest="a" * 64)
            case Behaviour.NO_GOLDEN:
                return self._sign(release, ReceiptOutcome.SETTLED, golden_items=0)
            case Behaviour.FAR_OFF:
                return self._sign(release, ReceiptOutcome.SETTLED, golden_error_max=0.5)
            case Behaviour.OTHER_VERSION:
                return model.receipt
            case Behaviour.NEVER_SETTLED:
                return self._sign(release, ReceiptOutcome.UNDONE)
            case Behaviour.MUTE_STATE:
                return self._sign(release, ReceiptOutcome.SETTLED)
            case _:
                return None

    def _sign(
        self,
        release: TargetRelease,
        outcome: ReceiptOutcome,
        *,
        key: ec.EllipticCurvePrivateKey | None = None,
        **changes: object,
    ) -> SignedReceipt:
        variant = self._shelf.manifest(release.model, release.version).variants[0]
        receipt = Receipt(
            device=self.device_id,
            model=release.model,
            version=release.version,
            manifest_digest=release.manifest_digest,
            artifact_digest=variant.artifact.digest,
            precision=variant.precision,
            runtime="onnxruntime 1.31.1 CPUExecutionProvider",
            config_digest="c" * 64,
            boot_id=secrets.token_hex(4),
            golden_items=4,
            golden_error_max=1e-5,
            outcome=outcome,
            rollout=release.rollout,
            at_ms=now_ms(self._clock),
        )
        return sign_receipt(msgspec.structs.replace(receipt, **changes), key or self._key)


class FleetSimulator:
    """Devices and a hub around one broker."""

    def __init__(self, devices: DeviceService, shelf: ReleaseShelf, clock: Clock) -> None:
        self.broker = MemoryBroker()
        self.devices: dict[DeviceId, SimulatedDevice] = {}
        self._service = devices
        self._shelf = shelf
        self._clock = clock
        self.hub_link = self.new_hub_link()

    def new_hub_link(self) -> MemoryLink:
        """Return a hub's link, connected; it takes over from the one before."""
        link = MemoryLink(
            self.broker,
            client=HUB_ID,
            filters=hub_filters(),
            clock=self._clock,
            with_last_will=False,
        )
        link.start()
        self.hub_link = link
        return link

    def enrol(self, count: int = 1, *, groups: tuple[str, ...] = ()) -> list[SimulatedDevice]:
        """Let devices join, connected and born."""
        return [self._enrol(groups) for _ in range(count)]

    def _enrol(self, groups: tuple[str, ...]) -> SimulatedDevice:
        key = ec.generate_private_key(ec.SECP256R1())
        token = self._service.create_token(groups=groups, ttl_s=600)
        device_id = self._service.enrol(token.text, make_csr(key)).device_id
        link = MemoryLink(
            self.broker,
            client=device_id,
            filters=device_filters(device_id),
            clock=self._clock,
            with_last_will=True,
        )
        link.start()
        link.publish(device_id, Presence(is_online=True, reason="started"))
        device = SimulatedDevice(device_id, key, link, self._shelf, self._clock)
        self.devices[device_id] = device
        return device

    def behave(self, behaviours: Mapping[DeviceId, Behaviour]) -> None:
        """Give devices their behaviour."""
        for device_id, behaviour in behaviours.items():
            self.devices[device_id].behaviour = behaviour

    def step(self, controller: RolloutController) -> None:
        """Let every device do one step, and the hub hear it and tick."""
        for device in self.devices.values():
            if device.link.is_connected:
                device.step()
        self.hear(controller)
        controller.tick()

    def hear(self, controller: RolloutController) -> None:
        """Let the hub take what came, as its inbox does."""
        for arrival in self.hub_link.arrivals(wait_s=0):
            match arrival:
                case Connected():
                    controller.on_connected()
                case Delivery(received=received) if isinstance(received.message, Report):
                    if self._service.is_active(received.device):
                        controller.on_report(received)
                case Delivery(received=received) if isinstance(received.message, Presence):
                    if self._service.is_active(received.device):
                        self._service.on_presence(received)
                case _:
                    pass
            self.hub_link.acknowledge(arrival)

    def lose_broker_memory(self) -> None:
        """Restart a broker that keeps all in memory: what it retained and queued is gone."""
        self.broker.kill()
        self.broker._retained.clear()
        for session in self.broker._sessions.values():
            session.unacknowledged.clear()
        for device in self.devices.values():
            list(device.link.arrivals(wait_s=0))
        self.broker.restart()

    def running(self, model: str) -> dict[DeviceId, int]:
        """Return the version that each device really runs."""
        return {device_id: device.running(model) for device_id, device in self.devices.items()}


def _same(first: TargetRelease, second: TargetRelease | None) -> bool:
    return second is not None and first.manifest_digest == second.manifest_digest
