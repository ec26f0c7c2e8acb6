"""Bytes to messages and back: MessagePack, strict, bounded, and never an error but ContractError.

1. Size is checked before anything is decoded.
2. The envelope first; a schema number that is not this program's own is refused, not guessed at.
3. The body strictly: unknown fields, wrong types and values out of range are refused, and so are,
   wherever they stand, NaN and infinity, and texts with a NUL (PostgreSQL cannot store it).
"""

import math
import secrets
from dataclasses import dataclass
from functools import cache

import msgspec

from shared.errors import ContractError
from shared.ids import DeviceId, SessionId
from shared.wire.envelope import Envelope
from shared.wire.topics import Message, Topic, parse_path, topic_of

_ENCODER = msgspec.msgpack.Encoder()
_ENVELOPES = msgspec.msgpack.Decoder(Envelope)


@dataclass(frozen=True, slots=True)
class Received:
    """One message as it came in."""

    topic: Topic
    device: DeviceId
    session_id: SessionId
    message_id: str
    sent_ms: int
    message: Message


def encode(message: Message, *, session_id: SessionId, sent_ms: int) -> bytes:
    """Return `message` in its envelope.

    Raises ContractError `wire.too_large` when it is over its topic's limit, `wire.invalid` when
    a value breaks the contract (so that a peer never has to refuse what we sent).
    """
    topic = topic_of(message)
    body = _ENCODER.encode(message)
    _decode_body(body, topic)
    envelope = Envelope(
        schema=message.schema,
        message_id=secrets.token_hex(8),
        session_id=session_id,
        sent_ms=sent_ms,
        body=msgspec.Raw(body),
    )
    payload = _ENCODER.encode(envelope)
    _refuse_too_large(payload, topic)
    return payload


def decode(path: str, payload: bytes) -> Received:
    """Return the message that came in on topic `path`.

    Raises ContractError `topic.unknown`, `id.device`, `wire.too_large`, `wire.invalid` or
    `wire.schema`; nothing else, whatever the bytes.
    """
    topic, device = parse_path(path)
    _refuse_too_large(payload, topic)
    try:
        envelope = _ENVELOPES.decode(payload)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise ContractError("wire.invalid", f"{topic.name}: bad envelope: {error}") from error
    if envelope.schema != topic.message.schema:
        raise ContractError(
            "wire.schema",
            f"{topic.name} has schema {envelope.schema}, not {topic.message.schema}.",
            remedy="Bring the older of the two programs up to date.",
        )
    message = _decode_body(bytes(envelope.body), topic)
    return Received(
        topic=topic,
        device=device,
        session_id=SessionId(envelope.session_id),
        message_id=envelope.message_id,
        sent_ms=envelope.sent_ms,
        message=message,
    )


def _refuse_too_large(payload: bytes, topic: Topic) -> None:
    if len(payload) > topic.bytes_max:
        raise ContractError(
            "wire.too_large",
            f"A {topic.name} message has {len(payload)} bytes; its limit is {topic.bytes_max}.",
        )


def _decode_body(body: bytes, topic: Topic) -> Message:
    try:
        message = _decoder(topic.message).decode(body)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise ContractError("wire.invalid", f"{topic.name}: {error}") from error
    _refuse_unstorable(message, topic)
    return message


@cache
def _decoder(message: type[Message]) -> "msgspec.msgpack.Decoder[Message]":
    return msgspec.msgpack.Decoder(message)


def _refuse_unstorable(value: object, topic: Topic) -> None:
    """Raise ContractError `wire.invalid` if a NaN, an infinity or a NUL is anywhere in `value`."""
    pending = [value]
    while pending:
        match pending.pop():
            case float() as number if not math.isfinite(number):
                raise ContractError("wire.invalid", f"{topic.name}: a number is not finite.")
            case str() as text if "\0" in text:
                raise ContractError("wire.invalid", f"{topic.name}: a text holds a NUL.")
            case msgspec.Struct() as struct:
                pending.extend(getattr(struct, name) for name in struct.__struct_fields__)
            case tuple() as items:
                pending.extend(items)
            case dict() as table:
                pending.extend(table)
                pending.extend(table.values())
            case _:
                pass
