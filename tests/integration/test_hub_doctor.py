"""`cloud-hub doctor`: what it finds, whether the hub runs or not, and that it changes nothing."""

import socket
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from cloud_hub.config import HubConfig, ListenSettings
from cloud_hub.devices.x509_authority import Authority
from cloud_hub.doctor import examine
from cloud_hub.hub import LOCK_NAME
from cloud_hub.sql_database import Database, sqlite_url
from cloud_hub.training.settings import LearningHubSettings
from shared.file_lock import FileLock
from shared.findings import Finding, Level
from tests.support.commands import ANY_PORTS, type_in
from tests.support.manual_clock import ManualClock

HOST = "127.0.0.1"
DAY_S = 86_400.0
ANY = ListenSettings(host=HOST, port=0)
CONFIG = HubConfig(http=ANY, https=ANY, mqtt=ANY, host_names=(HOST,))


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(now_s=1_800_000_000.0)


@pytest.fixture
def state(tmp_path: Path, clock: ManualClock) -> Path:
    """What a hub leaves behind."""
    folder = tmp_path / "hub"
    folder.mkdir(mode=0o700)
    Authority(folder / "pki", host_names=(HOST,), clock=clock)
    database = Database(sqlite_url(folder))
    database.migrate()
    database.close()
    (folder / "keys" / "offline").mkdir(parents=True)
    return folder


@pytest.fixture
def busy() -> Iterator[int]:
    with closing(socket.create_server((HOST, 0))) as held:
        yield held.getsockname()[1]


def look(state: Path, clock: ManualClock, config: HubConfig = CONFIG) -> dict[str, Finding]:
    return {finding.topic: finding for finding in examine(state, config, clock)}


def test_a_hub_that_is_well_has_no_bad_finding(state: Path, clock: ManualClock) -> None:
    found = look(state, clock)
    assert {f.topic: f.text for f in found.values() if f.level is Level.BAD} == {}
    assert found["database"].text == "answers"
    assert (
        "for localhost" in found["server certificate"].text
        or HOST in found["server certificate"].text
    )


def test_every_finding_that_is_not_good_has_a_remedy(tmp_path: Path, clock: ManualClock) -> None:
    for folder in (tmp_path, tmp_path / "none"):
        for finding in look(folder, clock).values():
            assert finding.remedy or finding.level is Level.GOOD, finding


def test_a_folder_that_is_not_there(tmp_path: Path, clock: ManualClock) -> None:
    found = look(tmp_path / "none", clock)
    assert found["state folder"].level is Level.WARNING
    assert not (tmp_path / "none").exists()


def test_a_hub_that_runs_is_seen_by_its_lock(state: Path, clock: ManualClock, busy: int) -> None:
    config = HubConfig(http=ListenSettings(host=HOST, port=busy), https=ANY, mqtt=ANY)
    lock = FileLock(state / LOCK_NAME, code="hub.running", holder="A test")
    found = look(state, clock, config)
    assert found["hub"].level is Level.GOOD
    assert f"port {busy}" not in found, "it is the hub itself that holds its ports"
    lock.release()
    found = look(state, clock, config)
    assert found["hub"].level is Level.WARNING
    assert found[f"port {busy}"].level is Level.BAD
    assert "--http" in found[f"port {busy}"].remedy


def test_offline_keys_that_lie_here_are_a_warning(state: Path, clock: ManualClock) -> None:
    assert look(state, clock)["offline keys"].level is Level.GOOD
    key = state / "keys" / "offline" / "root-1.pem"
    key.write_text("x")
    key.chmod(0o600)
    assert look(state, clock)["offline keys"].level is Level.WARNING


def test_a_key_that_others_can_read_is_bad(state: Path, clock: ManualClock) -> None:
    key = state / "pki" / "ca.key"
    key.chmod(0o644)
    found = look(state, clock)["private keys"]
    assert found.level is Level.BAD
    assert found.remedy == f"chmod 600 {key}"


@pytest.mark.parametrize(
    ("days", "level"), [(0, Level.GOOD), (380, Level.WARNING), (2000, Level.BAD)]
)
def test_a_certificate_that_ends(state: Path, clock: ManualClock, days: int, level: Level) -> None:
    clock.advance(days * DAY_S)
    assert look(state, clock)["server certificate"].level is level


def test_a_certificate_that_is_none(state: Path, clock: ManualClock) -> None:
    (state / "pki" / "server.crt").write_text("junk")
    assert look(state, clock)["server certificate"].level is Level.BAD


def test_a_database_that_cannot_be_used(state: Path, clock: ManualClock) -> None:
    (state / "hub.db").write_bytes(b"junk" * 1000)
    assert look(state, clock)["database"].level is Level.BAD
    (state / "hub.db").unlink()
    assert look(state, clock)["database"].level is Level.WARNING
    assert not (state / "hub.db").exists()
    for url in ("postgresql+psycopg://x@127.0.0.1:1/y", "mysql://x/y"):
        found = look(state, clock, HubConfig(http=ANY, https=ANY, mqtt=ANY, database=url))
        assert found["database"].level is Level.BAD


def test_a_broker_elsewhere_is_asked(state: Path, clock: ManualClock, busy: int) -> None:
    def config(port: int) -> HubConfig:
        return HubConfig(http=ANY, https=ANY, broker=f"mqtts://{HOST}:{port}")

    assert look(state, clock, config(busy))["broker"].level is Level.GOOD
    with closing(socket.create_server((HOST, 0))) as closed:
        port = closed.getsockname()[1]
    assert look(state, clock, config(port))["broker"].level is Level.BAD


def test_learning_is_looked_at_where_it_is_installed(
    state: Path, clock: ManualClock, busy: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def config(port: int) -> HubConfig:
        learning = LearningHubSettings(host=HOST, port=port)
        return HubConfig(http=ANY, https=ANY, mqtt=ANY, learning=learning)

    found = look(state, clock, config(busy))
    assert found["learning"].level is Level.GOOD
    assert found[f"port {busy}"].level is Level.BAD
    assert "--learning" in found[f"port {busy}"].remedy
    monkeypatch.setitem(sys.modules, "flwr", None)  # As on a hub without it
    found = look(state, clock, config(busy))
    assert found["learning"].level is Level.WARNING
    assert "flwr missing" in found["learning"].text
    assert "isthmus[hub,train]" in found["learning"].remedy
    assert f"port {busy}" not in found, "nobody will listen there"


@pytest.mark.slow
def test_the_command_ends_with_7_if_something_is_bad(state: Path, busy: int) -> None:
    words = ("doctor", "--state", state, *ANY_PORTS)
    good = type_in("cloud-hub", *words)
    assert good.code == 0, good.out
    assert "ok    database: answers" in good.out
    said = type_in("cloud-hub", *words, "--http", f"{HOST}:{busy}", "--json")
    assert said.code == 7
    assert said.json["is_good"] is False
    bad = [f for f in said.json["findings"] if f["level"] == "bad"]
    assert [f["topic"] for f in bad] == [f"port {busy}"]
    assert len(said.out.splitlines()) == 1
