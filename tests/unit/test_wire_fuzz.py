"""Whatever bytes come in on whatever topic: a message or a ContractError, never anything else.

1000 cases for each of the ten topics, and more on the names of topics.
"""

import math
import struct

import msgspec
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from shared.errors import ContractError
from shared.ids import DeviceId
from shared.wire.codec import decode
from shared.wire.topics import ROOT, TOPICS, Topic, parse_path
from tests.support.golden_messages import GOLDEN, golden_bytes

DEVICE = DeviceId("dev-a")
CODES = {"topic.unknown", "id.device", "wire.too_large", "wire.invalid", "wire.schema"}
SOUND = [golden_bytes(message) for message in GOLDEN.values()]
NESTED_MAX = 60_000


def outcome(path: str, payload: bytes) -> str:
    """Return "understood", or the code of the ContractError."""
    try:
        decode(path, payload)
    except ContractError as error:
        return error.code
    return "understood"


def nested(opening: bytes, depth: int) -> bytes:
    """Lists in lists (or maps in maps), as deep as that, where a message's body should be."""
    head = SOUND[0].partition(b"\xa4body")[0] + b"\xa4body"
    return head + opening * depth + b"\xc0"


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A sound message with some bytes replaced, put in or taken out."""
    payload = bytearray(draw(st.sampled_from(SOUND)))
    for _ in range(draw(st.integers(1, 8))):
        at = draw(st.integers(0, len(payload)))
        piece = draw(st.binary(max_size=6))
        payload[at : at + draw(st.integers(0, 6))] = piece
    return bytes(payload)


@st.composite
def truncated(draw: st.DrawFn) -> bytes:
    payload = draw(st.sampled_from(SOUND))
    return payload[: draw(st.integers(0, len(payload) - 1))]


@st.composite
def of_another_schema(draw: st.DrawFn) -> bytes:
    payload = draw(st.sampled_from(SOUND))
    number = draw(st.binary(min_size=1, max_size=9))
    return payload.replace(b"\xa6schema\x01", b"\xa6schema" + number)


@st.composite
def with_strange_numbers(draw: st.DrawFn) -> bytes:
    """A sound message with a float replaced by NaN, infinity or a huge one."""
    payload = draw(st.sampled_from(SOUND))
    number = draw(st.sampled_from([math.nan, math.inf, -math.inf, 1e308, -1e308, 5e-324]))
    at = payload.find(b"\xcb")
    if at < 0:
        return payload
    return payload[: at + 1] + struct.pack(">d", number) + payload[at + 9 :]


BROKEN_BYTES = st.one_of(
    st.binary(max_size=300),
    mutated(),
    mutated(),
    truncated(),
    of_another_schema(),
    with_strange_numbers(),
    st.builds(nested, st.sampled_from([b"\x91", b"\x81\xa1a"]), st.integers(0, NESTED_MAX)),
)


OTHER_SCHEMA = msgspec.msgpack.encode(
    {"schema": 999, "message_id": "0" * 16, "session_id": "0" * 16, "sent_ms": 1, "body": None}
)


@pytest.mark.slow
@pytest.mark.parametrize("topic", TOPICS, ids=lambda topic: topic.name)
def test_no_bytes_on_any_topic_raise_anything_but_a_contract_error(topic: Topic) -> None:
    seen: set[str] = set()
    oversized = [SOUND[0].ljust(topic.bytes_max + more, b"\x00") for more in (0, 1, 1000)]

    @settings(
        max_examples=1000,
        deadline=None,
        suppress_health_check=[HealthCheck.large_base_example, HealthCheck.data_too_large],
    )
    @given(BROKEN_BYTES | st.sampled_from(oversized))
    @example(OTHER_SCHEMA)
    def check(payload: bytes) -> None:
        seen.add(outcome(topic.path(DEVICE), payload))

    check()
    assert seen <= {*CODES, "understood"}
    # The cases reach every branch, not only the first refusal.
    assert {"wire.too_large", "wire.invalid", "wire.schema"} <= seen


@pytest.mark.parametrize("topic", TOPICS, ids=lambda topic: topic.name)
@pytest.mark.parametrize("opening", [b"\x91", b"\x81\xa1a", b"\xdd\x00\x00\x00\x01"])
def test_deep_nesting_is_refused_on_every_topic(topic: Topic, opening: bytes) -> None:
    for depth in (1, 100, 1000, 20_000, 60_000):
        payload = nested(opening, depth)
        assert outcome(topic.path(DEVICE), payload) in ("wire.invalid", "wire.too_large")


@pytest.mark.slow
@settings(max_examples=2000, deadline=None)
@given(
    st.one_of(
        st.text(max_size=300),
        st.builds(lambda tail: f"{ROOT}/{tail}", st.text(max_size=80)),
        st.builds(
            lambda device, rest: f"{ROOT}/{device}/{rest}",
            st.text(max_size=70),
            st.sampled_from(["up/presence", "down/target", "up/target", "up/", "down", "up/x/y"]),
        ),
    )
)
def test_any_topic_name_is_understood_or_refused(path: str) -> None:
    try:
        topic, device = parse_path(path)
    except ContractError as error:
        is_sound = error.code in ("topic.unknown", "id.device")
    else:
        is_sound = topic.path(device) == path
    assert is_sound
