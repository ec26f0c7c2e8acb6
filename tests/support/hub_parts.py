"""The hub's services and inbox over any link: what `cloud-hub serve` joins, without the API."""

from dataclasses import dataclass
from pathlib import Path

from cloud_hub.devices.service import DeviceService
from cloud_hub.inbox.block_server import BlockServer, BlockServerSettings
from cloud_hub.inbox.inbox import Inbox
from cloud_hub.releases.service import ReleaseService, ReleaseSettings, build_release_service
from cloud_hub.rollouts.controller import RolloutController
from cloud_hub.sql_database import Database
from cloud_hub.telemetry.service import TelemetryService
from shared.clock import Clock
from shared.link.link import Link
from tests.support.enrolled import make_devices


@dataclass(frozen=True)
class HubParts:
    devices: DeviceService
    telemetry: TelemetryService
    releases: ReleaseService
    rollouts: RolloutController
    blocks: BlockServer
    inbox: Inbox


def make_hub_parts(
    database: Database,
    state: Path,
    link: Link,
    clock: Clock,
    *,
    block_settings: BlockServerSettings | None = None,
) -> HubParts:
    """Return the parts; nothing runs yet, and the release repository is not opened."""
    devices = make_devices(database, state, clock)
    telemetry = TelemetryService(database, clock)
    releases = build_release_service(database, state=state, clock=clock, settings=ReleaseSettings())
    rollouts = RolloutController(database, devices, telemetry, releases, link, clock)
    blocks = BlockServer(link, releases, clock, block_settings)
    inbox = Inbox(
        link,
        devices=devices,
        telemetry=telemetry,
        rollouts=rollouts,
        blocks=blocks,
        clock=clock,
    )
    return HubParts(devices, telemetry, releases, rollouts, blocks, inbox)
