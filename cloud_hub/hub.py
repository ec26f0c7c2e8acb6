"""Hub: the composition root. Builds services, joins parts, owns the order of start and stop.

1. Start: database and keys, then the broker, then the link, inbox and ticks, then HTTP: whoever is
   answered is answered by a hub that works.
2. Stop: the other way round.
3. What was opened is closed again, whether the hub stops or could not be built to its end.
4. A part that dies is restarted by its Worker; one that says UnavailableError ends the hub.
"""

import logging
import socket
import threading
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path

from cloud_hub.api.app import create_app
from cloud_hub.api.audit import AuditLog
from cloud_hub.api.enrolment import EnrolmentInfo
from cloud_hub.api.operator_service import OperatorService
from cloud_hub.api.services import HubInfo, HubStatus, PartStatus, Services
from cloud_hub.config import HubConfig, parse_broker
from cloud_hub.datasets.collecting.service import CollectionService
from cloud_hub.datasets.service import DatasetService
from cloud_hub.devices.service import DeviceService
from cloud_hub.devices.x509_authority import Authority
from cloud_hub.http_server import HttpServer, Listener
from cloud_hub.inbox.amqtt_broker import BrokerSettings, EmbeddedBroker
from cloud_hub.inbox.block_server import BlockServer
from cloud_hub.inbox.inbox import Inbox
from cloud_hub.inbox.mosquitto_broker import (
    Credential,
    ExternalBroker,
    ExternalBrokerSettings,
)
from cloud_hub.inbox.zeroconf_announce import HubAnnouncer
from cloud_hub.object_store import ObjectStore
from cloud_hub.releases.service import build_release_service, objects_place
from cloud_hub.rollouts.controller import RolloutController
from cloud_hub.serving.service import ServingService
from cloud_hub.sql_database import Database, sqlite_url
from cloud_hub.tcp_door import raise_open_files_limit
from cloud_hub.telemetry.service import TelemetryService
from cloud_hub.training.cloud.service import CloudJobService
from cloud_hub.training.file_job_folders import SUPERLINK
from cloud_hub.training.process_superlink import SuperLinkProcess
from cloud_hub.training.service import TrainingService
from shared.clock import Clock, now_ms
from shared.durable_file import make_private_folder
from shared.errors import TransientError, UnavailableError
from shared.file_lock import FileLock
from shared.ids import HUB_ID, DeviceId
from shared.link.paho_link import LinkSettings, PahoLink
from shared.plural import counted
from shared.wire.topics import hub_filters
from shared.worker import Worker

log = logging.getLogger(__name__)

HOUSEKEEPING_S = 600.0  # Signed metadata and old telemetry are looked at this often
WATCH_S = 0.5
ARRIVALS = "arrivals"  # In the state folder: what devices sent that is in no version yet
DATASETS = "datasets"  # In the state folder: uploads that are being read
TRAINING = "training"  # In the state folder: training runs of the cloud
LEARNING = "learning"  # In the state folder: Jobs, and the SuperLink
LOCK_NAME = "lock"  # In the state folder: held while a hub runs with it
LOOPBACK = "127.0.0.1"
ANY_HOSTS = ("0.0.0.0", "::")  # noqa: S104  (compared with, not bound to)


class Hub:
    """Everything that runs in `cloud-hub serve`. `run` once."""

    def __init__(self, config: HubConfig, state: Path, clock: Clock) -> None:
        """Open the state folder and build every part; the broker and HTTP's ports are bound.

        Raises what is wrong and the remedy: UnavailableError `hub.running`, `state.unusable`,
        `http.listen`, `broker.port_busy`, `database.newer`, …; TransientError; ContractError.
        """
        self._config = config
        self._clock = clock
        with ExitStack() as opened:
            self._open_state(state, opened)
            self._http = self._build_http()
            opened.callback(self._http.stop)
            self._build_services(state)
            self._open_broker(opened)
            self._build_link_users()
            self._operators = OperatorService(self._database, settings=config.api, clock=clock)
            self._operators.write_local_token(state)
            self.first_operator_token = self._operators.create_first()  # Seen this once
            self._app = create_app(self._services(), config.api)
            self._announcer = self._build_announcer()
            self._workers = self._build_workers()
            self._opened = opened.pop_all()

    @property
    def dashboard_url(self) -> str:
        """Return where people look, on this machine."""
        host = self._config.http.host
        return _url("http", LOOPBACK if host in ANY_HOSTS else host, self._http.ports[0])

    @property
    def join_url(self) -> str:
        """Return where devices join."""
        return _url("https", self._public_host(), self._http.ports[1])

    @property
    def broker_url(self) -> str:
        """Return where devices send."""
        host, port = self._broker_address()
        return _url("mqtts", host or self._public_host(), port)

    def start(self) -> None:
        """Start everything; return when the hub answers."""
        for worker in self._workers:
            worker.start()
        self._link.start()
        self._http.start(self._app)
        log.info("hub.started", extra={"join_url": self.join_url, "broker_url": self.broker_url})

    def run(self, stop: threading.Event) -> None:
        """Watch over the parts until `stop` is set. Raises UnavailableError if one gave up."""
        while not stop.is_set():
            for worker in self._workers:
                if worker.fatal is not None:
                    raise worker.fatal
            if not self._http.is_alive:
                raise UnavailableError("http.ended", "The HTTP server ended.")
            self._clock.wait(stop, WATCH_S)

    def stop(self) -> None:
        """Stop everything that was started. A second call does nothing."""
        log.info("hub.stopping")
        self._app.state.live.close()
        self._http.stop()
        for worker in self._workers:
            worker.request_stop()
        for worker in self._workers:
            worker.stop()
        self._opened.close()

    def _open_state(self, state: Path, opened: ExitStack) -> None:
        raise_open_files_limit()
        make_private_folder(state)
        lock = FileLock(
            state / LOCK_NAME,
            code="hub.running",
            holder=f"Another hub runs with the state folder {state}",
        )
        opened.callback(lock.release)
        self._authority = Authority(
            state / "pki", host_names=self._config.host_names, clock=self._clock
        )
        self._database = Database(self._config.database or sqlite_url(state))
        opened.callback(self._database.close)
        self._database.migrate()

    def _build_services(self, state: Path) -> None:
        database, config, clock = self._database, self._config, self._clock
        self._devices = DeviceService(database, self._authority, clock, settings=config.devices)
        self._telemetry = TelemetryService(database, clock, config.telemetry)
        self._releases = build_release_service(
            database, state=state, clock=clock, settings=config.releases
        )
        self._releases.open()
        self._datasets = DatasetService(
            database,
            ObjectStore(objects_place(state, config.releases)),
            clock,
            config.datasets,
            folder=state / DATASETS,
        )
        self._datasets.open()
        self._collections = CollectionService(
            database,
            self._devices,
            self._datasets,
            clock,
            config.collection,
            folder=state / ARRIVALS,
        )
        self._collections.open()
        self._serving = ServingService(self._releases, clock, config.serving)
        self._superlink = SuperLinkProcess(
            state / LEARNING / SUPERLINK,
            ca_path=self._authority.ca_path,
            certificate_path=self._authority.server_certificate_path,
            key_path=self._authority.server_key_path,
            settings=config.learning,
            clock=clock,
        )
        self._training = TrainingService(
            database,
            self._devices,
            self._releases,
            self._superlink,
            clock,
            learning=state / LEARNING,
            settings=config.learning,
        )
        self._cloud_jobs = CloudJobService(
            database,
            self._datasets,
            self._releases,
            ObjectStore(objects_place(state, config.releases)),
            clock,
            folder=state / TRAINING,
            settings=config.training,
        )

    def _open_broker(self, opened: ExitStack) -> None:
        self._broker = self._build_broker()
        self._devices.attach_cutter(self._broker)
        opened.callback(self._broker.stop)
        self._broker.start()
        self._link = self._build_link()
        opened.callback(self._link.stop)

    def _build_link_users(self) -> None:
        """Build the parts that send or receive over the link."""
        link, clock = self._link, self._clock
        self._rollouts = RolloutController(
            self._database,
            self._devices,
            self._telemetry,
            self._releases,
            link,
            clock,
            self._training,
        )
        self._blocks = BlockServer(link, self._releases, clock, self._config.blocks)
        self._inbox = Inbox(
            link,
            devices=self._devices,
            telemetry=self._telemetry,
            rollouts=self._rollouts,
            blocks=self._blocks,
            clock=clock,
        )

    def _build_workers(self) -> list[Worker]:
        return [
            Worker(name, run, clock=self._clock)
            for name, run in (
                ("inbox", self._inbox.run),
                ("blocks", self._blocks.run),
                ("ticks", self._tick_until),
                ("learning", self._superlink.run),
                ("results", self._training.run_results),
                ("training", self._train_until),
                ("training results", self._cloud_jobs.run_results),
                ("serving", self._serving.run),
                ("housekeeping", self._keep_house_until),
                ("discovery", self._announce_until),
            )
        ]

    def _tick_until(self, stop: threading.Event) -> None:
        while not stop.is_set():
            # Jobs before rollouts: what they ask of devices goes out with the same Targets.
            for tick in (self._devices.tick, self._training.tick, self._rollouts.tick):
                try:
                    tick()
                except TransientError as error:
                    log.warning("tick.put_off", extra={"code": error.code, "text": error.message})
            self._clock.wait(stop, self._config.tick_s)

    def _train_until(self, stop: threading.Event) -> None:
        """Tick training runs. In a thread of its own: a slow disk must not hold up rollouts."""
        while not stop.is_set():
            try:
                self._cloud_jobs.tick()
            except TransientError as error:
                log.warning("training.put_off", extra={"code": error.code, "text": error.message})
            self._clock.wait(stop, self._config.tick_s)
        try:
            self._cloud_jobs.close()
        except TransientError as error:
            # Its leases run out by themselves.
            log.warning("training.not_given_back", extra={"code": error.code})

    def _keep_house_until(self, stop: threading.Event) -> None:
        while not stop.is_set():
            try:
                self._releases.refresh_online_metadata()
                self._telemetry.prune()
                self._datasets.sweep()
                self._collections.sweep()
                self._cloud_jobs.sweep()
            except TransientError as error:
                log.warning("housekeeping.put_off", extra={"code": error.code})
            self._clock.wait(stop, HOUSEKEEPING_S)

    def _announce_until(self, stop: threading.Event) -> None:
        """Answer who looks for hubs. In a thread of its own: to begin takes zeroconf seconds."""
        if self._announcer is not None:
            try:
                self._announcer.start()
            except TransientError as error:
                log.warning("discovery.off", extra={"code": error.code, "text": error.message})
        stop.wait()
        if self._announcer is not None:
            self._announcer.stop()

    def _status(self) -> HubStatus:
        parts = [PartStatus("broker link", is_good=self._link.is_connected)]
        parts += [
            PartStatus(
                worker.name,
                is_good=worker.is_alive,
                detail=f"restarted {counted(worker.crashes_count, 'time')}"
                if worker.crashes_count
                else "",
            )
            for worker in self._workers
        ]
        return HubStatus(
            parts=tuple(parts),
            messages_by_topic=dict(self._inbox.received),
            rejected_by_code=dict(self._inbox.rejected),
        )

    def _services(self) -> Services:
        host, port = self._broker_address()
        return Services(
            database=self._database,
            devices=self._devices,
            telemetry=self._telemetry,
            releases=self._releases,
            datasets=self._datasets,
            collections=self._collections,
            rollouts=self._rollouts,
            serving=self._serving,
            training=self._training,
            cloud_jobs=self._cloud_jobs,
            operators=self._operators,
            audit=AuditLog(self._database, clock=self._clock),
            hub=HubInfo(
                version=version("isthmus"),
                join_url=self.join_url,
                broker_url=self.broker_url,
                ca_fingerprint=self._authority.ca_fingerprint,
                started_ms=now_ms(self._clock),
            ),
            enrolment=EnrolmentInfo(
                ca_pem=self._authority.ca_pem,
                broker_port=port,
                broker_host=host,
                hub_name=self._config.name,
                hub_version=version("isthmus"),
            ),
            status=self._status,
            clock=self._clock,
        )

    def _build_broker(self) -> EmbeddedBroker | ExternalBroker:
        authority, config = self._authority, self._config
        if not config.broker:
            return EmbeddedBroker(
                BrokerSettings(
                    ca_path=str(authority.ca_path),
                    certificate_path=str(authority.server_certificate_path),
                    key_path=str(authority.server_key_path),
                    host=config.mqtt.host,
                    port=config.mqtt.port,
                ),
                is_allowed=self._devices.is_allowed,
            )
        host, port = parse_broker(config.broker)
        settings = ExternalBrokerSettings(
            host=host,
            port=port,
            ca_path=str(authority.ca_path),
            crl_source_path=str(authority.crl_path),
            crl_broker_path=config.broker_crl_path or None,
        )
        return ExternalBroker(settings, mint=self._mint, clock=self._clock)

    def _mint(self, device: DeviceId) -> Credential:
        certificate_pem, key_pem = self._authority.mint(device)
        return Credential(certificate_pem=certificate_pem, key_pem=key_pem)

    def _broker_address(self) -> tuple[str | None, int]:
        """Return the broker's host and port for devices; None: the host they reach the hub by."""
        if isinstance(self._broker, EmbeddedBroker):
            return None, self._broker.port
        return parse_broker(self._config.broker)

    def _build_link(self) -> PahoLink:
        host, port = self._broker_address()
        return PahoLink(
            settings=LinkSettings(
                host=host or LOOPBACK,
                port=port,
                ca_path=str(self._authority.ca_path),
                certificate_path=str(self._authority.hub_certificate_path),
                key_path=str(self._authority.hub_key_path),
                backoff_s_min=0.2,
                backoff_s_max=5.0,
            ),
            client=HUB_ID,
            filters=hub_filters(),
            clock=self._clock,
            with_last_will=False,
        )

    def _build_http(self) -> HttpServer:
        authority = self._authority
        return HttpServer(
            (
                Listener(self._config.http),
                Listener(
                    self._config.https,
                    certificate_path=authority.server_certificate_path,
                    key_path=authority.server_key_path,
                ),
            )
        )

    def _build_announcer(self) -> HubAnnouncer | None:
        if not self._config.announces_itself:
            return None
        return HubAnnouncer(
            self._config.name,
            port=self._http.ports[1],
            ca_fingerprint=self._authority.ca_fingerprint,
        )

    def _public_host(self) -> str:
        """Return the host under which devices are told to reach the hub."""
        if self._config.host_names:
            return self._config.host_names[0]
        host = self._config.https.host
        return socket.gethostname() if host in ANY_HOSTS else host


def _url(scheme: str, host: str, port: int) -> str:
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"
