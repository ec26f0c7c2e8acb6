"""RolloutBench: a hub's rollouts over a real database, with a simulated fleet around them."""

from collections.abc import Iterable
from pathlib import Path

from cloud_hub.devices.service import DeviceService
from cloud_hub.rollouts.controller import RolloutController
from cloud_hub.rollouts.order import RolloutOrder
from cloud_hub.rollouts.rollout import DeviceState, Rollout, RolloutState
from cloud_hub.rollouts.view import RolloutView
from cloud_hub.rollouts.waves import parse_wave
from cloud_hub.sql_database import Database
from cloud_hub.telemetry.service import TelemetryService
from shared.ids import DeviceId, ModelName, RolloutId
from shared.link.memory_link import MemoryLink
from tests.support.enrolled import make_devices
from tests.support.fleet_simulator import FleetSimulator
from tests.support.manual_clock import ManualClock
from tests.support.release_shelf import ReleaseShelf

MODEL = ModelName("tones")
STEP_S = 5.0
DEADLINE_S = 120.0
BAKE_S = 20.0


class RolloutBench:
    """What a rollout test needs, together."""

    def __init__(self, database: Database, folder: Path) -> None:
        self.database = database
        self.clock = ManualClock()
        self.shelf = ReleaseShelf(*((MODEL, version) for version in (1, 2, 3)), ("other", 1))
        self.devices: DeviceService = make_devices(database, folder, self.clock)
        self.telemetry = TelemetryService(database, self.clock)
        self.fleet = FleetSimulator(self.devices, self.shelf, self.clock)
        self.controller = self.new_controller()

    def new_controller(self, link: MemoryLink | None = None) -> RolloutController:
        """Return the controller of a hub process that starts now."""
        return RolloutController(
            self.database,
            self.devices,
            self.telemetry,
            self.shelf,  # type: ignore[arg-type]
            link or self.fleet.hub_link,
            self.clock,
        )

    def restart_hub(self) -> None:
        """End the hub's process and start another over the same database."""
        self.controller = self.new_controller(self.fleet.new_hub_link())

    def order(self, version: int = 2, **changes: object) -> RolloutOrder:
        """Return an order with short times."""
        fields: dict[str, object] = {
            "model": MODEL,
            "version": version,
            "wave_deadline_s": DEADLINE_S,
            "bake_s": BAKE_S,
        }
        waves = changes.pop("waves", None)
        if waves is not None:
            assert isinstance(waves, Iterable)
            fields["waves"] = tuple(parse_wave(wave) for wave in waves)
        return RolloutOrder(**{**fields, **changes})  # type: ignore[arg-type]

    def start(self, version: int = 2, **changes: object) -> RolloutId:
        """Start a rollout; return its id."""
        return self.controller.start(self.order(version, **changes), by="ada").rollout_id

    def step(self, times: int = 1) -> None:
        """Let everybody do `times` steps of STEP_S."""
        for _ in range(times):
            self.fleet.step(self.controller)
            self.clock.advance(STEP_S)

    def run_until(
        self, rollout_id: RolloutId, *states: RolloutState, steps_max: int = 200
    ) -> Rollout:
        """Step until the rollout is in one of `states`."""
        for _ in range(steps_max):
            rollout = self.view(rollout_id).rollout
            if rollout.state in states:
                return rollout
            self.step()
        entries = self.controller.timeline(rollout_id)
        told = "\n".join(entry.sentence for entry in entries[-40:])
        raise AssertionError(f"never {states}, but {rollout.state}:\n{told}")

    def settle_first(self) -> None:
        """Bring version 1 to the whole fleet at once."""
        rollout_id = self.start(1, waves=["100%"], bake_s=0.0)
        self.run_until(rollout_id, RolloutState.DONE)

    def view(self, rollout_id: RolloutId) -> RolloutView:
        """Return one rollout."""
        return self.controller.get(rollout_id)

    def states(self, rollout_id: RolloutId) -> dict[DeviceId, DeviceState]:
        """Return each device's place in a rollout."""
        return {d.device_id: d.state for d in self.view(rollout_id).devices}

    def codes(self, rollout_id: RolloutId) -> list[str]:
        """Return the codes of the rollout's own entries, oldest first."""
        entries = self.controller.timeline(rollout_id)
        return [entry.code for entry in entries if entry.device_id is None]
