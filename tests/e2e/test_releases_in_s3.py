"""Releases in S3: published there, served from there, whole after kill -9 at any write."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloud_hub.object_store import ObjectStore
from cloud_hub.releases.service import ReleaseSettings
from cloud_hub.sql_database import Database, sqlite_url
from shared.errors import TransientError
from shared.wire.target import TargetRelease
from tests.support.fleet_story import wait_for
from tests.support.http_streams import free_port
from tests.support.real_fleet import RealAgent, RealHub
from tests.support.release_hub import make_device, open_hub
from tests.support.repository_peer import RepositoryPeer
from tests.support.s3_server import S3Server
from tests.support.tiny_releases import Kind

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("processes")]
WRITES = 9  # Of a publication, at most; the test says if there are more


@pytest.fixture
def place(s3_server: S3Server) -> str:
    return s3_server.new_place()


@pytest.fixture
def hub(tmp_path: Path, place: str) -> Iterator[RealHub]:
    with RealHub(tmp_path, settings=f'[releases]\nobjects = "{place}"\n') as started:
        yield started


def test_a_device_gets_from_the_hub_what_lies_in_s3(
    tmp_path: Path, hub: RealHub, place: str
) -> None:
    agent = RealAgent("one", tmp_path, hub)
    agent.start()
    first = hub.add_release(Kind.GOOD, padding_bytes=300_000)
    wait_for(hub, hub.roll_out(first), "done")
    assert any(path.endswith(".onnx") for path in ObjectStore(place).paths("targets"))
    assert not (hub.state / "repository").exists()
    hub.kill()
    hub.start()
    second = hub.add_release(Kind.BETTER)
    wait_for(hub, hub.roll_out(second), "done")
    assert hub.model_on(agent.device)["version"] == second == first + 1


def test_kill_9_at_any_write_leaves_a_repository_that_goes_on(tmp_path: Path, place: str) -> None:
    database = Database(sqlite_url(tmp_path))
    database.migrate()
    settings = ReleaseSettings(objects=place)
    open_hub(tmp_path, database, settings=settings)
    for cut_at in range(WRITES + 1):
        words = [str(tmp_path), f"sqlite:///{tmp_path}/hub.db", json.dumps(cut_at), place]
        command = [sys.executable, "-m", "tests.support.publish_process", *words]
        done = subprocess.run(command, check=False, timeout=60)
        hub = open_hub(tmp_path, database, settings=settings)
        if hub.releases():
            break
        assert done.returncode == -signal.SIGKILL
    assert 1 < cut_at < WRITES, "the timestamp, which is the last write, makes it be there"
    (release,) = hub.releases()
    target = TargetRelease(
        model=release.model,
        version=release.version,
        manifest_digest=release.manifest_digest,
        rollout="roll-test",
    )
    device = make_device(tmp_path / "device", RepositoryPeer(hub))
    assert device.fetch(target).manifest.version == 1
    database.close()


def test_a_store_that_cannot_be_reached_is_said_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in S3Server(free_port()).environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(TransientError) as raised:
        ObjectStore("s3://fleet/x").get("metadata/root.json")
    assert raised.value.code == "object_store.failed"
    assert "AWS_ENDPOINT" in raised.value.remedy
