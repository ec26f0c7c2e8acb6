"""A hub's releases for tests, and a device that fetches them: both real, in one process."""

import shutil
import threading
from dataclasses import dataclass
from pathlib import Path

from cloud_hub.releases.service import ReleaseService, ReleaseSettings, build_release_service
from cloud_hub.sql_database import Database
from edge_agent.updates.release_source import FetchedRelease
from edge_agent.updates.repository_source import RepositorySource
from edge_agent.updates.transfer import BlockTransfer, TransferSettings
from edge_agent.updates.tuf_verifier import TufVerifier
from shared.clock import Clock, SystemClock
from shared.wire.target import TargetRelease
from tests.support import tiny_models as tiny
from tests.support.manual_clock import ManualClock
from tests.support.repository_peer import RepositoryPeer

LARGE = 9000  # Hidden width of a model of 2.4 MB: 37 blocks


def open_hub(
    state: Path,
    database: Database,
    *,
    clock: Clock | None = None,
    settings: ReleaseSettings | None = None,
) -> ReleaseService:
    """Return the opened release service over a state folder."""
    service = build_release_service(
        database,
        state=state,
        clock=clock or SystemClock(),
        settings=settings or ReleaseSettings(),
    )
    service.open()
    return service


def add(service: ReleaseService, *, seed: int = 1, hidden: int = 16) -> TargetRelease:
    """Publish a classifier; return how a Target names it."""
    release = service.add(
        model_bytes=tiny.classifier(seed, hidden=hidden).SerializeToString(),
        spec_bytes=tiny.SPEC.encode(),
        golden_bytes=None,
        metrics={"accuracy": 0.9},
        notes="",
        lineage_id=None,
    )
    return TargetRelease(
        model=release.model,
        version=release.version,
        manifest_digest=release.manifest_digest,
        rollout="roll-test",
    )


def copy_state(template: Path, state: Path) -> None:
    """Copy a hub's state folder: tests may damage theirs."""
    shutil.copytree(template, state)


@dataclass
class TestDevice:
    """A device's half, with every part in reach."""

    __test__ = False

    folder: Path
    peer: RepositoryPeer
    transfer: BlockTransfer
    source: RepositorySource
    shares: list[float]

    @property
    def slot(self) -> Path:
        return self.folder / "slot"

    def fetch(
        self, release: TargetRelease, *, stop: threading.Event | None = None
    ) -> FetchedRelease:
        return self.source.fetch(
            release,
            self.slot,
            on_progress=self.shares.append,
            stop=stop or threading.Event(),
        )


def make_device(
    folder: Path,
    peer: RepositoryPeer,
    *,
    bootstrap: bytes | None = None,
    settings: TransferSettings | None = None,
    precisions: tuple[str, ...] | None = None,
) -> TestDevice:
    """Return a device over `peer`; what lies in `folder` from an earlier life is kept."""
    transfer = BlockTransfer(peer.publish, ManualClock(), settings)
    peer.connect(transfer)
    verifier = TufVerifier(
        transfer, folder=folder / "tuf", bootstrap=bootstrap or peer.releases.bootstrap_root()
    )
    source = RepositorySource(transfer, verifier, precisions=precisions)
    return TestDevice(folder, peer, transfer, source, [])
