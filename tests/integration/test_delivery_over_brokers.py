"""A release from the hub's block server to a device's disk, over each kind of broker."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloud_hub.inbox.block_server import BlockServer
from cloud_hub.releases.service import ReleaseService
from cloud_hub.sql_database import Database
from edge_agent.updates.repository_source import RepositorySource
from edge_agent.updates.transfer import BlockTransfer
from edge_agent.updates.tuf_verifier import TufVerifier
from shared.clock import SystemClock
from shared.ids import HUB_ID, DeviceId
from shared.link.link import Connected, Delivery, Link
from shared.release.digest import digest_of_file
from shared.wire.blocks import Block, BlockRequest
from tests.support.brokers import AmqttBench, Bench, MemoryBench, MosquittoBench
from tests.support.release_hub import LARGE, add, open_hub

pytestmark = pytest.mark.slow

DEVICE = DeviceId("dev-one")


@pytest.fixture(params=["memory", "amqtt", "mosquitto"])
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bench]:
    kinds = {"amqtt": AmqttBench, "mosquitto": MosquittoBench}
    folder = tmp_path / "broker"
    folder.mkdir()
    made: Bench = MemoryBench() if request.param == "memory" else kinds[request.param](folder)
    yield made
    made.close()


@pytest.fixture
def hub(tmp_path: Path, migrated_sqlite_file: Path) -> Iterator[ReleaseService]:
    (tmp_path / "hub.db").write_bytes(migrated_sqlite_file.read_bytes())
    database = Database(f"sqlite:///{tmp_path}/hub.db")
    yield open_hub(tmp_path / "state", database)
    database.close()


class Threads:
    """Threads that end with the test."""

    def __init__(self) -> None:
        self.stop = threading.Event()
        self._threads: list[threading.Thread] = []

    def start(self, target: object, *args: object) -> None:
        thread = threading.Thread(target=target, args=args)  # type: ignore[arg-type]
        thread.start()
        self._threads.append(thread)

    def end(self) -> None:
        self.stop.set()
        for thread in self._threads:
            thread.join(10)
            assert not thread.is_alive()


@pytest.fixture
def threads() -> Iterator[Threads]:
    made = Threads()
    yield made
    made.end()


def serve(link: Link, server: BlockServer, stop: threading.Event) -> None:
    """What the hub's inbox does with block requests."""
    while not stop.is_set():
        for arrival in link.arrivals(wait_s=0.1):
            if isinstance(arrival, Delivery) and isinstance(arrival.received.message, BlockRequest):
                server.request(arrival.received.device, arrival.received.message)
            link.acknowledge(arrival)
            if stop.is_set():
                break


def take(
    link: Link, transfer: BlockTransfer, connected: threading.Event, stop: threading.Event
) -> None:
    """What the device's inbox does with blocks."""
    while not stop.is_set():
        for arrival in link.arrivals(wait_s=0.1):
            match arrival:
                case Connected():
                    connected.set()
                case Delivery(received=received) if isinstance(received.message, Block):
                    transfer.deliver(received.message)
                case _:
                    pass
            link.acknowledge(arrival)
            if stop.is_set():
                break


def test_a_release_travels_over_the_broker(
    bench: Bench, hub: ReleaseService, threads: Threads, tmp_path: Path
) -> None:
    target = add(hub, hidden=LARGE)
    clock, connected = SystemClock(), threading.Event()
    hub_link, device_link = bench.link(HUB_ID), bench.link(DEVICE)
    server = BlockServer(hub_link, hub, clock)
    transfer = BlockTransfer(lambda request: device_link.publish(DEVICE, request), clock)
    threads.start(server.run, threads.stop)
    threads.start(serve, hub_link, server, threads.stop)
    threads.start(take, device_link, transfer, connected, threads.stop)
    hub_link.start()
    device_link.start()
    assert connected.wait(10)
    verifier = TufVerifier(transfer, folder=tmp_path / "tuf", bootstrap=hub.bootstrap_root())
    source = RepositorySource(transfer, verifier)
    fetched = source.fetch(
        target, tmp_path / "slot", on_progress=lambda _share: None, stop=threads.stop
    )
    assert digest_of_file(fetched.artifact_path) == fetched.variant.artifact.digest
    assert source.reopen(tmp_path / "slot") == fetched
