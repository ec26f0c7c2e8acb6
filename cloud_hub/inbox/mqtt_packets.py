"""The few MQTT 3.1.1 packets that the gate in front of the embedded broker must understand.

Pure: bytes in, values out. Section numbers are those of the OASIS standard (2014).

What must not live here: sessions, subscriptions, delivery; those are the broker's.
"""

from dataclasses import dataclass
from enum import IntEnum

from shared.errors import ContractError
from shared.wire.topics import MESSAGE_BYTES_MAX, TOPIC_CHARS_MAX

CONNECT_BYTES_MAX = 8 * 1024  # A device's CONNECT with its last will has about 300
PACKET_BYTES_MAX = MESSAGE_BYTES_MAX + TOPIC_CHARS_MAX + 64
_LENGTH_BYTES_MAX = 4  # Section 2.2.3
_RETAIN_BIT = 0x01


class PacketType(IntEnum):
    """Section 2.2.1: the first four bits; only those that the gate looks at."""

    CONNECT = 1
    CONNACK = 2
    PUBLISH = 3
    SUBACK = 9
    DISCONNECT = 14


class Refusal(IntEnum):
    """Section 3.2.2.3: why a connection is refused."""

    PROTOCOL = 1
    IDENTIFIER = 2
    UNAVAILABLE = 3
    NOT_AUTHORIZED = 5


@dataclass(frozen=True, slots=True)
class Connect:
    """What a CONNECT packet says, as far as the gate cares."""

    client_id: str
    keepalive_s: int
    will_path: str | None
    keepalive_offset: int  # Where in the packet its two bytes stand


def packet_type(packet: bytes) -> int:
    """Return the type of a whole packet; see PacketType."""
    return packet[0] >> 4


def qos_of(packet: bytes) -> int:
    """Return the QoS of a PUBLISH packet (section 3.3.1.2)."""
    return (packet[0] >> 1) & 0b11


def is_retained(packet: bytes) -> bool:
    """Whether the RETAIN flag of a PUBLISH packet is set."""
    return bool(packet[0] & _RETAIN_BIT)


def without_retain(packet: bytes) -> bytes:
    """Return a PUBLISH packet with its RETAIN flag cleared."""
    return bytes([packet[0] & ~_RETAIN_BIT]) + packet[1:]


def split_length(head: bytes) -> tuple[int, int] | None:
    """Return (bytes of the fixed header, bytes after it), or None while `head` is too short.

    Raises ContractError `mqtt.malformed` when the length field itself is wrong (section 2.2.3).
    """
    value = 0
    for index, byte in enumerate(head[1 : 1 + _LENGTH_BYTES_MAX]):
        value += (byte & 0x7F) << (7 * index)
        if not byte & 0x80:
            return index + 2, value
    if len(head) > _LENGTH_BYTES_MAX:
        raise ContractError("mqtt.malformed", "The length of a packet has over four bytes.")
    return None


def publish_path(packet: bytes) -> str:
    """Return the topic of a whole PUBLISH packet (section 3.3.2.1).

    Raises ContractError `mqtt.malformed`.
    """
    start, _ = _header(packet)
    return _Fields(packet, start).text()


def parse_connect(packet: bytes) -> Connect:
    """Return what a whole CONNECT packet says (section 3.1).

    Raises ContractError `mqtt.malformed` or, for other protocol versions, `mqtt.protocol`.
    """
    if packet_type(packet) != PacketType.CONNECT or packet[0] & 0x0F:
        raise ContractError("mqtt.malformed", "The first packet is not CONNECT.")
    start, _ = _header(packet)
    fields = _Fields(packet, start)
    protocol, level, flags = fields.text(), fields.byte(), fields.byte()
    if (protocol, level) != ("MQTT", 4):
        raise ContractError("mqtt.protocol", "This broker speaks MQTT 3.1.1 only.")
    if flags & 0x01:
        raise ContractError("mqtt.malformed", "A reserved flag of CONNECT is set.")
    keepalive_offset = fields.offset
    keepalive_s = fields.number()
    client_id = fields.text()
    will_path = None
    if flags & 0x04:
        will_path = fields.text()
        fields.skip()
    for flag in (0x80, 0x40):  # User name, password: read over, the certificate says who it is
        if flags & flag:
            fields.skip()
    if fields.offset != len(packet):
        raise ContractError("mqtt.malformed", "CONNECT has bytes after its end.")
    return Connect(client_id, keepalive_s, will_path, keepalive_offset)


def without_keepalive(packet: bytes, connect: Connect) -> bytes:
    """Return a CONNECT packet that asks for no keep-alive."""
    start = connect.keepalive_offset
    return packet[:start] + b"\x00\x00" + packet[start + 2 :]


def connack(refusal: Refusal) -> bytes:
    """Return the CONNACK packet that refuses a connection (section 3.2)."""
    return bytes([PacketType.CONNACK << 4, 2, 0, refusal])


def _header(packet: bytes) -> tuple[int, int]:
    split = split_length(packet[:5])
    if split is None or sum(split) != len(packet):
        raise ContractError("mqtt.malformed", "A packet is not as long as it says.")
    return split


class _Fields:
    """Reads one packet's fields in order; past the end is ContractError `mqtt.malformed`."""

    def __init__(self, packet: bytes, offset: int) -> None:
        self.offset = offset
        self._packet = packet

    def byte(self) -> int:
        return self._take(1)[0]

    def number(self) -> int:
        return int.from_bytes(self._take(2), "big")

    def text(self) -> str:
        try:
            return self._take(self.number()).decode()
        except UnicodeDecodeError as error:
            raise ContractError("mqtt.malformed", "A text is not UTF-8.") from error

    def skip(self) -> None:
        self._take(self.number())

    def _take(self, count: int) -> bytes:
        end = self.offset + count
        if end > len(self._packet):
            raise ContractError("mqtt.malformed", "A packet ends in the middle of a field.")
        data = self._packet[self.offset : end]
        self.offset = end
        return data
