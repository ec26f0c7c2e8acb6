"""A whole hub for tests of the API, the command line and the dashboard: every service is real.

Devices are those of the FleetSimulator; the HTTP side is asked in the process, or over a real
uvicorn on loopback. Making releases takes seconds, so a hub with two of them is made once and
copied.
"""

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest
import uvicorn
from fastapi import FastAPI

from cloud_hub.api.app import create_app
from cloud_hub.api.audit import AuditLog
from cloud_hub.api.enrolment import EnrolmentInfo
from cloud_hub.api.operator_service import OperatorService
from cloud_hub.api.services import HubInfo, HubStatus, PartStatus, Services
from cloud_hub.api.settings import ApiSettings
from cloud_hub.datasets.collecting.service import CollectionService
from cloud_hub.datasets.collecting.settings import CollectionSettings
from cloud_hub.datasets.service import DatasetService
from cloud_hub.datasets.settings import DatasetSettings
from cloud_hub.devices.service import DeviceService
from cloud_hub.devices.x509_authority import Authority
from cloud_hub.object_store import ObjectStore
from cloud_hub.releases.service import ReleaseService
from cloud_hub.rollouts.controller import RolloutController
from cloud_hub.serving.service import ServingService
from cloud_hub.serving.settings import ServingSettings
from cloud_hub.sql_database import Database
from cloud_hub.telemetry.service import TelemetryService
from cloud_hub.training.cloud.service import CloudJobService
from cloud_hub.training.process_superlink import SuperLinkProcess
from cloud_hub.training.service import TrainingService
from cloud_hub.training.settings import LearningHubSettings
from shared.clock import now_ms
from shared.ids import DeviceId
from shared.wire.records import Body, Record, RecordBatch
from tests.support import tiny_models as tiny
from tests.support.fleet_simulator import FleetSimulator, SimulatedDevice
from tests.support.manual_clock import ManualClock
from tests.support.release_hub import open_hub
from tests.support.server_thread import serve_in_thread

MODEL = "digits"
STEP_S = 5.0
STREAM = "ab" * 8
COLLECTION = CollectionSettings(
    items_per_device_day_max=6, bytes_per_device_day_max=1 << 20, free_bytes_min=0
)
SERVING = ServingSettings(wait_ms=30.0, answer_s_max=3.0, queue_max=64)


@dataclass
class ApiHub:
    """A hub in one process; nothing runs by itself but the HTTP server."""

    state: Path
    database: Database
    clock: ManualClock
    services: Services
    fleet: FleetSimulator
    settings: ApiSettings
    token: str
    app: FastAPI
    status: list[HubStatus]  # What the hub says of itself: the last one
    url: str = ""  # While it is served
    _clients: list[httpx.Client] = field(default_factory=list)

    @property
    def rollouts(self) -> RolloutController:
        return self.services.rollouts

    def client(self, *, token: str | None = "") -> httpx.Client:
        """Return a client of the served app; "" sends the operator's token, None sends none."""
        sent = self.token if token == "" else token
        headers = {"Authorization": f"Bearer {sent}"} if sent else {}
        client = httpx.Client(base_url=self.url, headers=headers, trust_env=False, timeout=30.0)
        self._clients.append(client)
        return client

    @contextmanager
    def serve(self) -> Iterator[None]:
        """Serve the app on a free port of loopback, at `url`."""
        config = uvicorn.Config(
            self.app,
            host="127.0.0.1",
            port=0,
            loop="asyncio",
            http="h11",
            ws="none",
            lifespan="off",
            log_config=None,
            timeout_graceful_shutdown=5,
        )
        with serve_in_thread(uvicorn.Server(config), before_stop=self.app.state.live.close) as port:
            self.url = f"http://127.0.0.1:{port}"
            yield
            for client in self._clients:
                client.close()

    def enrol(self, count: int = 1, *, names: tuple[str, ...] = ()) -> list[SimulatedDevice]:
        """Let devices join, and be heard."""
        devices = self.fleet.enrol(count)
        self.fleet.hear(self.rollouts)
        for device, name in zip(devices, names, strict=False):
            self.services.devices.rename(device.device_id, name)
        return devices

    def step(self, times: int = 1) -> None:
        """Let every device and the hub do one step each."""
        for _ in range(times):
            self.fleet.step(self.rollouts)
            self.clock.advance(STEP_S)

    def tell(self, device: DeviceId, *bodies: Body, first: int = 1) -> None:
        """Let a device tell records, numbered from `first`."""
        at_ms = now_ms(self.clock)
        records = tuple(
            Record(sequence=first + i, at_ms=at_ms, body=body) for i, body in enumerate(bodies)
        )
        batch = RecordBatch(stream=STREAM, since=first - 1, records=records)
        self.services.telemetry.ingest(device, batch)

    def close(self) -> None:
        """End what was started, and close the database."""
        self.services.serving.stop()
        self.database.close()


def open_api_hub(state: Path, *, settings: ApiSettings | None = None) -> ApiHub:
    """Return the hub over a state folder, its clock standing at the machine's present time."""
    database = Database(f"sqlite:///{state}/hub.db")
    database.migrate()
    clock = ManualClock(now_s=float(int(time.time())))
    own_settings = settings or ApiSettings(live_period_s=0.05)
    authority = Authority(state / "pki", host_names=("localhost",), clock=clock)
    devices = DeviceService(database, authority, clock)
    telemetry = TelemetryService(database, clock)
    releases = open_hub(state, database, clock=clock)
    fleet = FleetSimulator(devices, releases, clock)  # type: ignore[arg-type]  # The real shelf
    training = _open_training(state, database, devices, releases, authority, clock)
    rollouts = RolloutController(
        database, devices, telemetry, releases, fleet.hub_link, clock, training
    )
    operators = OperatorService(database, settings=own_settings, clock=clock)
    status = [HubStatus(parts=(PartStatus("broker", is_good=True, detail="embedded"),))]
    datasets = _open_datasets(state, database, clock)
    cloud_jobs = CloudJobService(
        database,
        datasets,
        releases,
        ObjectStore(str(state / "repository")),
        clock,
        folder=state / "training",
    )
    services = Services(
        database=database,
        devices=devices,
        telemetry=telemetry,
        releases=releases,
        datasets=datasets,
        collections=_open_collections(state, database, devices, datasets, clock),
        training=training,
        cloud_jobs=cloud_jobs,
        rollouts=rollouts,
        serving=ServingService(releases, clock, SERVING),
        operators=operators,
        audit=AuditLog(database, clock=clock),
        hub=HubInfo(
            version="0.1.0",
            join_url="https://hub.test:8443",
            broker_url="mqtts://hub.test:8883",
            ca_fingerprint=authority.ca_fingerprint,
            started_ms=now_ms(clock),
        ),
        enrolment=EnrolmentInfo(ca_pem=authority.ca_pem, broker_port=8883),
        status=lambda: status[-1],
        clock=clock,
    )
    token = operators.create_first() or operators.rotate()
    operators.write_local_token(state)
    app = create_app(services, own_settings)
    return ApiHub(state, database, clock, services, fleet, own_settings, token, app, status)


def _open_datasets(state: Path, database: Database, clock: ManualClock) -> DatasetService:
    """Return the service of datasets; people may import from `import` in the state folder."""
    (state / "import").mkdir(exist_ok=True)
    datasets = DatasetService(
        database,
        ObjectStore(str(state / "repository")),
        clock,
        DatasetSettings(import_roots=(str(state / "import"),)),
        folder=state / "datasets",
    )
    datasets.open()
    return datasets


def _open_collections(
    state: Path,
    database: Database,
    devices: DeviceService,
    datasets: DatasetService,
    clock: ManualClock,
) -> CollectionService:
    collections = CollectionService(
        database, devices, datasets, clock, COLLECTION, folder=state / "arrivals"
    )
    collections.open()
    return collections


def _open_training(
    state: Path,
    database: Database,
    devices: DeviceService,
    releases: ReleaseService,
    authority: Authority,
    clock: ManualClock,
) -> TrainingService:
    """Return the service of Jobs; its SuperLink is played by a LearningPeer, where there is one."""
    settings = LearningHubSettings()
    superlink = SuperLinkProcess(
        state / "learning" / "superlink",
        ca_path=authority.ca_path,
        certificate_path=authority.server_certificate_path,
        key_path=authority.server_key_path,
        settings=settings,
        clock=clock,
    )
    return TrainingService(
        database,
        devices,
        releases,
        superlink,
        clock,
        learning=state / "learning",
        settings=settings,
    )


def add_release(releases: ReleaseService, *, seed: int, accuracy: float) -> None:
    """Publish one more version of MODEL."""
    releases.add(
        model_bytes=tiny.classifier(seed).SerializeToString(),
        spec_bytes=tiny.SPEC.encode(),
        golden_bytes=None,
        metrics={"accuracy": accuracy},
        notes="",
        lineage_id=None,
    )


@pytest.fixture(scope="session")
def hub_with_releases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The state folder of a hub with two releases of MODEL, to copy."""
    state = tmp_path_factory.mktemp("api-hub")
    hub = open_api_hub(state)
    add_release(hub.services.releases, seed=1, accuracy=0.91)
    add_release(hub.services.releases, seed=2, accuracy=0.97)
    hub.close()
    return state


@pytest.fixture
def api_hub(hub_with_releases: Path, tmp_path: Path) -> Iterator[ApiHub]:
    """A hub with two releases and no devices."""
    state = tmp_path / "hub-state"
    shutil.copytree(hub_with_releases, state)
    hub = open_api_hub(state)
    with hub.serve():
        yield hub
    hub.close()


@pytest.fixture
def empty_hub(tmp_path: Path) -> Iterator[ApiHub]:
    """A hub that has just been started for the first time."""
    state = tmp_path / "hub-state"
    state.mkdir()
    hub = open_api_hub(state)
    with hub.serve():
        yield hub
    hub.close()
