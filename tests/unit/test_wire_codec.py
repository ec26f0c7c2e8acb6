"""The codec's rules: size first, its own schema only, strict bodies, finite numbers."""

import math

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.errors import ContractError
from shared.ids import DeviceId, SessionId
from shared.wire.codec import decode, encode
from shared.wire.presence import Heartbeat, Presence
from shared.wire.records import (
    Classified,
    DecisionRecord,
    EventRecord,
    Record,
    RecordBatch,
    Scored,
    Watermark,
)
from shared.wire.target import Target, TargetRelease, TrialPolicy
from shared.wire.topics import BY_NAME, TOPICS, Message, Topic
from tests.support.wire_messages import messages

DEVICE = DeviceId("dev-a")
SESSION = SessionId("0123456789abcdef")
STREAM = "fedcba9876543210"


def packed(message: Message) -> bytes:
    return encode(message, session_id=SESSION, sent_ms=1)


def refusal(topic: Topic, payload: bytes) -> str:
    with pytest.raises(ContractError) as caught:
        decode(topic.path(DEVICE), payload)
    return caught.value.code


def decision(*, confidence: float = 0.5, latency_ms: float = 1.0) -> RecordBatch:
    outcome = Classified(label="a", confidence=confidence)
    body = DecisionRecord(
        pipeline="p",
        model="m",
        version=1,
        item=1,
        captured_ms=1,
        latency_ms=latency_ms,
        outcome=outcome,
    )
    return RecordBatch(stream=STREAM, since=0, records=(Record(sequence=1, at_ms=1, body=body),))


@pytest.mark.slow
@pytest.mark.parametrize("topic", TOPICS, ids=lambda topic: topic.name)
def test_what_is_encoded_is_decoded_again(topic: Topic) -> None:
    @settings(max_examples=50, deadline=None)
    @given(messages(topic))
    def check(message: Message) -> None:
        received = decode(topic.path(DEVICE), packed(message))
        assert received.message == message
        assert (received.topic, received.device) == (topic, DEVICE)
        assert (received.session_id, received.sent_ms) == (SESSION, 1)

    check()


def test_every_message_gets_an_id_of_its_own() -> None:
    path, message = BY_NAME["presence"].path(DEVICE), Presence(is_online=True)
    ids = {decode(path, packed(message)).message_id for _ in range(100)}
    assert len(ids) == 100


@pytest.mark.parametrize("topic", TOPICS, ids=lambda topic: topic.name)
def test_a_message_over_its_topics_limit_is_refused_unread(topic: Topic) -> None:
    assert refusal(topic, b"\x00" * (topic.bytes_max + 1)) == "wire.too_large"
    assert refusal(topic, b"\x00" * topic.bytes_max) == "wire.invalid"


def test_the_sender_refuses_what_the_receiver_would() -> None:
    text = "x" * 2000
    many = tuple(
        Record(sequence=i, at_ms=1, body=EventRecord(code="a", text=text)) for i in range(1, 200)
    )
    for message, code in (
        (RecordBatch(stream=STREAM, since=0, records=many), "wire.too_large"),
        (RecordBatch(stream=STREAM, since=0, records=()), "wire.invalid"),
        (Watermark(stream="short", sequence=1), "wire.invalid"),
        (Watermark(stream=STREAM, sequence=-1), "wire.invalid"),
        (decision(confidence=1.01), "wire.invalid"),
        (Presence(is_online=True, reason="x" * 121), "wire.invalid"),
    ):
        with pytest.raises(ContractError) as caught:
            packed(message)
        assert caught.value.code == code


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_a_number_that_is_none_is_refused_wherever_it_stands(number: float) -> None:
    release = TargetRelease(
        model="m",
        version=1,
        manifest_digest="0" * 64,
        rollout="r",
        trial=TrialPolicy(latency_ratio_max=number),
    )
    scored = Scored(score=number, threshold=1.0, is_anomalous=False)
    body = DecisionRecord(
        pipeline="p", model="m", version=1, item=1, captured_ms=1, latency_ms=1.0, outcome=scored
    )
    for message in (
        decision(confidence=number),
        decision(latency_ms=number),
        RecordBatch(stream=STREAM, since=0, records=(Record(sequence=1, at_ms=1, body=body),)),
        Target(revision=1, issued_ms=1, releases=(release,)),
    ):
        with pytest.raises(ContractError) as caught:
            packed(message)
        assert caught.value.code == "wire.invalid"


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_a_peer_that_sends_no_number_is_refused(number: float) -> None:
    sound = packed(decision(latency_ms=0.123456789))
    old = msgspec.msgpack.encode(0.123456789)
    assert sound.count(old) == 1
    broken = sound.replace(old, msgspec.msgpack.encode(number))
    assert refusal(BY_NAME["records"], broken) == "wire.invalid"


@pytest.mark.parametrize("schema", [2, 999])
def test_another_schema_is_refused_with_a_remedy(schema: int) -> None:
    envelope = msgspec.msgpack.decode(packed(Presence(is_online=True)))
    envelope["schema"] = schema
    with pytest.raises(ContractError, match="up to date") as caught:
        decode(BY_NAME["presence"].path(DEVICE), msgspec.msgpack.encode(envelope))
    assert caught.value.code == "wire.schema"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("schema", 0),
        ("schema", "1"),
        ("message_id", "0123456789ABCDEF"),
        ("message_id", "0123456789abcdef\n"),
        ("session_id", "0123456789abcde"),
        ("session_id", "0123456789abcdef\n"),
        ("sent_ms", -1),
        ("sent_ms", 2**53 + 1),
        ("sent_ms", 1.5),
        ("extra", 1),
        ("body", None),
        ("body", {"is_online": True, "unknown": 1}),
        ("body", {"is_online": 1}),
        ("body", {"is_online": "true"}),
        ("body", {}),
        ("body", [True]),
    ],
)
def test_an_envelope_or_body_that_breaks_the_contract_is_refused(field: str, value: object) -> None:
    envelope = msgspec.msgpack.decode(packed(Presence(is_online=True)))
    envelope[field] = value
    assert refusal(BY_NAME["presence"], msgspec.msgpack.encode(envelope)) == "wire.invalid"


@pytest.mark.parametrize("missing", ["schema", "message_id", "session_id", "sent_ms", "body"])
def test_an_envelope_without_a_field_is_refused(missing: str) -> None:
    envelope = msgspec.msgpack.decode(packed(Presence(is_online=True)))
    del envelope[missing]
    assert refusal(BY_NAME["presence"], msgspec.msgpack.encode(envelope)) == "wire.invalid"


@pytest.mark.parametrize("name", ["a\n", "", "A", "-a", "a" * 64, "a/b", "ä"])
def test_a_name_that_is_none_is_refused(name: str) -> None:
    release = TargetRelease(model=name, version=1, manifest_digest="0" * 64, rollout="r")
    with pytest.raises(ContractError):
        packed(Target(revision=1, issued_ms=1, releases=(release,)))


@pytest.mark.parametrize("text", ["\0", "a\0b"])
def test_a_text_that_a_database_cannot_hold_is_refused(text: str) -> None:
    sound = packed(Presence(is_online=True, reason="?" * len(text)))
    assert refusal(BY_NAME["presence"], sound.replace(b"?" * len(text), text.encode())) == (
        "wire.invalid"
    )


def test_a_message_on_another_messages_topic_is_refused() -> None:
    heartbeat = packed(Heartbeat(uptime_s=1, outbox_rows=0, outbox_dropped=0))
    assert refusal(BY_NAME["presence"], heartbeat) == "wire.invalid"


def test_bytes_after_the_end_are_refused() -> None:
    assert refusal(BY_NAME["presence"], packed(Presence(is_online=True)) + b"\x00") == (
        "wire.invalid"
    )


@given(st.integers(min_value=0, max_value=2**53))
def test_any_time_of_sending_crosses(sent_ms: int) -> None:
    payload = encode(Presence(is_online=True), session_id=SESSION, sent_ms=sent_ms)
    assert decode(BY_NAME["presence"].path(DEVICE), payload).sent_ms == sent_ms
