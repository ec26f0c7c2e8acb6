"""What the hub and a serving process say to each other, over a socket pair.

1. A message is four bytes of length, big-endian, then msgpack. MESSAGE_BYTES_MAX at most.
2. The process says Ready once; each Ask is answered by one Told with the same number, in any order.
3. An end of file from the hub means: answer what is there, then end.
"""

import socket
import struct
from typing import Annotated

import msgspec
from msgspec import Meta

from shared.errors import ContractError

MESSAGE_BYTES_MAX = 64 << 20
PROBABILITIES_SHOWN_MAX = 10
_LENGTH = struct.Struct(">I")


class Box(msgspec.Struct, frozen=True):
    """One object on a picture, corners as shares of it."""

    label: str
    score: float
    left: float
    top: float
    right: float
    bottom: float


class Classified(msgspec.Struct, frozen=True, tag="classification", tag_field="task"):
    """The likeliest class, and the likeliest few."""

    label: str
    probability: float
    probabilities: dict[str, float]  # The best PROBABILITIES_SHOWN_MAX, best first


class Detected(msgspec.Struct, frozen=True, tag="detection", tag_field="task"):
    """Objects, best first."""

    boxes: tuple[Box, ...]


class Scored(msgspec.Struct, frozen=True, tag="anomaly", tag_field="task"):
    """How unlike the normal an item is; or the number that the model puts out."""

    score: float
    is_anomalous: bool  # Above the spec's threshold


class Estimated(msgspec.Struct, frozen=True, tag="values", tag_field="task"):
    """Numbers: of a regression, or those to come of a forecast."""

    values: tuple[float, ...]
    names: tuple[str, ...] = ()  # Of the values, where the spec names them
    unit: str = ""


class Segmented(msgspec.Struct, frozen=True, tag="segmentation", tag_field="task"):
    """How much of the picture each class takes up."""

    shares: dict[str, float]


Answer = Classified | Detected | Scored | Estimated | Segmented


class Ready(msgspec.Struct, frozen=True, tag="ready"):
    """The process has loaded the model and run it once; or why it cannot."""

    is_batched: bool = False  # The model takes many items at once
    code: str = ""
    text: str = ""


class Ask(msgspec.Struct, frozen=True, tag="ask"):
    """One item: an encoded picture, float32 samples (T, C) little-endian, or UTF-8."""

    number: Annotated[int, Meta(ge=0)]
    item: bytes


class Told(msgspec.Struct, frozen=True, tag="told"):
    """What came of one Ask."""

    number: int
    answer: Answer | None
    batch: int = 1  # Items that were run together
    wait_ms: float = 0.0  # For the batch, in the process
    run_ms: float = 0.0  # Of the batch
    code: str = ""
    text: str = ""
    remedy: str = ""


Message = Ready | Ask | Told
_DECODER: msgspec.msgpack.Decoder[Message] = msgspec.msgpack.Decoder(Message)


def send(connection: socket.socket, message: Message) -> None:
    """Send a message whole. Raises OSError."""
    data = msgspec.msgpack.encode(message)
    connection.sendall(_LENGTH.pack(len(data)) + data)


def receive(connection: socket.socket) -> Message | None:
    """Return the next message; None at the end. Raises ContractError, OSError, TimeoutError."""
    head = _read(connection, _LENGTH.size)
    if head is None:
        return None
    (length,) = _LENGTH.unpack(head)
    if length > MESSAGE_BYTES_MAX:
        raise ContractError("serving.message", f"A message of {length} bytes is too large.")
    data = _read(connection, length)
    if data is None:
        return None
    try:
        return _DECODER.decode(data)
    except msgspec.MsgspecError as error:
        raise ContractError("serving.message", f"Not a message: {error}.") from error


def _read(connection: socket.socket, length: int) -> bytes | None:
    parts = bytearray()
    while len(parts) < length:
        part = connection.recv(length - len(parts))
        if not part:
            return None
        parts += part
    return bytes(parts)
