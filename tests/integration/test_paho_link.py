"""PahoLink where it meets what brokers do not do on purpose: silence, refusals, stalls, renewal."""

import socket
import socketserver
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import pytest

from cloud_hub.inbox.mqtt_packets import PacketType, packet_type, split_length
from shared.clock import SystemClock
from shared.errors import TransientError
from shared.ids import DeviceId
from shared.link.link import OUTGOING_MAX, Connected, Disconnected, Rejection
from shared.link.paho_link import LinkSettings, PahoLink
from shared.settings import parse_toml
from shared.wire.blocks import Block
from shared.wire.presence import Heartbeat
from shared.wire.records import Watermark
from shared.wire.topics import device_filters
from tests.support.brokers import AmqttBench
from tests.support.waiting import wait_until

pytestmark = pytest.mark.slow

A = DeviceId("dev-a")
CONNACK_YES = b"\x20\x02\x00\x00"
WATERMARK = Watermark(stream="0123456789abcdef", sequence=1)


@dataclass
class ScriptedBroker:
    """A broker that answers CONNECT and SUBSCRIBE as it is told, and nothing else."""

    connack: bytes = CONNACK_YES
    suback_code: int = 1
    after_suback: bytes = b""
    connects_count: int = 0
    is_reading: threading.Event = field(default_factory=threading.Event)
    port: int = 0


@pytest.fixture
def scripted() -> Iterator[ScriptedBroker]:
    script = ScriptedBroker()
    script.is_reading.set()

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            _serve(script, self.request)

    class Server(socketserver.ThreadingTCPServer):
        allow_reuse_address = True
        daemon_threads = True

    with Server(("127.0.0.1", 0), Handler) as server:
        script.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield script
        script.is_reading.set()
        server.shutdown()
        thread.join()


def _serve(script: ScriptedBroker, connection: socket.socket) -> None:
    buffer = b""
    while script.is_reading.wait(10):
        try:
            data = connection.recv(65536)
        except OSError:
            return
        if not data:
            return
        buffer += data
        while (split := split_length(buffer[:5])) and len(buffer) >= sum(split):
            packet, buffer = buffer[: sum(split)], buffer[sum(split) :]
            if packet_type(packet) == PacketType.CONNECT:
                script.connects_count += 1
                connection.sendall(script.connack)
            elif packet_type(packet) == 8:  # SUBSCRIBE
                codes = bytes([script.suback_code] * len(device_filters(A)))
                connection.sendall(bytes([0x90, 2 + len(codes)]) + packet[2:4] + codes)
                connection.sendall(script.after_suback)


@pytest.fixture
def link(scripted: ScriptedBroker) -> Iterator[PahoLink]:
    made = make_link(scripted.port)
    yield made
    made.stop()


def make_link(port: int, **changes: object) -> PahoLink:
    settings = LinkSettings(
        host="127.0.0.1",
        port=port,
        connect_timeout_s=0.5,
        backoff_s_min=0.05,
        backoff_s_max=0.2,
    )
    return PahoLink(
        settings=msgspec.structs.replace(settings, **changes),
        client=A,
        filters=device_filters(A),
        clock=SystemClock(),
        with_last_will=False,
    )


def first_reason(link: PahoLink) -> str:
    arrival = next(link.arrivals(wait_s=10))
    assert isinstance(arrival, Disconnected)
    return arrival.reason


def test_plain_tcp_needs_no_certificate(scripted: ScriptedBroker, link: PahoLink) -> None:
    link.start()
    assert isinstance(next(link.arrivals(wait_s=10)), Connected)


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (1, "Protocol error"),
        (2, "Client identifier not valid"),
        (3, "Server unavailable"),
        (4, "Bad user name or password"),
        (5, "Not authorized"),
    ],
)
def test_a_refused_connection_is_tried_again_later_and_told_once(
    scripted: ScriptedBroker, link: PahoLink, code: int, reason: str
) -> None:
    scripted.connack = bytes([0x20, 2, 0, code])
    link.start()
    assert reason in first_reason(link)
    wait_until(lambda: scripted.connects_count >= 3)
    assert list(link.arrivals(wait_s=0.0)) == []  # The same reason again is no news.
    scripted.connack = CONNACK_YES
    assert isinstance(next(link.arrivals(wait_s=10)), Connected)


def test_refused_attempts_do_not_spin(scripted: ScriptedBroker) -> None:
    scripted.connack = bytes([0x20, 2, 0, 5])
    link = make_link(scripted.port, backoff_s_min=60.0, backoff_s_max=60.0)
    link.start()
    assert "refused" in first_reason(link)
    assert list(link.arrivals(wait_s=0.5)) == []
    assert scripted.connects_count == 1
    link.reconnect()  # Somebody who knows better need not wait.
    wait_until(lambda: scripted.connects_count == 2)
    link.stop()


def test_a_broker_that_does_not_answer_is_given_up_in_time(
    scripted: ScriptedBroker, link: PahoLink
) -> None:
    scripted.connack = b""
    link.start()
    assert "in time" in first_reason(link)
    wait_until(lambda: scripted.connects_count >= 2)
    assert not link.is_connected


def test_a_refused_subscription_is_an_error_and_tried_again(
    scripted: ScriptedBroker, link: PahoLink
) -> None:
    scripted.suback_code = 0x80
    link.start()
    assert "subscription" in first_reason(link)
    scripted.suback_code = 1
    assert isinstance(next(link.arrivals(wait_s=10)), Connected)


def test_a_broker_that_is_not_there_is_named(link: PahoLink) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    nobody = make_link(port)
    nobody.start()
    assert "Connection refused" in first_reason(nobody)
    nobody.stop()


def test_certificate_files_that_are_missing_are_named_and_waited_for(tmp_path: Path) -> None:
    link = make_link(1, ca_path=str(tmp_path / "ca.crt"))
    link.start()
    assert "No such file" in first_reason(link)
    link.stop()


@pytest.mark.parametrize(
    "packet",
    [
        bytes([0x30, 0x05, 0x00, 0x03]) + b"\xff\xfe\xfd",
        bytes([0x32, 0x05, 0x00, 0x01]) + b"a\x00\x07",
    ],
    ids=["topic-not-utf-8", "unknown-topic"],
)
def test_a_strange_publish_is_a_rejection(
    scripted: ScriptedBroker, link: PahoLink, packet: bytes
) -> None:
    scripted.after_suback = packet
    link.start()
    rejection = next(a for a in link.arrivals(wait_s=10) if isinstance(a, Rejection))
    assert rejection.error.code == "topic.unknown"
    link.acknowledge(rejection)
    assert link.is_connected
    assert link.rejected_count == 1


def test_what_the_broker_does_not_acknowledge_fills_the_link_and_no_more(
    scripted: ScriptedBroker, link: PahoLink
) -> None:
    link.start()
    wait_until(lambda: link.is_connected)
    for _ in range(OUTGOING_MAX):
        link.publish(A, WATERMARK)
    with pytest.raises(TransientError) as caught:
        link.publish(A, WATERMARK)
    assert caught.value.code == "link.full"
    assert link.is_connected


def test_a_stalled_network_fills_the_link_and_publish_never_waits(
    scripted: ScriptedBroker, link: PahoLink
) -> None:
    link.start()
    wait_until(lambda: link.is_connected)
    scripted.is_reading.clear()
    block = Block(path="targets/a", index=0, file_bytes=1, data=bytes(65536))
    codes = set()
    for _ in range(2 * OUTGOING_MAX):
        try:
            link.publish(A, block)
        except TransientError as error:
            codes.add(error.code)
    assert codes == {"link.full"}
    scripted.is_reading.set()
    wait_until(lambda: _can_publish(link))


def _can_publish(link: PahoLink) -> bool:
    try:
        link.publish(A, Heartbeat(uptime_s=1, outbox_rows=0, outbox_dropped=0))
    except TransientError:
        return False
    return True


def test_stop_is_quick_whatever_the_link_is_doing(scripted: ScriptedBroker) -> None:
    scripted.connack = bytes([0x20, 2, 0, 5])
    waiting = make_link(scripted.port, backoff_s_min=60.0, backoff_s_max=60.0)
    waiting.start()
    first_reason(waiting)
    stopped = threading.Thread(target=waiting.stop)
    stopped.start()
    stopped.join(timeout=2)
    assert not stopped.is_alive()
    make_link(scripted.port).stop()  # One that was never started.


def test_renewed_certificate_files_are_used_from_the_next_connection_on(tmp_path: Path) -> None:
    bench = AmqttBench(tmp_path)
    try:
        link = bench.link(A)
        link.start()
        assert isinstance(next(link.arrivals(wait_s=10)), Connected)
        old = bench.pki.serial(bench.pki.folder / f"{A}.crt")
        bench.pki.issue(A)  # The same files, a new certificate
        bench.revoked.add(old)
        link.reconnect()
        arrivals = link.arrivals(wait_s=10)
        assert next(arrivals) == Disconnected(reason="asked to reconnect")
        assert isinstance(next(arrivals), Connected)
        assert bench.broker.refused_count == 0
    finally:
        bench.close()


def test_two_clients_with_one_certificate_do_not_chase_each_other(tmp_path: Path) -> None:
    bench = AmqttBench(tmp_path)
    try:
        links = [
            PahoLink(
                settings=msgspec.structs.replace(
                    bench.link_settings(A), backoff_s_min=60.0, backoff_s_max=60.0
                ),
                client=A,
                filters=device_filters(A),
                clock=SystemClock(),
                with_last_will=False,
            )
            for _ in range(2)
        ]
        for link in links:
            link.start()
            wait_until(lambda link=link: link.is_connected)
        wait_until(lambda: not links[0].is_connected)
        assert isinstance(next(links[0].arrivals(wait_s=5)), Connected)
        assert len(list(links[0].arrivals(wait_s=0.5))) == 1  # Disconnected, and now it waits.
        assert links[1].is_connected
    finally:
        for link in links:
            link.stop()
        bench.close()


def test_settings_come_from_toml_and_strange_ones_are_named() -> None:
    settings = parse_toml(b'host = "hub.local"\nport = 8883', LinkSettings, name="agent.toml")
    assert (settings.keepalive_s, settings.ca_path) == (30, None)
    for wrong in (b"port = 0", b"port = 8883\nkeepalive_s = 0", b"port = 8883\nunknown = 1"):
        with pytest.raises(Exception, match=r"agent\.toml"):
            parse_toml(b'host = "h"\n' + wrong, LinkSettings, name="agent.toml")
