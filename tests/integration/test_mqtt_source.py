"""MqttSource against a real mosquitto."""

import json
import socket
import subprocess
import threading
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from edge_agent.sources.capture import CaptureLoop, CaptureState
from edge_agent.sources.item import Window, WindowBatch
from edge_agent.sources.mailbox import mailbox_for
from edge_agent.sources.opening import open_source
from edge_agent.sources.paho_sensors_source import MqttSensorsSource
from edge_agent.sources.paho_source import MqttSource, MqttTextSource
from edge_agent.sources.paho_subscription import MESSAGES_MAX
from shared.clock import SystemClock
from shared.errors import ContractError, TransientError
from shared.pipeline.sources import (
    BatchSettings,
    MqttSettings,
    MqttTextSettings,
    ResampleSettings,
    WindowSettings,
)
from tests.support.manual_clock import ManualClock
from tests.support.requirements import require_program
from tests.support.waiting import wait_until

NEVER = threading.Event()
TOPIC = "plant/pump/vibration"


class LocalBroker:
    """A mosquitto on loopback that anyone may use, as stands beside sensors."""

    def __init__(self, folder: Path) -> None:
        self._program = require_program("mosquitto")
        self._folder = folder
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        (folder / "m.conf").write_text(f"listener {self.port} 127.0.0.1\nallow_anonymous true\n")
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._process = subprocess.Popen(
            [self._program, "-c", str(self._folder / "m.conf")],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        wait_until(self._answers)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(10)
            self._process = None

    def _answers(self) -> bool:
        with socket.socket() as probe:
            probe.settimeout(1.0)
            return probe.connect_ex(("127.0.0.1", self.port)) == 0


class Sensor:
    """Publishes, and waits until the broker has it."""

    def __init__(self, port: int) -> None:
        self._client = paho.Client(CallbackAPIVersion.VERSION2)
        self._client.connect("127.0.0.1", port)
        self._client.loop_start()

    def send(self, payload: bytes, topic: str = TOPIC) -> None:
        self._client.publish(topic, payload, qos=1).wait_for_publish(10.0)

    def send_many(self, payloads: list[bytes]) -> None:
        # One by one would take a round trip each.
        for info in [self._client.publish(TOPIC, payload, qos=1) for payload in payloads]:
            info.wait_for_publish(20.0)

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[LocalBroker]:
    broker = LocalBroker(tmp_path)
    broker.start()
    yield broker
    broker.kill()


@pytest.fixture
def sensor(broker: LocalBroker) -> Iterator[Sensor]:
    sensor = Sensor(broker.port)
    yield sensor
    sensor.close()


def source_for(
    port: int, clock: SystemClock | ManualClock | None = None, **options: object
) -> MqttSource:
    settings = MqttSettings(
        **{"topic": TOPIC, "port": port, "window": WindowSettings(samples=4, step=4), **options}  # type: ignore[arg-type]
    )
    return MqttSource(settings, clock or SystemClock())


def open_and_subscribe(source: MqttSource, sensor: Sensor) -> None:
    """Open, and wait until a message comes through; it cuts the window again."""
    source.open()
    wait_until(lambda: sensor.send(b"?") is None and source.subscription.waiting_count)
    assert source.read(stopped_in(0.3)) is None


def stopped_in(seconds: float) -> threading.Event:
    stop = threading.Event()
    threading.Timer(seconds, stop.set).start()
    return stop


def read(source: MqttSource) -> Window:
    item = source.read(NEVER)
    assert item is not None
    return item


@pytest.mark.slow
def test_messages_of_every_kind_become_windows(broker: LocalBroker, sensor: Sensor) -> None:
    source = source_for(broker.port)
    open_and_subscribe(source, sensor)
    sensor.send(json.dumps({"value": 1}).encode())
    sensor.send(json.dumps({"values": [2, 3]}).encode())
    sensor.send(np.array([4, 5, 6, 7, 8], "<f4").tobytes())
    assert read(source).samples[:, 0].tolist() == [1.0, 2.0, 3.0, 4.0]
    second = read(source)
    assert second.samples[:, 0].tolist() == [5.0, 6.0, 7.0, 8.0]
    assert second.sequence == 1
    source.close()


@pytest.mark.slow
def test_a_message_that_cannot_be_read_cuts_the_window(broker: LocalBroker, sensor: Sensor) -> None:
    source = source_for(broker.port)
    open_and_subscribe(source, sensor)
    bad = source.bad_messages_count
    sensor.send(b'{"values": [90, 91, 92]}')
    sensor.send(b"{broken")
    sensor.send(b'{"values": [1, 2, 3, 4]}')
    assert read(source).samples[:, 0].tolist() == [1.0, 2.0, 3.0, 4.0]
    assert source.bad_messages_count == bad + 1
    source.close()


@pytest.mark.slow
def test_a_queue_that_runs_over_starts_a_new_window(broker: LocalBroker, sensor: Sensor) -> None:
    source = source_for(broker.port)
    open_and_subscribe(source, sensor)
    sensor.send_many([b'{"value": 1}'] * (MESSAGES_MAX + 10))
    wait_until(lambda: source.subscription.is_run_over)
    done: list[Window] = []
    reader = threading.Thread(target=lambda: done.append(read(source)))
    reader.start()
    wait_until(lambda: source.lost_messages_count >= MESSAGES_MAX)
    sensor.send(b'{"values": [5, 6, 7, 8]}')
    reader.join(10.0)
    assert done[0].samples[:, 0].tolist()[-4:] == [5.0, 6.0, 7.0, 8.0]
    source.close()


@pytest.mark.slow
def test_a_queue_that_runs_over_again_and_again_is_logged_once_a_minute(
    broker: LocalBroker, sensor: Sensor, caplog: pytest.LogCaptureFixture
) -> None:
    clock = ManualClock()
    source = source_for(broker.port, clock, silent_s_max=0.0)
    open_and_subscribe(source, sensor)
    for pause_s, told in ((0.0, 1), (1.0, 1), (60.0, 2)):
        clock.advance(pause_s)
        sensor.send_many([b'{"value": 1}'] * (MESSAGES_MAX + 10))
        wait_until(lambda: source.subscription.is_run_over)
        assert source.read(stopped_in(0.1)) is None
        assert [r.getMessage() for r in caplog.records].count("source.run_over") == told
    source.close()


@pytest.mark.slow
def test_the_capture_loop_survives_a_killed_broker(broker: LocalBroker, sensor: Sensor) -> None:
    source = source_for(broker.port)
    mailbox = mailbox_for(source, SystemClock())
    loop = CaptureLoop(source, mailbox, SystemClock())
    stop = threading.Event()
    thread = threading.Thread(target=loop.run, args=(stop,))
    thread.start()
    wait_until(lambda: sensor.send(b'{"values": [1, 2, 3, 4]}') is None and mailbox.counts.items_in)
    assert loop.status.state is CaptureState.RUNNING
    broker.kill()
    wait_until(lambda: loop.status.state is CaptureState.RECONNECTING)
    assert loop.status.code == "source.lost"
    broker.start()
    back = Sensor(broker.port)
    while mailbox.take(0.0) is not None:
        pass
    before = mailbox.counts.items_in
    wait_until(
        lambda: back.send(b'{"values": [5, 6, 7, 8]}') is None and mailbox.counts.items_in > before,
        seconds_max=20.0,
    )
    assert loop.status.state is CaptureState.RUNNING
    assert loop.interruptions_count == 1
    back.close()
    stop.set()
    thread.join(10.0)
    assert not thread.is_alive()


@pytest.mark.slow
def test_many_sensors_of_one_topic_become_batches(broker: LocalBroker, sensor: Sensor) -> None:
    settings = MqttSettings(
        topic="plant/{sensor}/vibration",
        port=broker.port,
        window=WindowSettings(samples=4, step=4),
        batch=BatchSettings(windows_max=8, wait_s_max=0.3),
        sensors_max=3,
    )
    source = open_source(settings, SystemClock())
    assert isinstance(source, MqttSensorsSource)
    source.open()
    wait_until(lambda: sensor.send(b"?") is None and source.subscription.waiting_count)
    rows = {name: np.arange(4, dtype="<f4") + index for index, name in enumerate("abc")}
    for name, values in rows.items():
        sensor.send(values.tobytes(), f"plant/{name}/vibration")
        sensor.send(b"{broken", f"plant/{name}/vibration")
    found: dict[str, list[float]] = {}
    sequences = []
    while len(found) < 2:
        batch = source.read(NEVER)
        assert isinstance(batch, WindowBatch)
        sequences.append(batch.sequence)
        assert batch.samples.shape == (len(batch.sensors), 4, 1)
        found |= zip(batch.sensors, batch.samples[:, :, 0].tolist(), strict=True)
    assert found == {"a": [0, 1, 2, 3], "b": [1, 2, 3, 4]}
    assert sequences[0] == 0
    # "pump" of the first test message was the first sensor, so there was no place for "c".
    wait_until(lambda: source.read(stopped_in(0.2)) is None and source.lost_messages_count == 2)
    assert source.sensors_count == 3
    assert source.bad_messages_count >= 3
    source.close()


@pytest.mark.slow
def test_messages_of_people_become_texts(broker: LocalBroker, sensor: Sensor) -> None:
    settings = MqttTextSettings(topic=TOPIC, port=broker.port, text_bytes_max=20)
    source = open_source(settings, SystemClock())
    assert isinstance(source, MqttTextSource)
    source.open()
    wait_until(lambda: sensor.send(b" ") is None and source.subscription.waiting_count)
    assert source.read(stopped_in(0.3)) is None
    bad = source.bad_messages_count
    for payload in ("Pumpe läuft heiß".encode(), b"\xff", b"x" * 21, b"all well"):
        sensor.send(payload)
    first, second = source.read(NEVER), source.read(NEVER)
    assert first is not None
    assert second is not None
    assert (first.text, second.text) == ("Pumpe läuft heiß", "all well")
    assert second.sequence == first.sequence + 1
    assert source.bad_messages_count == bad + 2
    source.close()


def test_nobody_there_is_a_lost_source() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # Bound, not listening: refused
        source = source_for(taken.getsockname()[1])
        with pytest.raises(TransientError, match="Check that the broker runs") as caught:
            source.open()
    assert caught.value.code == "source.lost"
    source.close()


@pytest.mark.slow
def test_a_silent_sensor_is_a_lost_source(broker: LocalBroker) -> None:
    clock = ManualClock()
    source = source_for(broker.port, clock, silent_s_max=30.0)
    source.open()
    clock.advance(31.0)
    with pytest.raises(TransientError, match="No message on"):
        source.read(NEVER)
    source.close()


@pytest.mark.slow
def test_a_subscription_that_is_refused_is_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        broker = threading.Thread(target=refuse_subscription, args=(listener,))
        broker.start()
        source = source_for(listener.getsockname()[1])
        source.open()
        with pytest.raises(TransientError, match="refuses the subscription"):
            source.read(NEVER)
        source.close()
        broker.join(10)


def refuse_subscription(listener: socket.socket) -> None:
    """Play a broker whose rules let nobody listen (MQTT 3.1.1, 3.2 and 3.9)."""
    connection, _ = listener.accept()
    with connection:
        connection.recv(1024)
        connection.sendall(b"\x20\x02\x00\x00")  # CONNACK: accepted
        packet = connection.recv(1024)
        connection.sendall(b"\x90\x03" + packet[2:4] + b"\x80")  # SUBACK: failure
        while connection.recv(1024):
            pass


@pytest.mark.slow
def test_a_small_message_of_very_many_rows_takes_no_memory(
    broker: LocalBroker, sensor: Sensor
) -> None:
    source = source_for(broker.port, resample=ResampleSettings(rate_hz=1000.0, gap_s_max=10.0))
    open_and_subscribe(source, sensor)
    hour = {"values": [0.0] * 360, "time": 1e9, "interval_s": 10.0}  # 3.6 million rows
    tracemalloc.start()
    try:
        sensor.send(json.dumps(hour).encode())
        assert read(source).samples.shape == (4, 1)
        assert tracemalloc.get_traced_memory()[1] < 16 << 20
    finally:
        tracemalloc.stop()
        source.close()


def test_a_password_file_that_is_not_there_is_wrong_settings() -> None:
    source = source_for(1, username="pump", password_file="/nonexistent/secret")
    with pytest.raises(ContractError) as caught:
        source.open()
    assert caught.value.code == "source.missing"
