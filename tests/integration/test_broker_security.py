"""What no device may do to another, against both brokers as they are deployed."""

import socket
import ssl
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloud_hub.inbox.mqtt_packets import CONNECT_BYTES_MAX, PACKET_BYTES_MAX
from shared.errors import TransientError, UnavailableError
from shared.ids import HUB_ID, DeviceId
from shared.link.link import Connected, Delivery, Link, Rejection
from shared.wire.blocks import Block
from shared.wire.presence import Heartbeat, Presence
from shared.wire.records import Watermark
from shared.wire.target import Target
from shared.wire.topics import BY_NAME, ROOT
from tests.support.brokers import HOST, AmqttBench, MosquittoBench
from tests.support.pki import Pki
from tests.support.raw_client import RawClient
from tests.support.waiting import wait_until

pytestmark = pytest.mark.slow

A = DeviceId("dev-a")
B = DeviceId("dev-b")
Bench = AmqttBench | MosquittoBench
WATERMARK = Watermark(stream="0123456789abcdef", sequence=1)


@pytest.fixture(params=[AmqttBench, MosquittoBench], ids=["amqtt", "mosquitto"])
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bench]:
    made: Bench = request.param(tmp_path)
    yield made
    made.close()


@pytest.fixture
def amqtt(tmp_path: Path) -> Iterator[AmqttBench]:
    made = AmqttBench(tmp_path)
    yield made
    made.close()


def up(bench: Bench, client: DeviceId) -> Link:
    """Return a started link that is up, with its Connected taken."""
    link = bench.link(client)
    link.start()
    for arrival in link.arrivals(wait_s=10):
        link.acknowledge(arrival)
        if isinstance(arrival, Connected):
            return link
    raise AssertionError("it did not connect")


def messages(link: Link, *, wait_s: float = 0.4) -> list[object]:
    """Return the messages that arrive until there is silence."""
    found: list[object] = []
    for arrival in link.arrivals(wait_s=wait_s):
        link.acknowledge(arrival)
        if isinstance(arrival, Delivery):
            found.append(arrival.received.message)
    return found


def assert_unharmed(bench: Bench, hub: Link, victim: Link, device: DeviceId) -> None:
    """The victim's session lives on: it was never cut, and still hears and is heard."""
    hub.publish(device, WATERMARK)
    arrivals = victim.arrivals(wait_s=10)
    arrival = next(arrivals)
    assert isinstance(arrival, Delivery), f"its session was harmed: {arrival}"
    assert arrival.received.message == WATERMARK
    victim.acknowledge(arrival)
    victim.publish(device, Heartbeat(uptime_s=1, outbox_rows=0, outbox_dropped=0))
    assert any(isinstance(message, Heartbeat) for message in messages(hub))


def test_without_a_certificate_nobody_comes_in(bench: Bench) -> None:
    bare = bench.link_settings(A)
    settings = type(bare)(host=HOST, port=bench.port, ca_path=bare.ca_path)
    with pytest.raises(ConnectionError):
        RawClient(settings, client_id=A).connect()


def test_a_certificate_of_a_foreign_authority_is_refused(bench: Bench, tmp_path: Path) -> None:
    foreign = Pki(tmp_path / "foreign", name="test CA")  # Even of the same name
    certificate, key = foreign.issue(A)
    ours = bench.link_settings(A)
    settings = type(ours)(
        host=HOST,
        port=bench.port,
        ca_path=ours.ca_path,
        certificate_path=str(certificate),
        key_path=str(key),
    )
    with pytest.raises(ConnectionError):
        RawClient(settings, client_id=A).connect()


def test_the_servers_own_certificate_is_no_clients(bench: Bench) -> None:
    ours = bench.link_settings(A)
    settings = type(ours)(
        host=HOST,
        port=bench.port,
        ca_path=ours.ca_path,
        certificate_path=str(bench.pki.folder / "server.crt"),
        key_path=str(bench.pki.folder / "server.key"),
    )
    with pytest.raises(ConnectionError):
        RawClient(settings, client_id="server").connect()


def test_a_link_refuses_a_broker_of_a_foreign_authority(bench: Bench, tmp_path: Path) -> None:
    foreign = Pki(tmp_path / "foreign")
    settings = bench.link_settings(A)
    wrong = type(settings)(
        host=HOST,
        port=bench.port,
        ca_path=str(foreign.ca_path),
        certificate_path=settings.certificate_path,
        key_path=settings.key_path,
    )
    with pytest.raises(ConnectionError, match="certificate verify failed"):
        RawClient(wrong, client_id=A).connect()


def test_a_device_cannot_speak_as_another(bench: Bench) -> None:
    hub = up(bench, HUB_ID)
    with bench.raw(A) as a:
        a.publish(BY_NAME["heartbeat"].path(B), b"x")
        a.publish(BY_NAME["target"].path(B), b"x", retain=True)
        a.publish(BY_NAME["target"].path(A), b"x", retain=True)
        a.publish("elsewhere", b"x")
        a.publish(f"{ROOT}/{A}/up/../{B}/up/heartbeat", b"x", retain=True)
    assert list(hub.arrivals(wait_s=0.4)) == []
    victim = up(bench, B)
    assert messages(victim) == []
    assert victim.rejected_count == 0  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "pattern",
    [
        f"{ROOT}/{B}/down/target",
        f"{ROOT}/{B}/down/#",
        f"{ROOT}/{B}/up/presence",
        f"{ROOT}/+/down/target",
        f"{ROOT}/#",
        "#",
        "+/#",
        "$SYS/#",
    ],
)
def test_a_device_cannot_listen_to_another(bench: Bench, pattern: str) -> None:
    hub, victim = up(bench, HUB_ID), up(bench, B)
    hub.publish(B, Target(revision=1, issued_ms=1))  # Retained, before
    assert messages(victim) == [Target(revision=1, issued_ms=1)]
    with bench.raw(A) as a:
        assert a.subscribe(pattern) is not bench.refuses_subscriptions
        hub.publish(B, WATERMARK)
        assert messages(victim) == [WATERMARK]
        victim.publish(B, Presence(is_online=True))
        assert messages(hub) == [Presence(is_online=True)]
        heard = [message.path for message in list(a.received.queue)]
        assert [path for path in heard if f"/{A}/" not in path] == []


def test_a_device_that_connects_is_given_no_others_retained_messages(bench: Bench) -> None:
    hub, victim = up(bench, HUB_ID), up(bench, B)
    hub.publish(B, Target(revision=1, issued_ms=1))
    assert messages(victim) == [Target(revision=1, issued_ms=1)]
    with bench.raw(A) as a:
        assert a.subscribe(BY_NAME["target"].path(A))
        hub.publish(A, Target(revision=2, issued_ms=1))
        first = a.received.get(timeout=10)
    assert first.path == BY_NAME["target"].path(A)


def test_a_certificate_cannot_take_over_or_cut_anothers_session(bench: Bench) -> None:
    hub, victim = up(bench, HUB_ID), up(bench, B)
    for client_id in (B, HUB_ID):
        try:
            impostor = bench.raw(A, client_id=client_id)
        except ConnectionError:
            continue  # amqtt's gate refuses it.
        with impostor:  # mosquitto lets it in, as A.
            impostor.subscribe(BY_NAME["watermark"].path(B))
            hub.publish(B, WATERMARK)
            assert messages(victim) == [WATERMARK]
            assert impostor.received.empty()
    assert_unharmed(bench, hub, victim, B)


def test_no_certificate_can_neither_take_over_nor_cut(bench: Bench) -> None:
    hub, victim = up(bench, HUB_ID), up(bench, B)
    bare = type(bench.link_settings(A))(host=HOST, port=bench.port, ca_path=str(bench.pki.ca_path))
    with pytest.raises(ConnectionError):
        RawClient(bare, client_id=B).connect()
    assert_unharmed(bench, hub, victim, B)


def test_a_device_cannot_leave_a_will_in_anothers_name(bench: Bench) -> None:
    hub = up(bench, HUB_ID)
    try:
        raw = bench.raw(A, will_path=BY_NAME["presence"].path(B))
    except ConnectionError:
        return  # amqtt's gate refuses it.
    with raw:
        bench.cut(A)
        wait_until(raw.is_cut)
    assert not any(f"/{B}/" in str(arrival) for arrival in hub.arrivals(wait_s=0.5))


def test_the_same_certificate_takes_over_and_the_older_connection_closes(bench: Bench) -> None:
    hub = up(bench, HUB_ID)
    with bench.raw(A) as older:
        assert older.subscribe(BY_NAME["watermark"].path(A))
        with bench.raw(A) as newer:
            wait_until(older.is_cut)
            assert newer.subscribe(BY_NAME["watermark"].path(A))
            hub.publish(A, WATERMARK)
            assert newer.received.get(timeout=10).path == BY_NAME["watermark"].path(A)
            assert older.received.empty()


def test_a_take_over_of_a_durable_session_leaves_the_newer_one_connected(bench: Bench) -> None:
    hub, presence = up(bench, HUB_ID), BY_NAME["presence"].path(A)
    # A killed agent's connection, which the broker still believes in, and the agent's next one.
    with bench.raw(A, clean_session=False, will_path=presence) as older:
        newer = up(bench, A)
        wait_until(older.is_cut)
        newer.publish(A, Presence(is_online=True, reason="started"))
        # The older one's will comes before the newer one's birth, if at all (mosquitto drops it).
        *wills, birth = hub.arrivals(wait_s=0.4)
        assert isinstance(birth, Delivery)
        assert birth.received.message == Presence(is_online=True, reason="started")
        assert len(wills) <= 1
        assert all(isinstance(will, Rejection) and will.path == presence for will in wills)
        hub.acknowledge(birth)
        hub.publish(A, WATERMARK)
        assert messages(newer) == [WATERMARK]


def test_a_revoked_device_is_cut_and_stays_out(bench: Bench) -> None:
    hub, revoked, other = up(bench, HUB_ID), up(bench, A), up(bench, B)
    bench.revoke(A)
    wait_until(lambda: not revoked.is_connected)
    with pytest.raises(ConnectionError):
        bench.raw(A)
    assert not revoked.is_connected
    assert Presence(is_online=False, reason="connection lost") in messages(hub)
    assert_unharmed(bench, hub, other, B)
    bench.revoke(B)  # The second entry of the list
    wait_until(lambda: not other.is_connected)
    with pytest.raises(ConnectionError):
        bench.raw(B)
    assert hub.is_connected


def test_cutting_a_device_that_is_not_there_does_nothing(bench: Bench) -> None:
    hub = up(bench, HUB_ID)
    bench.link_settings(A)
    bench.cut(A)
    assert hub.is_connected


def test_a_packet_over_the_limit_ends_the_connection_before_it_is_read(bench: Bench) -> None:
    hub = up(bench, HUB_ID)
    with _tls(bench, A) as stream:
        stream.sendall(_connect(A))
        assert stream.recv(4)[3] == 0
        body = PACKET_BYTES_MAX + 1000
        stream.sendall(bytes([0x30]) + _length(body) + bytes(1024))
        assert _is_closed(stream)
    assert hub.is_connected


# What our own gate promises beyond that.


def test_a_connect_that_never_comes_is_cut_in_time(
    amqtt: AmqttBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cloud_hub.inbox.amqtt_broker.CONNECT_S_MAX", 0.2)
    with _tls(amqtt, A) as stream:
        stream.sendall(_connect(A)[:-3])  # Slowly, and never to its end
        assert _is_closed(stream)
    wait_until(lambda: amqtt.broker.refused_count == 1)


def test_a_handshake_that_never_comes_is_cut_in_time(
    amqtt: AmqttBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cloud_hub.inbox.amqtt_broker.CONNECT_S_MAX", 0.2)
    with socket.create_connection((HOST, amqtt.port), timeout=10) as plain:
        assert _is_closed(plain)


@pytest.mark.parametrize(
    "first_packet",
    [
        bytes([0x10]) + bytes([0xFF, 0xFF, 0xFF, 0x7F]),
        bytes([0x10]) + bytes([0xFF] * 5),
        bytes([0x10, 0x02, 0x00, 0x09]),
        bytes([0x30, 0x02, 0x00, 0x00]),
        bytes([0x10, 0x00]),
        b"GET / HTTP/1.1\r\n\r\n" + bytes(200),
    ],
    ids=["huge", "endless-length", "short-text", "publish", "empty", "http"],
)
def test_a_first_packet_that_is_no_connect_is_refused(
    amqtt: AmqttBench, first_packet: bytes
) -> None:
    hub = up(amqtt, HUB_ID)
    with _tls(amqtt, A) as stream:
        stream.sendall(first_packet)
        assert _is_closed(stream)
    assert hub.is_connected


def test_a_connect_over_its_limit_is_refused(amqtt: AmqttBench) -> None:
    with _tls(amqtt, A) as stream:
        stream.sendall(_connect(A, will=bytes(CONNECT_BYTES_MAX)))
        assert _is_closed(stream)


def test_a_client_that_falls_silent_is_announced_as_lost(amqtt: AmqttBench) -> None:
    hub = up(amqtt, HUB_ID)
    path = BY_NAME["presence"].path(A)
    with _tls(amqtt, A) as stream:
        stream.sendall(_connect(A, keepalive_s=1, will_path=path, will=b"gone"))
        assert stream.recv(4)[3] == 0
        rejection = next(hub.arrivals(wait_s=10))
        assert getattr(rejection, "path", "") == path
        assert _is_closed(stream)


@pytest.mark.parametrize(
    "packet",
    [
        bytes([0x30, 0x05, 0x00, 0x03]) + b"a/#",
        bytes([0x30, 0x06, 0x00, 0x04]) + b"$SYS",
        bytes([0x30, 0x02, 0x00, 0x00]),
        bytes([0x34, 0x05, 0x00, 0x01]) + b"a\x00\x01",
        bytes([0x30, 0x03, 0x00, 0x09]) + b"a",
        bytes([0x82, 0x04, 0x00, 0x01, 0x00, 0x40]),
        bytes([0xF0, 0x00]),
        bytes([0x00, 0x00]),
        bytes([0x10, 0x00]),
    ],
)
def test_broken_packets_cost_only_the_one_who_sends_them(amqtt: AmqttBench, packet: bytes) -> None:
    hub, other = up(amqtt, HUB_ID), up(amqtt, B)
    with _tls(amqtt, A) as stream:
        stream.sendall(_connect(A))
        assert stream.recv(4)[3] == 0
        stream.sendall(packet + bytes([0xC0, 0x00]))
    assert_unharmed(amqtt, hub, other, B)
    # And the one who sent it can come back.
    up(amqtt, A).stop()


@pytest.mark.parametrize("goodbye", [b"", bytes([0xE0, 0x00])], ids=["lost", "disconnect"])
def test_what_a_client_sent_before_it_left_is_passed_on(amqtt: AmqttBench, goodbye: bytes) -> None:
    hub = up(amqtt, HUB_ID)
    path = BY_NAME["heartbeat"].path(A).encode()
    publish = bytes([0x30]) + _length(len(_field(path)) + 1) + _field(path) + b"x"
    with _tls(amqtt, A) as stream:
        stream.sendall(_connect(A))
        assert stream.recv(4)[3] == 0
        stream.sendall(publish * 50 + goodbye)
    arrivals = hub.arrivals(wait_s=10)
    for _ in range(50):
        assert getattr(next(arrivals), "path", "") == path.decode()


def test_a_device_cannot_fill_the_broker_with_topics_of_its_own(amqtt: AmqttBench) -> None:
    hub = up(amqtt, HUB_ID)
    with amqtt.raw(A) as a:
        granted = [a.subscribe(f"{ROOT}/{A}/down/{number}") for number in range(40)]
        assert granted == [True] * 32 + [False] * 8
        for number in range(10):
            a.publish(f"{ROOT}/{A}/up/{number}", b"x", retain=True)
        a.publish(BY_NAME["report"].path(A), b"x", retain=True)
        assert getattr(next(hub.arrivals(wait_s=10)), "path", "") == BY_NAME["report"].path(A)
        kept = amqtt.broker._broker.retained_messages
        assert set(kept) == {BY_NAME["report"].path(A)}


def test_a_client_that_reads_nothing_is_cut_before_it_fills_the_memory(amqtt: AmqttBench) -> None:
    hub = up(amqtt, HUB_ID)
    path = BY_NAME["block"].path(A)
    block = Block(path="targets/a", index=0, file_bytes=1, data=bytes(65536))
    with _tls(amqtt, A) as stream:
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        stream.sendall(_connect(A))
        assert stream.recv(4)[3] == 0
        stream.sendall(bytes([0x82]) + _length(2 + len(_field(path.encode())) + 1))
        stream.sendall(b"\x00\x01" + _field(path.encode()) + b"\x00")
        assert stream.recv(5)[4] == 0
        for _ in range(600):  # 37 MiB
            wait_until(lambda: _published(hub, block))
        wait_until(lambda: A not in amqtt.broker._live)
    assert hub.is_connected


def _published(hub: Link, block: Block) -> bool:
    try:
        hub.publish(A, block)
    except TransientError:
        return False
    return True


def test_an_older_certificate_of_the_hub_is_not_the_hubs_any_more(amqtt: AmqttBench) -> None:
    amqtt.raw(HUB_ID).close()
    amqtt.revoke(HUB_ID)
    with pytest.raises(ConnectionError):
        amqtt.raw(HUB_ID)


def test_one_address_cannot_keep_the_others_out(amqtt: AmqttBench) -> None:
    hub = up(amqtt, HUB_ID)
    crowd = [socket.create_connection((HOST, amqtt.port), timeout=10) for _ in range(25)]
    try:
        wait_until(lambda: amqtt.broker.refused_count >= 5)
        with _tls(amqtt, A, source="127.0.0.2") as stream:
            stream.sendall(_connect(A))
            assert stream.recv(4) == bytes([0x20, 2, 0, 0])  # CONNACK: accepted
        assert hub.is_connected
    finally:
        for connection in crowd:
            connection.close()


def test_who_was_let_in_does_not_count_as_a_stranger(amqtt: AmqttBench) -> None:
    names = [DeviceId(f"dev-{number}") for number in range(25)]
    links = [up(amqtt, name) for name in names]
    assert all(link.is_connected for link in links)
    assert amqtt.broker.refused_count == 0


def test_refusals_do_not_fill_the_log(amqtt: AmqttBench, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    for _ in range(30):
        socket.create_connection((HOST, amqtt.port), timeout=10).close()
    wait_until(lambda: amqtt.broker.refused_count >= 30)
    assert len([one for one in caplog.records if one.getMessage() == "broker.refused"]) <= 2


def test_only_so_many_connections_are_held(amqtt: AmqttBench) -> None:
    hub = up(amqtt, HUB_ID)
    opened = [
        socket.create_connection((HOST, amqtt.port), timeout=10, source_address=(source, 0))
        for source in ("127.0.0.1", "127.0.0.2", "127.0.0.3")
        for _ in range(15)
    ]
    try:
        wait_until(lambda: amqtt.broker.refused_count >= 6)
        assert hub.is_connected
    finally:
        for connection in opened:
            connection.close()
    up(amqtt, A).stop()


def test_a_taken_port_is_named(amqtt: AmqttBench) -> None:
    with pytest.raises(UnavailableError, match=str(amqtt.port)) as caught:
        amqtt._start(port=amqtt.port)
    assert caught.value.code == "broker.port_busy"


def _tls(bench: Bench, client: DeviceId, *, source: str = HOST) -> ssl.SSLSocket:
    settings = bench.link_settings(client)
    assert settings.certificate_path is not None
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    tls.load_verify_locations(settings.ca_path)
    tls.load_cert_chain(settings.certificate_path, settings.key_path)
    plain = socket.create_connection((HOST, bench.port), timeout=10, source_address=(source, 0))
    return tls.wrap_socket(plain, server_hostname=HOST)


def _is_closed(stream: socket.socket) -> bool:
    """Read to the end; False if the peer keeps the connection open."""
    try:
        while stream.recv(4096):
            pass
    except TimeoutError:
        return False
    except OSError:
        pass
    return True


def _connect(client: str, *, keepalive_s: int = 0, will_path: str = "", will: bytes = b"") -> bytes:
    flags = 0x02 | (0x0C if will_path or will else 0)
    body = _field(b"MQTT") + bytes([4, flags]) + struct.pack("!H", keepalive_s)
    body += _field(client.encode())
    if will_path or will:
        body += _field((will_path or BY_NAME["presence"].path(A)).encode()) + _field(will)
    return bytes([0x10]) + _length(len(body)) + body


def _field(data: bytes) -> bytes:
    return struct.pack("!H", len(data)) + data


def _length(value: int) -> bytes:
    out = bytearray()
    while True:
        value, rest = divmod(value, 128)
        out.append(rest | (0x80 if value else 0))
        if not value:
            return bytes(out)
