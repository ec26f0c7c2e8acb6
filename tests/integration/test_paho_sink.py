"""PahoSink against a real mosquitto, and what it announces against Home Assistant's own schema."""

import json
import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec import structs

from edge_agent.sinks.paho_sink import QUEUE_MAX, PahoSink
from shared.clock import SystemClock
from shared.pipeline.sinks import MqttSinkSettings, Which
from shared.wire.records import ZoneStanding
from tests.support.http_streams import free_port
from tests.support.local_broker import Listener, LocalBroker
from tests.support.pki import Pki
from tests.support.sink_results import classified, decided, scored, tracked
from tests.support.tcp_proxy import TcpProxy, Weather
from tests.support.waiting import wait_until

BASE = "isthmus/dev-1/gate"
# From Home Assistant's schemas: homeassistant/components/mqtt/schemas.py, sensor.py and
# binary_sensor.py, and the device classes and state classes of both integrations.
DEVICE_KEYS = {"identifiers", "name", "manufacturer", "model", "sw_version"}
ENTITY_KEYS = {
    "name",
    "unique_id",
    "state_topic",
    "availability_topic",
    "payload_available",
    "payload_not_available",
    "qos",
    "device",
    "origin",
    "device_class",
    "icon",
}
KEYS = {
    "sensor": ENTITY_KEYS | {"state_class", "unit_of_measurement"},
    "binary_sensor": ENTITY_KEYS | {"payload_on", "payload_off"},
}
DEVICE_CLASSES = {"sensor": {"duration"}, "binary_sensor": {"occupancy", "problem"}}
STATE_CLASSES = {"measurement", "total", "total_increasing"}
CONFIG_TOPIC = re.compile(
    r"^homeassistant/(sensor|binary_sensor)/([A-Za-z0-9_-]+)/([A-Za-z0-9_-]+)/config$"
)


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[LocalBroker]:
    broker = LocalBroker(tmp_path, free_port())
    broker.start()
    yield broker
    broker.kill()


@pytest.fixture
def listener(broker: LocalBroker) -> Iterator[Listener]:
    listener = Listener(broker.port)
    yield listener
    listener.close()


def sink_for(port: int, **options: object) -> PahoSink:
    settings = MqttSinkSettings(**{"port": port, "which": Which.ALL, **options})  # type: ignore[arg-type]
    return PahoSink(
        settings,
        pipeline="gate",
        device="dev-1",
        model="cars",
        clock=SystemClock(),
        places=("lines/gate", "zones/yard"),
    )


@pytest.mark.slow
def test_decisions_and_states_reach_the_broker_and_it_goes_offline(
    broker: LocalBroker, listener: Listener
) -> None:
    sink = sink_for(broker.port)
    sink.start()
    for i in range(5):
        sink(decided(tracked("car", in_zone=i % 2, total=i), i))
    wait_until(lambda: listener.last.get(f"{BASE}/lines/gate/in") == "4")
    wait_until(lambda: len(listener.all(f"{BASE}/decision")) == 5)
    assert [told["item"] for told in listener.all(f"{BASE}/decision")] == list(range(5))
    assert listener.last[f"{BASE}/availability"] == "online"
    assert listener.last[f"{BASE}/objects/car"] == "1"
    assert (sink.standing, sink.lost_count) == ("", 0)
    late = Listener(broker.port)  # States are retained, decisions are not
    wait_until(lambda: f"{BASE}/zones/yard/occupancy" in late.last)
    assert f"{BASE}/decision" not in late.last
    late.close()
    sink.close()
    wait_until(lambda: listener.last[f"{BASE}/availability"] == "offline")
    assert not [topic for topic in listener.last if topic.startswith("homeassistant")]


@pytest.mark.slow
def test_home_assistant_is_told_what_its_schema_wants(
    broker: LocalBroker, listener: Listener
) -> None:
    sink = sink_for(broker.port, discovery_prefix="homeassistant")
    sink.start()
    sink(decided(tracked("car", in_zone=1, total=2), 0))
    sink(decided(classified("cat"), 1))
    sink(decided(scored(2.0), 2, sensor="pump 1"))
    wait_until(lambda: len([t for t in listener.last if t.startswith("homeassistant/")]) == 11)
    configs = {t: json.loads(p) for t, p in listener.last.items() if CONFIG_TOPIC.match(t)}
    assert len(configs) == 11, "every announcement is under a topic that is allowed"
    for topic, entity in configs.items():
        found = CONFIG_TOPIC.match(topic)
        assert found is not None
        component, node, _ = found.groups()
        assert entity.keys() <= KEYS[component], topic
        assert entity["device"].keys() == DEVICE_KEYS
        assert entity["device"]["identifiers"] == [node]
        assert entity["origin"]["name"] == "Isthmus"
        assert entity["availability_topic"] == f"{BASE}/availability"
        assert (entity["payload_available"], entity["payload_not_available"]) == (
            "online",
            "offline",
        )
        assert (
            entity.get("device_class", "duration")
            in DEVICE_CLASSES["sensor"] | (DEVICE_CLASSES[component])
        )
        state = listener.last[entity["state_topic"]]
        if component == "binary_sensor":
            assert state in (entity["payload_on"], entity["payload_off"])
            assert entity["device_class"] in DEVICE_CLASSES["binary_sensor"]
        elif "state_class" in entity:
            assert entity["state_class"] in STATE_CLASSES
            float(state)  # A sensor with a state class must be a number
    ids = [entity["unique_id"] for entity in configs.values()]
    assert len(set(ids)) == len(ids)
    occupancy = next(e for t, e in configs.items() if "zones-yard-occupancy" in t)
    assert occupancy["device_class"] == "occupancy"
    assert listener.last[occupancy["state_topic"]] == "ON"
    total = next(e for t, e in configs.items() if "lines-gate-in" in t)
    assert total["state_class"] == "total_increasing"
    sink.close()


@pytest.mark.slow
def test_a_pipeline_that_is_gone_for_good_leaves_nothing_behind(
    broker: LocalBroker, listener: Listener
) -> None:
    sink = sink_for(broker.port, discovery_prefix="homeassistant")
    sink.start()
    sink(decided(tracked("car"), 0))
    wait_until(lambda: len(listener.all(f"{BASE}/decision")) == 1)
    sink.forget()
    sink.close()
    wait_until(lambda: listener.last[f"{BASE}/availability"] == "")
    left = {t: p for t, p in listener.last.items() if p and not t.endswith("/decision")}
    assert left == {}


@pytest.mark.slow
def test_a_zone_that_is_no_more_is_taken_away_and_the_others_stay(
    broker: LocalBroker, listener: Listener
) -> None:
    first = sink_for(broker.port, discovery_prefix="homeassistant")
    first.start()
    outcome = tracked("car", in_zone=1)
    old = structs.replace(outcome, zones=(*outcome.zones, ZoneStanding("old", 1, 2.0)))
    first(decided(old, 0))
    wait_until(lambda: len(listener.all(f"{BASE}/decision")) == 1)
    first.close()
    assert listener.last[f"{BASE}/zones/old/occupancy"] == "ON"
    second = sink_for(broker.port, discovery_prefix="homeassistant")
    second.start()
    kept = [topic for topic, payload in listener.last.items() if payload and "old" not in topic]
    wait_until(lambda: not any(p for t, p in listener.last.items() if "old" in t))
    assert all(listener.last[topic] for topic in kept)
    second.close()


@pytest.mark.slow
def test_a_broker_that_comes_back_empty_is_told_everything_again(
    broker: LocalBroker, listener: Listener
) -> None:
    sink = sink_for(broker.port, discovery_prefix="homeassistant")
    sink.start()
    sink(decided(tracked("car", total=1), 0))
    wait_until(lambda: len(listener.all(f"{BASE}/decision")) == 1)
    broker.kill()
    wait_until(lambda: sink.standing)
    for i in range(1, 4):
        sink(decided(tracked("car", total=1 + i), i))
    assert not sink.is_all_heard
    broker.start()
    wait_until(lambda: not sink.standing, seconds_max=20)
    # Acknowledged, that is; the listener may have come back too late to hear them.
    wait_until(lambda: sink.is_all_heard)
    late = Listener(broker.port)
    wait_until(lambda: late.last.get(f"{BASE}/lines/gate/in") == "4")
    wait_until(lambda: late.last.get(f"{BASE}/availability") == "online")
    assert any(t.startswith("homeassistant/sensor/") for t in late.last)
    assert sink.lost_count == 0
    late.close()
    sink.close()


@pytest.mark.slow
def test_a_device_that_dies_is_offline_by_its_last_will(
    broker: LocalBroker, listener: Listener
) -> None:
    sink = sink_for(broker.port)
    sink.start()
    wait_until(lambda: listener.last.get(f"{BASE}/availability") == "online")
    listener.heard.clear()
    client = sink._broker._client
    assert client is not None
    connection = client.socket()
    assert connection is not None
    assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    connection.shutdown(socket.SHUT_RDWR)  # As a cable that is pulled; no goodbye
    wait_until(lambda: (f"{BASE}/availability", b"offline") in listener.heard)
    wait_until(lambda: listener.last[f"{BASE}/availability"] == "online")  # And back by itself
    sink.close()


@pytest.mark.slow
def test_what_was_on_its_way_when_the_network_died_is_sent_again_in_order(
    broker: LocalBroker, listener: Listener
) -> None:
    proxy = TcpProxy(broker.port)
    sink = sink_for(proxy.port)
    sink.start()
    wait_until(lambda: not sink.standing)
    proxy.weather = Weather(is_frozen=True)
    for i in range(3):
        sink(decided(tracked("car", total=i), i))
    wait_until(lambda: not sink.waiting_count)  # All given to paho, none acknowledged
    assert listener.all(f"{BASE}/decision") == []
    proxy.cut()
    proxy.weather = Weather()
    wait_until(lambda: len(listener.all(f"{BASE}/decision")) == 3)
    assert [told["item"] for told in listener.all(f"{BASE}/decision")] == [0, 1, 2]
    wait_until(lambda: listener.last[f"{BASE}/lines/gate/in"] == "2")
    sink.close()
    proxy.close()


@pytest.mark.slow
def test_without_a_broker_the_pipeline_goes_on_and_the_oldest_are_lost() -> None:
    sink = sink_for(free_port())
    sink.start()
    began_s = time.monotonic()
    for i in range(QUEUE_MAX + 10):
        sink(decided(tracked("car", total=i), i))
    assert time.monotonic() - began_s < 2.0
    assert sink.lost_count == 10
    wait_until(lambda: "cannot be reached" in sink.standing)
    sink.close()


@pytest.mark.slow
def test_over_tls_with_a_password(tmp_path: Path) -> None:
    pki = Pki(tmp_path / "pki")
    pki.issue("server", is_server=True)
    broker = LocalBroker(tmp_path, free_port(), pki=pki, password=("gate", "sesame"))
    broker.start()
    password = tmp_path / "password"
    password.write_text("wrong\n")
    options = {"ca_file": str(pki.ca_path), "username": "gate", "password_file": str(password)}
    wrong = sink_for(broker.port, **options)
    wrong.start()
    wait_until(lambda: "refused" in wrong.standing)
    wrong.close()
    password.write_text("sesame\n")
    sink = sink_for(broker.port, **options)
    sink.start()
    wait_until(lambda: sink.standing == "")
    sink.close()
    broker.kill()


@pytest.mark.slow
def test_a_file_that_is_missing_is_tried_again(broker: LocalBroker, tmp_path: Path) -> None:
    password = tmp_path / "later"
    sink = sink_for(broker.port, username="gate", password_file=str(password))
    sink.start()
    wait_until(lambda: "a file cannot be used" in sink.standing)
    password.write_text("any")
    wait_until(lambda: sink.standing == "")
    sink.close()


def test_what_waits_when_it_is_closed_is_counted_as_lost() -> None:
    sink = sink_for(free_port())  # Nobody listens there
    for item in range(3):
        sink(decided(scored(0.4), item))
    sink.close()
    assert sink.lost_count == 3
