"""One device behind a bad network: slow, late, cut, frozen, and damaging what it carries."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from shared.wire.blocks import BLOCK_BYTES
from tests.support.fleet_story import (
    STEP_S,
    check_records,
    drained,
    presence,
    settled_version,
    wait_for,
    wait_online,
)
from tests.support.real_fleet import RealAgent, RealHub
from tests.support.tcp_proxy import TcpProxy
from tests.support.tiny_releases import Kind
from tests.support.waiting import wait_until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.xdist_group("processes"),
    pytest.mark.timeout(300),
]
PADDING_BYTES = 2 * BLOCK_BYTES
KEEPALIVE_S = 5  # tests/support/real_fleet.py
BACKOFF_S_MAX = 1.0
DAMAGES = 5


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[RealHub]:
    with RealHub(tmp_path) as started:
        yield started


@pytest.fixture
def to_hub(hub: RealHub) -> Iterator[TcpProxy]:
    proxy = TcpProxy(hub.https_port)
    yield proxy
    proxy.close()


@pytest.fixture
def to_broker(hub: RealHub) -> Iterator[TcpProxy]:
    proxy = TcpProxy(hub.mqtt_port)
    yield proxy
    proxy.close()


def test_a_device_is_joined_and_updated_over_a_slow_link_that_is_cut(
    tmp_path: Path, hub: RealHub, to_hub: TcpProxy, to_broker: TcpProxy
) -> None:
    to_hub.set(delay_s=0.25)
    to_broker.set(delay_s=0.25)
    agent = RealAgent("one", tmp_path, hub, rate_hz=400, join_port=to_hub.port, is_hasty=False)
    agent.reach_broker_at(to_broker.port)
    agent.start()
    wait_online(hub, agent)
    wait_for(hub, hub.roll_out(hub.add_release(Kind.GOOD)), "done")

    # 40 KB/s, cut in the middle: what has arrived is not sent again.
    version = hub.add_release(Kind.BETTER, padding_bytes=PADDING_BYTES)
    to_broker.set(bytes_per_s=40_000)
    before_bytes = to_broker.bytes_down
    rollout = hub.roll_out(version)
    wait_until(lambda: agent.fetched_bytes() >= BLOCK_BYTES, seconds_max=STEP_S)
    to_broker.cut()
    wait_until(lambda: settled_version(agent) == version, seconds_max=STEP_S)
    sent_bytes = to_broker.bytes_down - before_bytes
    assert sent_bytes < PADDING_BYTES + 1.5 * BLOCK_BYTES, "what was there was sent again"
    to_broker.set()
    wait_for(hub, rollout, "done")

    wait_until(drained(agent), seconds_max=STEP_S)
    agent.stop()
    check_records(hub, [agent])


def test_a_frozen_or_damaged_connection_is_noticed_and_loses_no_record(
    tmp_path: Path, hub: RealHub, to_broker: TcpProxy
) -> None:
    agent = RealAgent("one", tmp_path, hub)
    agent.reach_broker_at(to_broker.port)
    agent.start()
    wait_for(hub, hub.roll_out(hub.add_release(Kind.GOOD)), "done")

    # Frozen: both sides find out by themselves, and are together again as soon as it thaws.
    to_broker.set(is_frozen=True)
    wait_until(lambda: not agent.is_connected, seconds_max=2 * KEEPALIVE_S + 3)
    wait_until(lambda: presence(hub, agent) != "online", seconds_max=KEEPALIVE_S)
    to_broker.set()
    to_broker.cut()
    wait_online(hub, agent, seconds_max=BACKOFF_S_MAX + 5)

    # Damaged: TLS notices, whoever is meant by it, and nothing that is damaged gets through.
    to_broker.set(damaged_share=0.05)
    wait_until(lambda: to_broker.damaged_count >= DAMAGES, seconds_max=STEP_S)
    to_broker.set()
    wait_online(hub, agent, seconds_max=BACKOFF_S_MAX + 10)
    assert hub.health()["is_good"]

    wait_until(drained(agent), seconds_max=STEP_S)
    agent.stop()
    check_records(hub, [agent])
