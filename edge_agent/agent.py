"""Agent: the composition root. Builds adapters, joins parts, owns the order of start and stop.

1. One agent per state folder: a second one is refused.
2. Start: what was settled serves before any network is touched; then pipelines, then the link.
3. Stop: pipelines first, so that the outbox gets what they still have to say; then the parts that
   talk to the hub; the link says goodbye last.
4. What was opened is closed again, also when the agent cannot be built to its end.
5. A part that dies is restarted by its Worker; one that says UnavailableError ends the agent.
6. Learning is a process of its own, looked after by a part that nothing else waits for.
7. The part that sends samples is there only where the owner's file says so; nothing waits for it.
"""

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path
from urllib.parse import urlsplit

from edge_agent.config import AgentConfig
from edge_agent.device_numbers import DeviceNumbers
from edge_agent.file_status import LOCK_NAME, StatusFile
from edge_agent.inference.active_model import ActiveModel
from edge_agent.inference.fit import strictest
from edge_agent.inference.golden_proof import prove_golden
from edge_agent.inference.procfs_memory import hand_back_memory, limit_arenas, pad_heap
from edge_agent.inference.session_loader import session_loader
from edge_agent.local_view import LocalView
from edge_agent.pipeline_book import PipelineBook, open_book
from edge_agent.pipelines import Pipelines
from edge_agent.sharing.building import build_sharer
from edge_agent.telemetry.events import OperatorEvents
from edge_agent.telemetry.numbers import AgentNumbers
from edge_agent.telemetry.publisher import Publisher
from edge_agent.telemetry.sql_outbox import SqlOutbox
from edge_agent.training.admission import Admission
from edge_agent.training.file_node_folder import NodeFolder
from edge_agent.training.learner import Learner, NodeIdentity
from edge_agent.training.node_files import FOLDER
from edge_agent.training.process_node import NodeProcess, missing_modules, node_command
from edge_agent.training.procfs_power import ProcfsPower
from edge_agent.updates.file_journal import FileJournal, FileTarget
from edge_agent.updates.file_slots import FileSlots
from edge_agent.updates.fit_building import build_fitter, what_to_bring
from edge_agent.updates.receipts import ReceiptMaker
from edge_agent.updates.repository_source import RepositorySource
from edge_agent.updates.transfer import BlockTransfer
from edge_agent.updates.tuf_verifier import TufVerifier
from edge_agent.updates.updater import Updater
from edge_agent.uplink.announcer import Announcer
from edge_agent.uplink.file_identity import FileIdentity
from edge_agent.uplink.procfs_machine import read_boot_id, read_hardware
from edge_agent.uplink.renewal import Renewal
from edge_agent.uplink.target_inbox import TargetInbox
from shared.clock import Clock
from shared.durable_file import make_folder, make_private_folder
from shared.file_lock import FileLock
from shared.link.paho_link import LinkSettings, PahoLink
from shared.pipeline.pipeline import PipelineLimits
from shared.release.receipt import sign_receipt
from shared.wire.blocks import BlockRequest
from shared.wire.presence import Presence
from shared.wire.records import EventRecord
from shared.wire.report import Report
from shared.wire.target import Target
from shared.wire.topics import device_filters
from shared.worker import Worker

log = logging.getLogger(__name__)

TICK_S = 0.5


class Agent:
    """Everything that runs on one device. `run` once."""

    def __init__(self, config: AgentConfig, state: Path, clock: Clock) -> None:
        """Build every part; nothing runs and nothing is sent yet.

        Args: state: the folder of this agent, which has joined a hub.

        Raises RefusedError `identity.missing` or another of the identity's; UnavailableError
        `agent.running`, `state.unusable`; TransientError `disk.write_failed`.
        """
        limit_arenas()
        pad_heap()
        self._config = config
        self._clock = clock
        self._last: AgentNumbers | None = None  # Of the last tick
        with ExitStack() as opened:
            self._open_state(state, opened)
            self._build_parts(state)
            self._opened = opened.pop_all()

    def run(self, stop: threading.Event) -> None:
        """Serve until `stop` is set. Raises UnavailableError if a part cannot go on."""
        log.info("agent.starting", extra={"device": self._device})
        try:
            self._updater.start()
            self._events.begin(
                self._updater.report().models, outbox_dropped=self._outbox.dropped_count
            )
            self._pipelines.follow(self._open_book())
            for worker in self._workers:
                worker.start()
            self._link.start()
            self._view.start()
            hand_back_memory()  # What only starting needed
            log.info("agent.started", extra={"device": self._device})
            self._tick_until(stop)
        finally:
            self._stop()

    def _tick_until(self, stop: threading.Event) -> None:
        host_s = self._clock.monotonic_s()
        while not stop.is_set():
            self._pipelines.follow(self._open_book())
            self._pipelines.tick()
            now_s = self._clock.monotonic_s()
            report = self._updater.report()
            self._last = self._numbers.read()
            self._tell_events(report, self._last, now_s)
            if now_s - host_s >= self._config.telemetry.host_s:
                host_s = now_s
                self._tell_host(now_s)
            self._status.write(
                report=report,
                device=self._device,
                hub_url=self._identity.hub.url,
                is_connected=self._link.is_connected,
                outbox=self._outbox,
                crashes={worker.name: worker.crashes_count for worker in self._workers},
                now_s=self._clock.now_s(),
                numbers=self._last,
                servers=self._view.servers,
            )
            for worker in self._workers:
                if worker.fatal is not None:
                    raise worker.fatal
            self._clock.wait(stop, TICK_S)

    def _tell_events(self, report: Report, numbers: AgentNumbers, now_s: float) -> None:
        standings = self._pipelines.standings()
        for event in (
            *self._events.of_pipelines(standings, now_s=now_s),
            *self._events.of_models(report.models),
            *self._events.of_workers(numbers.workers, now_s=now_s),
        ):
            self._tell(event)

    def _tell_host(self, now_s: float) -> None:
        host = self._numbers.read_for_hub()
        self._outbox.append(host)
        dropped_count = self._outbox.dropped_count
        for event in self._events.of_host(host, outbox_dropped=dropped_count, now_s=now_s):
            self._tell(event)

    def _tell(self, event: EventRecord) -> None:
        log.info("event.told", extra={"code": event.code, "text": event.text})
        self._outbox.append(event)

    def _stop(self) -> None:
        log.info("agent.stopping", extra={"device": self._device})
        self._view.stop()
        self._pipelines.stop()
        for worker in reversed(self._workers):
            worker.request_stop()
        for worker in reversed(self._workers):
            worker.stop()
        self._link.stop()
        self._opened.close()

    def _open_state(self, state: Path, opened: ExitStack) -> None:
        make_private_folder(state)
        make_folder(state / "run", mode=0o700)
        lock = FileLock(
            state / "run" / LOCK_NAME,
            code="agent.running",
            holder=f"Another agent runs with the state folder {state}",
        )
        opened.callback(lock.release)
        self._identity = FileIdentity(state / "identity")
        self._identity.check()
        self._device = self._identity.device_id
        self._outbox = SqlOutbox(state / "outbox.db", self._config.outbox, self._clock)
        opened.callback(self._outbox.close)
        self._status = StatusFile(state / "run")
        opened.callback(self._status.remove)

    def _build_parts(self, state: Path) -> None:
        config, clock = self._config, self._clock
        self._models = {name: ActiveModel(name) for name in config.models}
        self._book = open_book(config.pipelines, config.remote, None)
        self._book_target: Target | None = None
        self._events = OperatorEvents(disk_free_bytes_min=config.updates.free_bytes_min)
        self._view = LocalView(config, state / "identity", lambda: self._last)
        self._link = self._build_link()
        self._publisher = Publisher(self._outbox, self._link, self._device, clock, config.publisher)
        self._transfer = BlockTransfer(self._request_blocks, clock, config.transfer)
        self._pipelines = Pipelines(
            self._models,
            device=self._device,
            live=self._view.live,
            outbox=self._outbox,
            telemetry=config.telemetry,
            clock=clock,
            lanes=config.inference.lanes,
        )
        self._numbers = DeviceNumbers(state, self._models, self._pipelines.numbers, clock)
        self._learner = self._build_learner(state)
        self._updater = self._build_updater(state)
        self._renewal = Renewal(self._identity, self._link, clock=clock)
        self._announcer = self._build_announcer()
        self._inbox = TargetInbox(
            self._link,
            updater=self._updater,
            publisher=self._publisher,
            transfer=self._transfer,
            renewal=self._renewal,
            announcer=self._announcer,
        )
        # In the order of start; stopped the other way round.
        self._workers = [
            Worker(name, run, clock=clock)
            for name, run in (
                ("outbox", self._outbox.run),
                ("inbox", self._inbox.run),
                ("publisher", self._publisher.run),
                ("announcer", self._announcer.run),
                ("renewal", self._renewal.run),
                ("updater", self._updater.run),
                ("learner", self._learner.run),
                *self._sharing(state),
            )
        ]

    def _sharing(self, state: Path) -> Iterator[tuple[str, Callable[[threading.Event], None]]]:
        """Yield the part that sends samples, where the owner has any sent."""
        settings = self._config.sharing
        if settings is not None:
            power = ProcfsPower(self._clock)
            sharer = build_sharer(settings, state, self._identity, power, self._clock)
            yield "sharing", sharer.run

    def _open_book(self) -> PipelineBook:
        """Return which pipelines are to run now; made anew only when the Target is another."""
        target = self._updater.target
        if self._book_target is not target:
            self._book = open_book(self._config.pipelines, self._config.remote, target)
            self._book_target = target
        return self._book

    def _limits(self, model: str) -> PipelineLimits:
        """Return what `model` may cost, by the strictest of the pipelines that use it."""
        pipelines = self._open_book().pipelines
        return strictest(pipeline.limits for pipeline in pipelines if pipeline.model == model)

    def _config_digest(self, model: str) -> str:
        return self._open_book().digest_for(model)

    def _request_blocks(self, request: BlockRequest) -> None:
        self._link.publish(self._device, request)

    def _build_link(self) -> PahoLink:
        hub, link = self._identity.hub, self._config.link
        return PahoLink(
            settings=LinkSettings(
                host=hub.broker_host,
                port=hub.broker_port,
                ca_path=str(self._identity.ca_path),
                certificate_path=str(self._identity.certificate_path),
                key_path=str(self._identity.key_path),
                keepalive_s=link.keepalive_s,
                backoff_s_min=link.backoff_s_min,
                backoff_s_max=link.backoff_s_max,
            ),
            client=self._device,
            filters=device_filters(self._device),
            clock=self._clock,
            with_last_will=True,
        )

    def _build_announcer(self) -> Announcer:
        birth = Presence(
            is_online=True,
            reason="started",
            agent_version=version("isthmus"),
            boot_id=read_boot_id(),
            hardware=read_hardware(),
        )
        return Announcer(
            self._link,
            self._device,
            birth=birth,
            updater=self._updater,
            outbox=self._outbox,
            clock=self._clock,
        )

    def _build_learner(self, state: Path) -> Learner:
        identity, settings = self._identity, self._config.learning
        folder = NodeFolder(state / FOLDER)
        return Learner(
            settings,
            identity=NodeIdentity(
                device=self._device,
                hub_host=urlsplit(identity.hub.url).hostname or "",
                ca_path=identity.ca_path,
                key_path=identity.key_path,
            ),
            folder=folder,
            target=lambda: self._updater.target,
            admission=Admission(
                settings,
                folder=folder.path,
                key_path=identity.key_path,
                power=ProcfsPower(self._clock),
                missing=missing_modules,
                clock=self._clock,
            ),
            process=NodeProcess(node_command(folder.path)),
            clock=self._clock,
        )

    def _build_updater(self, state: Path) -> Updater:
        settings = self._config.updates
        verifier = TufVerifier(self._transfer, folder=state / "tuf", bootstrap=self._identity.root)
        return Updater(
            models=self._models,
            source=RepositorySource(
                self._transfer,
                verifier,
                worth_trying=what_to_bring(self._limits, bytes_max=settings.fit_bytes_max),
            ),
            fitter=build_fitter(
                self._config.inference,
                self._limits,
                read_hardware(),
                self._clock,
                bytes_max=settings.fit_bytes_max,
            ),
            load_session=session_loader(self._config.inference, self._clock),
            prove_golden=prove_golden,
            slots=FileSlots(state / "releases", free_bytes_min=settings.free_bytes_min),
            journals=FileJournal(state / "journal"),
            target_file=FileTarget(state / "target.json"),
            receipts=ReceiptMaker(
                device=self._device,
                boot_id=read_boot_id(),
                sign=lambda receipt: sign_receipt(receipt, self._identity.key),
                config_digest=self._config_digest,
                clock=self._clock,
            ),
            pipelines=self._pipelines.reports,
            learning=self._learner.reports,
            clock=self._clock,
            settings=settings,
        )
