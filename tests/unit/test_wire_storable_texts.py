"""No text with a NUL crosses the wire: PostgreSQL cannot store it, SQLite can."""

from collections.abc import Callable

import msgspec
import pytest

from shared.errors import ContractError
from shared.ids import DeviceId, SessionId
from shared.wire.codec import decode, encode
from shared.wire.envelope import Envelope
from shared.wire.presence import Hardware, Presence
from shared.wire.records import Record, RecordBatch, TelemetryRecord
from shared.wire.topics import Message, topic_of

DEVICE, SESSION = DeviceId("dev-a"), SessionId("0" * 16)


def telemetry(label: str) -> RecordBatch:
    numbers: dict[str, float] = {
        name: 0
        for name in TelemetryRecord.__struct_fields__
        if name not in ("pipeline", "model", "version", "labels", "stages")
    }
    body = TelemetryRecord(
        pipeline="p", model="m", version=1, labels={label: 1}, **numbers  # type: ignore[arg-type]
    )  # fmt: skip
    return RecordBatch(stream="0" * 16, since=0, records=(Record(sequence=1, at_ms=0, body=body),))


def presence(board: str) -> Presence:
    hardware = Hardware(machine="x", board=board, cores_count=1, memory_bytes=1)
    return Presence(is_online=True, hardware=hardware)


@pytest.mark.parametrize("make", [telemetry, presence])
def test_a_text_with_a_nul_is_refused_both_ways(make: Callable[[str], Message]) -> None:
    good = make("good")
    bad = make("b\0d")
    path = topic_of(good).path(DEVICE)
    assert decode(path, encode(good, session_id=SESSION, sent_ms=0)).message == good
    with pytest.raises(ContractError, match="NUL"):
        encode(bad, session_id=SESSION, sent_ms=0)
    envelope = Envelope(
        schema=1,
        message_id="0" * 16,
        session_id=SESSION,
        sent_ms=0,
        body=msgspec.Raw(msgspec.msgpack.encode(bad)),
    )
    with pytest.raises(ContractError) as raised:
        decode(path, msgspec.msgpack.encode(envelope))
    assert raised.value.code == "wire.invalid"
