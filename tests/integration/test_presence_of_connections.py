"""Presence as the hub sees it while a device's connection is lost and comes back by itself."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cloud_hub.devices.presence import PresenceState
from cloud_hub.devices.service import DeviceService
from cloud_hub.devices.x509_authority import Authority
from cloud_hub.sql_database import Database
from shared.ids import HUB_ID, DeviceId
from shared.link.link import Connected, Delivery, Link
from shared.wire.codec import Received
from shared.wire.presence import Presence
from tests.support.brokers import AmqttBench, Bench, MemoryBench, MosquittoBench
from tests.support.enrolled import enrol
from tests.support.waiting import wait_until

BENCHES: dict[str, Callable[[Path], Bench]] = {
    "memory": lambda _folder: MemoryBench(),
    "amqtt": AmqttBench,
    "mosquitto": MosquittoBench,
}
BIRTH = Presence(is_online=True, reason="started")


@pytest.fixture(
    params=["memory", *(pytest.param(n, marks=pytest.mark.slow) for n in ("amqtt", "mosquitto"))]
)
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bench]:
    made = BENCHES[request.param](tmp_path)
    yield made
    made.close()


@pytest.fixture
def devices(tmp_path: Path) -> Iterator[DeviceService]:
    database = Database(f"sqlite:///{tmp_path / 'hub.db'}")
    database.migrate()
    yield DeviceService(database, Authority(tmp_path / "hub-pki"))
    database.close()


def hear(link: Link, devices: DeviceService, *, wait_s: float = 0.05) -> list[Received]:
    """Give the hub what came of presence; return it."""
    heard = []
    for arrival in link.arrivals(wait_s=wait_s):
        link.acknowledge(arrival)
        if isinstance(arrival, Delivery):
            devices.on_presence(arrival.received)
            heard.append(arrival.received)
    return heard


def announce(link: Link, device: DeviceId) -> bool:
    """Publish the birth if the link came up since; return whether it did."""
    arrivals = list(link.arrivals(wait_s=0.05))
    if not any(isinstance(arrival, Connected) for arrival in arrivals) or not link.is_connected:
        return False
    link.publish(device, BIRTH)
    return True


def test_after_a_cut_a_device_is_online_again_at_once_and_its_old_will_changes_nothing(
    bench: Bench, devices: DeviceService
) -> None:
    device = enrol(devices)
    hub_link, device_link = bench.link(HUB_ID), bench.link(device)
    hub_link.start()
    wait_until(lambda: hub_link.is_connected)
    device_link.start()
    heard: list[Received] = []

    def is_online_anew() -> bool:
        announce(device_link, device)
        heard.extend(hear(hub_link, devices))
        known = devices.get(device)
        return known.presence is PresenceState.ONLINE and known.session_id not in over

    over: list[str | None] = []
    wait_until(is_online_anew)
    for _ in range(3):
        over.append(devices.get(device).session_id)
        bench.cut(device)
        wait_until(is_online_anew)  # No heartbeat comes: the birth alone must do.
    wills = [one for one in heard if one.message != BIRTH]
    assert [will.session_id for will in wills] == over
    for will in wills:  # Brokers may be late with them.
        devices.on_presence(will)
    assert devices.get(device).presence is PresenceState.ONLINE
