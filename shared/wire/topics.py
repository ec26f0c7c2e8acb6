"""THE table of topics: every name on the wire, who may send it, and what it holds.

1. A topic has exactly one message type, direction, QoS, retain flag and size limit.
2. Every topic is a device's own: `isthmus/1/devices/<device>/<up|down>/<name>`. A device may
   publish only under its own `up/` and read only its own `down/`; brokers enforce that by prefix.
3. The number after `isthmus/` is the wire's major version; schema numbers are per message.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

from shared.errors import ContractError
from shared.ids import DeviceId, parse_device_id
from shared.wire.blocks import Block, BlockRequest
from shared.wire.certificates import CertificateReply, CertificateRequest
from shared.wire.presence import Heartbeat, Presence
from shared.wire.records import RecordBatch, Watermark
from shared.wire.report import Report
from shared.wire.target import Target

ROOT = "isthmus/1/devices"
TOPIC_CHARS_MAX = 200

Message = (
    Presence
    | Heartbeat
    | RecordBatch
    | Report
    | BlockRequest
    | CertificateRequest
    | Target
    | Watermark
    | Block
    | CertificateReply
)


class Direction(StrEnum):
    """Who sends."""

    UP = "up"  # From the device to the hub
    DOWN = "down"  # From the hub to the device


@dataclass(frozen=True, slots=True)
class Topic:
    """One row of the table."""

    name: str
    direction: Direction
    message: type[Message]
    qos: int
    retain: bool
    bytes_max: int

    def path(self, device: DeviceId) -> str:
        """Return this topic's full name for one device."""
        return f"{ROOT}/{device}/{self.direction}/{self.name}"


_UP, _DOWN, _KIB = Direction.UP, Direction.DOWN, 1024
TOPICS = (
    #      name              direction message       qos retain bytes_max
    Topic("presence", _UP, Presence, 1, True, 4 * _KIB),
    Topic("heartbeat", _UP, Heartbeat, 0, False, 1 * _KIB),
    Topic("records", _UP, RecordBatch, 1, False, 256 * _KIB),
    Topic("report", _UP, Report, 1, True, 128 * _KIB),
    Topic("block-request", _UP, BlockRequest, 1, False, 1 * _KIB),
    Topic("certificate-request", _UP, CertificateRequest, 1, False, 16 * _KIB),
    Topic("target", _DOWN, Target, 1, True, 256 * _KIB),
    Topic("watermark", _DOWN, Watermark, 1, False, 1 * _KIB),
    Topic("block", _DOWN, Block, 0, False, 66 * _KIB),
    Topic("certificate-reply", _DOWN, CertificateReply, 1, False, 16 * _KIB),
)
BY_NAME: Mapping[str, Topic] = MappingProxyType({topic.name: topic for topic in TOPICS})
BY_MESSAGE: Mapping[type[Message], Topic] = MappingProxyType({t.message: t for t in TOPICS})
MESSAGE_BYTES_MAX = max(topic.bytes_max for topic in TOPICS)


def topic_of(message: Message) -> Topic:
    """Return the row of the table for a message's type."""
    return BY_MESSAGE[type(message)]


def parse_path(path: str) -> tuple[Topic, DeviceId]:
    """Return the table's row and the device of a full topic name.

    Raises ContractError `topic.unknown` or `id.device`.
    """
    rest = path.removeprefix(ROOT + "/") if len(path) <= TOPIC_CHARS_MAX else ""
    device, _, tail = rest.partition("/")
    direction, _, name = tail.partition("/")
    topic = BY_NAME.get(name)
    if topic is None or topic.direction != direction:
        raise ContractError("topic.unknown", f"No such topic: {path[:TOPIC_CHARS_MAX]!r}.")
    return topic, parse_device_id(device)


def hub_filters() -> tuple[tuple[str, int], ...]:
    """Return what the hub subscribes to: (filter, QoS) for every device."""
    return tuple((f"{ROOT}/+/{t.direction}/{t.name}", t.qos) for t in TOPICS if t.direction is _UP)


def device_filters(device: DeviceId) -> tuple[tuple[str, int], ...]:
    """Return what one device subscribes to: (filter, QoS)."""
    return tuple((t.path(device), t.qos) for t in TOPICS if t.direction is _DOWN)
