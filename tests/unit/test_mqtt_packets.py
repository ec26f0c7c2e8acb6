"""The gate's packet parser: the standard's own layout, and ContractError for all else."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloud_hub.inbox import mqtt_packets as packets
from cloud_hub.inbox.mqtt_packets import Connect, PacketType, Refusal
from shared.errors import ContractError


def field(data: bytes) -> bytes:
    return len(data).to_bytes(2, "big") + data


def packet(first: int, body: bytes) -> bytes:
    assert len(body) < 128
    return bytes([first, len(body)]) + body


def connect(
    *, flags: int = 2, rest: bytes = b"", client: bytes = b"dev-a", level: int = 4
) -> bytes:
    head = field(b"MQTT") + bytes([level, flags]) + b"\x00\x3c" + field(client)
    return packet(0x10, head + rest)


def test_a_plain_connect_is_read() -> None:
    assert packets.parse_connect(connect()) == Connect("dev-a", 60, None, 10)


def test_will_user_name_and_password_are_read_over() -> None:
    rest = field(b"a/will") + field(b"\x00\xff") + field(b"user") + field(b"pass")
    parsed = packets.parse_connect(connect(flags=0xC6, rest=rest))
    assert (parsed.client_id, parsed.will_path) == ("dev-a", "a/will")


def test_the_keep_alive_can_be_taken_out() -> None:
    sent = connect()
    parsed = packets.parse_connect(packets.without_keepalive(sent, packets.parse_connect(sent)))
    assert parsed == Connect("dev-a", 0, None, 10)


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (connect(level=5), "mqtt.protocol"),
        (connect(level=3), "mqtt.protocol"),
        (connect(flags=3), "mqtt.malformed"),
        (connect(flags=6), "mqtt.malformed"),
        (connect(rest=b"x"), "mqtt.malformed"),
        (connect(client=b"\xff"), "mqtt.malformed"),
        (connect()[:-1], "mqtt.malformed"),
        (connect() + b"x", "mqtt.malformed"),
        (packet(0x11, connect()[2:]), "mqtt.malformed"),
        (packet(0x30, field(b"a")), "mqtt.malformed"),
        (packet(0x10, b""), "mqtt.malformed"),
    ],
)
def test_what_is_no_connect_of_ours_is_refused(sent: bytes, code: str) -> None:
    with pytest.raises(ContractError) as caught:
        packets.parse_connect(sent)
    assert caught.value.code == code


@pytest.mark.parametrize(
    ("head", "split"),
    [
        (b"\x10", None),
        (b"\x10\x00", (2, 0)),
        (b"\x10\x7f", (2, 127)),
        (b"\x10\x80", None),
        (b"\x10\x80\x01", (3, 128)),
        (b"\x10\xff\xff\xff\x7f", (5, 268_435_455)),
        (b"\x10\xff\xff\xff", None),
    ],
)
def test_lengths_are_read_as_the_standard_says(head: bytes, split: tuple[int, int] | None) -> None:
    assert packets.split_length(head) == split


def test_a_length_of_five_bytes_is_refused() -> None:
    with pytest.raises(ContractError):
        packets.split_length(b"\x10\xff\xff\xff\xff")


def test_a_publish_tells_its_topic_and_flags() -> None:
    sent = packet(0x33, field(b"a/b") + b"\x00\x01data")
    assert packets.packet_type(sent) == PacketType.PUBLISH
    assert packets.publish_path(sent) == "a/b"
    assert packets.qos_of(sent) == 1
    assert packets.is_retained(sent)
    cleared = packets.without_retain(sent)
    assert not packets.is_retained(cleared)
    assert (packets.qos_of(cleared), cleared[1:]) == (1, sent[1:])


def test_a_refusal_is_a_connack() -> None:
    assert packets.connack(Refusal.NOT_AUTHORIZED) == b"\x20\x02\x00\x05"


@settings(max_examples=500)
@given(st.binary(min_size=1, max_size=60), st.booleans())
def test_any_bytes_are_read_or_refused(body: bytes, is_connect: bool) -> None:
    sent = packet(0x10 if is_connect else 0x30, body)
    parse = packets.parse_connect if is_connect else packets.publish_path
    try:
        parse(sent)
    except ContractError as error:
        found = error.code
    else:
        found = "read"
    assert found in ("read", "mqtt.malformed", "mqtt.protocol")
