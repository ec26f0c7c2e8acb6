"""20,000 records from a device to the hub, while kill -9 hits producer, broker and hub."""

import random
import signal
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from cloud_hub.sql_database import Database
from cloud_hub.telemetry import sql_store
from edge_agent.telemetry.sql_outbox import OutboxSettings, SqlOutbox
from shared.clock import SystemClock
from shared.ids import HUB_ID, DeviceId
from tests.support.brokers import MosquittoBench
from tests.support.enrolled import enrol, make_devices
from tests.support.pki import Pki
from tests.support.waiting import wait_until

ITEMS = 20_000
KILLS = 9


class Process:
    """A program of tests/support that can be killed and started again."""

    def __init__(self, program: str, *words: str) -> None:
        self._command = [sys.executable, "-m", f"tests.support.{program}", *words]
        self.start()

    def start(self) -> None:
        self._process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL)

    def kill(self) -> None:
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()

    def again(self) -> None:
        self.kill()
        self.start()


class Site:
    """Folders, certificates and the hub's database of one test."""

    def __init__(self, folder: Path, migrated_file: Path, pki: Pki) -> None:
        folder.mkdir()
        self.folder, self.pki = folder, pki
        self.database_url = f"sqlite:///{folder}/hub.db"
        (folder / "hub.db").write_bytes(migrated_file.read_bytes())
        self.database = Database(self.database_url)
        self.device = enrol(make_devices(self.database, folder, SystemClock()))
        for name in (HUB_ID, self.device):
            pki.issue(name)

    def start_producer(self, port: int) -> Process:
        return Process(
            "outbox_process",
            f"--folder={self.folder}",
            f"--items={ITEMS}",
            f"--device={self.device}",
            f"--port={port}",
            f"--pki={self.pki.folder}",
        )

    def start_hub(self, port: int, *words: str) -> Process:
        return Process(
            "hub_process",
            f"--state={self.folder}",
            f"--database={self.database_url}",
            f"--port={port}",
            f"--pki={self.pki.folder}",
            *words,
        )

    def watermark(self) -> int:
        with self.database.read() as connection:
            query = sa.select(sa.func.max(sql_store.streams.c.watermark))
            return connection.execute(query).scalar_one() or 0

    def rows(self) -> Counter[tuple[DeviceId, int, int]]:
        table = sql_store.decisions.c
        query = sa.select(table.device_id, table.sequence, table.item)
        with self.database.read() as connection:
            return Counter(tuple(row) for row in connection.execute(query))


@pytest.fixture
def site(tmp_path: Path, migrated_sqlite_file: Path) -> Iterator[Site]:
    pki = Pki(tmp_path / "pki")
    pki.issue("server", is_server=True)
    made = Site(tmp_path / "site", migrated_sqlite_file, pki)
    yield made
    made.database.close()


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1])
def test_every_record_arrives_once_through_mosquitto(
    tmp_path: Path, migrated_sqlite_file: Path, seed: int
) -> None:
    bench = MosquittoBench(tmp_path)

    def kill_broker() -> None:
        bench.kill()
        bench.restart()

    site = Site(tmp_path / "site", migrated_sqlite_file, bench.pki)
    hub, producer = site.start_hub(bench.port), site.start_producer(bench.port)
    try:
        _kill_on_the_way(site, [hub.again, producer.again, kill_broker], seed=seed)
        _wait_for_the_end(site)
    finally:
        producer.kill()
        hub.kill()
        bench.close()
        site.database.close()
    _assert_each_is_there_once(site)


@pytest.mark.slow
def test_every_record_arrives_once_through_the_hubs_own_broker(site: Site) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = int(probe.getsockname()[1])
    hub, producer = site.start_hub(port, "--embedded"), site.start_producer(port)
    try:
        _kill_on_the_way(site, [hub.again, producer.again], seed=2)
        _wait_for_the_end(site)
    finally:
        producer.kill()
        hub.kill()
    _assert_each_is_there_once(site)


def _kill_on_the_way(site: Site, kills: list[Callable[[], None]], *, seed: int) -> None:
    """Kill at random points of the way, each victim equally often; now and then two at once."""
    chance = random.Random(seed)
    victims = [kills[n % len(kills)] for n in range(KILLS)]
    chance.shuffle(victims)
    points = sorted(chance.sample(range(ITEMS * 9 // 10), KILLS))
    for point, kill in zip(points, victims, strict=True):
        wait_until(lambda point=point: site.watermark() >= point, seconds_max=40)
        kill()
        if chance.random() < 0.3:
            chance.choice(kills)()


def _wait_for_the_end(site: Site) -> None:
    wait_until(lambda: site.watermark() >= ITEMS, seconds_max=40)


def _assert_each_is_there_once(site: Site) -> None:
    expected = Counter({(site.device, item + 1, item): 1 for item in range(ITEMS)})
    assert site.rows() == expected
    outbox = SqlOutbox(site.folder / "outbox.db", OutboxSettings(), SystemClock())
    assert (outbox.last_sequence, outbox.dropped_count) == (ITEMS, 0)
    outbox.close()
