"""The hub's rollouts and the devices' real updaters, with real models, over one broker."""

import threading
from functools import partial
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from cloud_hub.rollouts.controller import RolloutController
from cloud_hub.rollouts.rollout import DeviceState, RolloutState
from cloud_hub.sql_database import Database
from edge_agent.inference.active_model import ActiveModel
from edge_agent.inference.golden_proof import prove_golden
from edge_agent.inference.onnx_session import load_onnx_session
from edge_agent.updates.file_journal import FileJournal, FileTarget
from edge_agent.updates.file_slots import FileSlots
from edge_agent.updates.receipts import ReceiptMaker
from edge_agent.updates.updater import Updater, UpdateSettings
from edge_agent.uplink.file_identity import make_csr
from shared.errors import RefusedError
from shared.ids import DeviceId, RolloutId
from shared.link.link import Delivery
from shared.link.memory_link import MemoryLink
from shared.release.manifest import Manifest, decode_manifest
from shared.release.receipt import sign_receipt
from shared.wire.target import Target, TrialPolicy
from shared.wire.topics import device_filters
from tests.support.release_peer import ReleasePeer
from tests.support.release_shelf import ShelvedRelease
from tests.support.rollout_bench import MODEL, RolloutBench
from tests.support.tiny_items import Feeder
from tests.support.tiny_releases import Kind, publish

pytestmark = pytest.mark.slow
# Latency is not what is tried here: the machine may be busy.
TRIAL = TrialPolicy(items_min=20, latency_ms_floor=1e6, deadline_s=60.0)
KINDS = {1: Kind.GOOD, 2: Kind.BETTER, 3: Kind.DAMAGED, 4: Kind.UNPROVED}


class FolderShelf:
    """The hub's side of the folder that ReleasePeer serves."""

    def __init__(self, store: Path) -> None:
        self._store = store
        self._digests = {
            version: publish(store, model=MODEL, version=version, kind=kind).manifest_digest
            for version, kind in KINDS.items()
        }

    def get(self, model: str, version: int) -> ShelvedRelease:
        if version not in self._digests:
            raise RefusedError("release.unknown", f"There is no release {model}:{version}.")
        return ShelvedRelease(model, version, self._digests[version])

    def manifest(self, model: str, version: int) -> Manifest:
        path = self._store / self.get(model, version).manifest_digest / "manifest.json"
        return decode_manifest(path.read_bytes())


class RealDevice:
    """One device: a real updater over its own folder."""

    def __init__(self, bench: RolloutBench, folder: Path, store: Path) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        token = bench.devices.create_token(ttl_s=600)
        self.device_id = bench.devices.enrol(token.text, make_csr(key)).device_id
        self._bench, self._folder, self._store, self._key = bench, folder, store, key
        self._link = MemoryLink(
            bench.fleet.broker,
            client=self.device_id,
            filters=device_filters(self.device_id),
            clock=bench.clock,
            with_last_will=False,
        )
        self._link.start()
        self._items_count = 0
        self.start()

    def start(self) -> None:
        """Start the agent's process, again if need be."""
        self.active = ActiveModel(MODEL)
        self._feeder = Feeder(self.active)
        self._updater = Updater(
            models={MODEL: self.active},
            source=ReleasePeer(self._store),
            load_session=load_onnx_session,
            prove_golden=prove_golden,
            slots=FileSlots(self._folder / "releases", free_bytes_min=1 << 20),
            journals=FileJournal(self._folder / "journal"),
            target_file=FileTarget(self._folder / "target.json"),
            receipts=ReceiptMaker(
                device=self.device_id,
                boot_id="boot-1",
                sign=partial(sign_receipt, key=self._key),
                config_digest=lambda _model: "c" * 64,
                clock=self._bench.clock,
            ),
            pipelines=tuple,
            clock=self._bench.clock,
            settings=UpdateSettings(),
        )
        self._updater.start()
        self._link.reconnect()

    @property
    def serving(self) -> int:
        """Return the version that serves; 0 for none."""
        serving = self.active.line.serving
        return serving.version if serving else 0

    @property
    def items_missing(self) -> int:
        """Return how many items were given and not decided."""
        return self._items_count - len(self._feeder.results)

    def step(self) -> None:
        """Take what came, update, decide some items, report."""
        for arrival in self._link.arrivals(wait_s=0):
            if isinstance(arrival, Delivery) and isinstance(arrival.received.message, Target):
                self._updater.set_target(arrival.received.message)
            self._link.acknowledge(arrival)
        self._updater.step(threading.Event())
        if self.serving:
            self._feeder.feed(10)
            self._items_count += 10
        report = self._updater.take_report()
        if report is not None:
            self._link.publish(self.device_id, report)


class RealFleet:
    """Real devices around a bench's hub."""

    def __init__(self, bench: RolloutBench, folder: Path, *, count: int) -> None:
        store = folder / "store"
        bench.shelf = FolderShelf(store)  # type: ignore[assignment]
        bench.controller = bench.new_controller()
        self.bench = bench
        self.devices = [RealDevice(bench, folder / f"device-{i}", store) for i in range(count)]

    @property
    def ids(self) -> tuple[DeviceId, ...]:
        return tuple(device.device_id for device in self.devices)

    @property
    def controller(self) -> RolloutController:
        return self.bench.controller

    def start(self, version: int, *waves: str) -> RolloutId:
        return self.bench.start(
            version, devices=self.ids, waves=waves, bake_s=5.0, trial=TRIAL, wave_deadline_s=300.0
        )

    def run(self, rollout_id: RolloutId, state: RolloutState, *, steps_max: int = 120) -> None:
        for _ in range(steps_max):
            for device in self.devices:
                device.step()
            self.bench.fleet.hear(self.controller)
            self.controller.tick()
            self.bench.clock.advance(1.0)
            if self.controller.get(rollout_id).rollout.state is state:
                return
        told = "\n".join(entry.sentence for entry in self.controller.timeline(rollout_id))
        raise AssertionError(f"never {state}:\n{told}")


@pytest.fixture
def fleet(database: Database, tmp_path: Path) -> RealFleet:
    return RealFleet(RolloutBench(database, tmp_path), tmp_path, count=3)


def test_the_whole_loop_with_real_models(fleet: RealFleet) -> None:
    first = fleet.start(1, "100%")
    fleet.run(first, RolloutState.DONE)
    second = fleet.start(2, "1", "100%")
    fleet.run(second, RolloutState.DONE)
    assert [device.serving for device in fleet.devices] == [2, 2, 2]
    damaged = fleet.start(3, "1", "100%")
    fleet.run(damaged, RolloutState.UNDONE)
    assert [device.serving for device in fleet.devices] == [2, 2, 2]
    assert [device.items_missing for device in fleet.devices] == [0, 0, 0]
    view = fleet.controller.get(damaged)
    assert [d.state for d in view.devices] == [
        DeviceState.UNDONE,
        DeviceState.WAITING,
        DeviceState.WAITING,
    ]
    failure = view.devices[0].failure
    assert failure is not None
    assert failure.code.startswith("trial.")
    told = "\n".join(fleet.controller.why(fleet.ids[0]))
    assert "says that it runs tones version 2" in told
    assert failure.code in told
    unproved = fleet.start(4, "100%")
    fleet.run(unproved, RolloutState.UNDONE)
    assert [device.serving for device in fleet.devices] == [2, 2, 2]


def test_a_person_takes_back_a_release_that_every_device_settled(fleet: RealFleet) -> None:
    fleet.run(fleet.start(1, "100%"), RolloutState.DONE)
    second = fleet.start(2, "100%")
    fleet.run(second, RolloutState.DONE)
    fleet.controller.undo(second, why="night images look odd", by="ada")
    fleet.run(second, RolloutState.UNDONE)
    assert [device.serving for device in fleet.devices] == [1, 1, 1]


def test_hub_and_devices_restart_all_the_time_and_still_get_there(fleet: RealFleet) -> None:
    fleet.run(fleet.start(1, "100%"), RolloutState.DONE)
    second = fleet.start(2, "1", "100%")
    for turn in range(60):
        # A trial that dies is a failed trial: restart only devices that are not in one.
        device = fleet.devices[turn % 3]
        if fleet.controller.device_models(device.device_id)[0].state == "idle":
            device.start()
        fleet.bench.restart_hub()
        try:
            fleet.run(second, RolloutState.DONE, steps_max=1)
        except AssertionError:
            continue
        break
    assert fleet.controller.get(second).rollout.state is RolloutState.DONE
    assert [device.serving for device in fleet.devices] == [2, 2, 2]


def test_the_first_release_of_all_fails_and_leaves_nothing_behind(fleet: RealFleet) -> None:
    rollout_id = fleet.start(4, "100%")
    fleet.run(rollout_id, RolloutState.UNDONE)
    assert [device.serving for device in fleet.devices] == [0, 0, 0]
    fleet.run(fleet.start(1, "100%"), RolloutState.DONE)
    assert [device.serving for device in fleet.devices] == [1, 1, 1]
