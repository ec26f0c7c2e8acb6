"""The updater over the real repository: TUF metadata, signed targets, blocks over the codec."""

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from cloud_hub.releases.service import ReleaseService
from cloud_hub.sql_database import Database
from edge_agent.updates.journal import Slot
from shared.release.receipt import ReceiptOutcome
from shared.wire.report import UpdateState
from shared.wire.target import TargetRelease, TrialPolicy
from tests.support.release_hub import make_device, open_hub
from tests.support.repository_peer import RepositoryPeer
from tests.support.tiny_items import SAMPLES
from tests.support.tiny_releases import CLASSES, Kind, artifact_of
from tests.support.updater_bench import Bench

pytestmark = pytest.mark.slow

SPEC = f"""
model = "tones"
task = "classification"
input = {{ kind = "window", samples = {SAMPLES} }}
output = {{ decoder = "logits", classes = {list(CLASSES)} }}
""".encode()


@pytest.fixture
def hub(tmp_path: Path, migrated_sqlite_file: Path) -> Iterator[ReleaseService]:
    state = tmp_path / "hub"
    state.mkdir()
    (state / "hub.db").write_bytes(migrated_sqlite_file.read_bytes())
    database = Database(f"sqlite:///{state}/hub.db")
    yield open_hub(state, database)
    database.close()


@pytest.fixture
def peer(hub: ReleaseService) -> RepositoryPeer:
    return RepositoryPeer(hub)


def add(hub: ReleaseService, kind: Kind) -> TargetRelease:
    release = hub.add(
        model_bytes=artifact_of(kind),
        spec_bytes=SPEC,
        golden_bytes=None,
        metrics={},
        notes="",
        lineage_id=None,
    )
    return TargetRelease(
        model=release.model,
        version=release.version,
        manifest_digest=release.manifest_digest,
        rollout=f"roll-{release.version}",
        trial=TrialPolicy(items_min=30),
    )


def device(folder: Path, peer: RepositoryPeer) -> Bench:
    """Return a process of a device over `peer`; the next one finds what this one left."""
    return Bench(folder / "state", folder, source=make_device(folder, peer).source).start()


def test_releases_settle_and_are_taken_back_over_the_real_repository(
    tmp_path: Path, hub: ReleaseService, peer: RepositoryPeer
) -> None:
    bench = device(tmp_path / "device", peer)
    bench.target(add(hub, Kind.GOOD), revision=1)
    bench.settle()
    assert (bench.serving, bench.model.failure) == (1, None)
    bench.target(add(hub, Kind.BETTER), revision=2)
    bench.settle()
    assert (bench.serving, bench.model.failure) == (2, None)
    bench.target(add(hub, Kind.DAMAGED), revision=3)
    bench.settle()
    assert bench.serving == 2
    assert bench.model.failure is not None
    assert bench.model.failure.code == "trial.disagreement"
    assert bench.receipt is not None
    assert bench.receipt.outcome is ReceiptOutcome.UNDONE


def test_a_device_whose_link_is_down_starts_with_what_it_settled(
    tmp_path: Path, hub: ReleaseService, peer: RepositoryPeer
) -> None:
    bench = device(tmp_path / "device", peer)
    bench.target(add(hub, Kind.GOOD), revision=1)
    bench.settle()
    peer.is_down = True
    again = device(tmp_path / "device", peer)
    assert again.serving == 1
    again.target(add(hub, Kind.BETTER), revision=2)
    again.step(items=10)
    assert (again.serving, again.model.state) == (1, UpdateState.FETCHING)
    peer.is_down = False
    back = device(tmp_path / "device", peer)
    assert back.serving == 1
    back.settle()
    assert back.serving == 2


def test_a_tampered_artifact_on_the_disk_is_lost_and_fetched_again(
    tmp_path: Path, hub: ReleaseService, peer: RepositoryPeer
) -> None:
    bench = device(tmp_path / "device", peer)
    bench.target(add(hub, Kind.GOOD), revision=1)
    bench.settle()
    artifact = bench.slots.path("tones", Slot.A) / "model.onnx"
    artifact.write_bytes(artifact.read_bytes()[:-1] + b"?")
    again = device(tmp_path / "device", peer)
    assert again.serving == 0
    assert again.model.failure is not None
    assert again.model.failure.code == "release.digest"
    again.settle()
    assert again.serving == 1
    assert again.receipt is not None


def test_a_release_that_was_never_signed_is_refused(
    tmp_path: Path, hub: ReleaseService, peer: RepositoryPeer
) -> None:
    bench = device(tmp_path / "device", peer)
    bench.target(add(hub, Kind.GOOD), revision=1)
    bench.settle()
    forged = msgspec.structs.replace(
        add(hub, Kind.BETTER), manifest_digest="f" * 64, rollout="roll-forged"
    )
    bench.target(forged, revision=2)
    bench.settle()
    assert (bench.serving, bench.model.state) == (1, UpdateState.REFUSED)
    assert bench.model.failure is not None
    assert bench.model.failure.code == "release.digest"
