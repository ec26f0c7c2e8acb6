"""The table of topics, and who may use which."""

import typing

import pytest

from shared.errors import ContractError
from shared.ids import HUB_ID, DeviceId
from shared.link.topic_rules import (
    matches,
    may_leave_will,
    may_publish,
    may_receive,
    may_subscribe,
)
from shared.wire.blocks import BLOCK_BYTES, Block
from shared.wire.presence import Presence
from shared.wire.topics import (
    BY_MESSAGE,
    BY_NAME,
    MESSAGE_BYTES_MAX,
    ROOT,
    TOPIC_CHARS_MAX,
    TOPICS,
    Direction,
    Message,
    Topic,
    device_filters,
    hub_filters,
    parse_path,
    topic_of,
)

A = DeviceId("dev-a")
B = DeviceId("dev-b")
LONGEST = DeviceId("x" * 63)


def test_the_table_has_every_message_once() -> None:
    assert set(BY_MESSAGE) == set(typing.get_args(Message))
    assert len(BY_MESSAGE) == len(BY_NAME) == len(TOPICS)
    assert max(topic.bytes_max for topic in TOPICS) == MESSAGE_BYTES_MAX


@pytest.mark.parametrize("topic", TOPICS, ids=lambda topic: topic.name)
def test_a_topics_name_leads_back_to_it(topic: Topic) -> None:
    for device in (A, LONGEST, HUB_ID):
        assert parse_path(topic.path(device)) == (topic, device)
        assert len(topic.path(device)) <= TOPIC_CHARS_MAX


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("", "topic.unknown"),
        (ROOT, "topic.unknown"),
        (f"{ROOT}/dev-a/up/nothing", "topic.unknown"),
        (f"{ROOT}/dev-a/down/presence", "topic.unknown"),
        (f"{ROOT}/dev-a/up/target", "topic.unknown"),
        (f"{ROOT}/dev-a/up/presence/", "topic.unknown"),
        (f"{ROOT}/dev-a/up/presence\n", "topic.unknown"),
        (f"{ROOT}/dev-a//up/presence", "topic.unknown"),
        (f"x{ROOT}/dev-a/up/presence", "topic.unknown"),
        ("isthmus/2/devices/dev-a/up/presence", "topic.unknown"),
        (f"{ROOT}/{'x' * 200}/up/presence", "topic.unknown"),
        (f"{ROOT}//up/presence", "id.device"),
        (f"{ROOT}/DEV/up/presence", "id.device"),
        (f"{ROOT}/+/up/presence", "id.device"),
        (f"{ROOT}/dev-a\n/up/presence", "id.device"),
        (f"{ROOT}/{'x' * 64}/up/presence", "id.device"),
    ],
)
def test_what_is_no_topic_is_refused(path: str, code: str) -> None:
    with pytest.raises(ContractError) as caught:
        parse_path(path)
    assert caught.value.code == code


def test_a_block_fits_into_its_message() -> None:
    assert topic_of(Block(path="targets/a", index=0, file_bytes=1, data=b"")).bytes_max > (
        BLOCK_BYTES + 400
    )


def test_each_side_subscribes_to_what_the_other_sends() -> None:
    hub = dict(hub_filters())
    for topic in TOPICS:
        if topic.direction is Direction.UP:
            assert hub.pop(f"{ROOT}/+/up/{topic.name}") == topic.qos
        else:
            assert (topic.path(A), topic.qos) in device_filters(A)
    assert hub == {}
    assert len(device_filters(A)) == sum(t.direction is Direction.DOWN for t in TOPICS)


@pytest.mark.parametrize("topic", TOPICS, ids=lambda topic: topic.name)
def test_a_device_says_only_its_own_and_hears_only_its_own(topic: Topic) -> None:
    is_up = topic.direction is Direction.UP
    assert may_publish(A, topic.path(A)) is is_up
    assert may_receive(A, topic.path(A)) is not is_up
    assert may_subscribe(A, topic.path(A)) is not is_up
    for rule in (may_publish, may_receive, may_subscribe):
        assert not rule(A, topic.path(B))
        assert rule(HUB_ID, topic.path(A))


@pytest.mark.parametrize(
    "pattern",
    [
        "#",
        "+",
        f"{ROOT}/#",
        f"{ROOT}/+/down/target",
        f"{ROOT}/dev-a/#",
        f"{ROOT}/dev-a/down/#",
        f"{ROOT}/dev-a/down/+",
        f"{ROOT}/dev-a/down",
        f"{ROOT}/dev-ab/down/target",
        "$SYS/broker/uptime",
        "",
        f"{ROOT}/dev-a/down/{'x' * 200}",
    ],
)
def test_a_device_may_not_subscribe_to_more(pattern: str) -> None:
    assert not may_subscribe(A, pattern)
    assert not may_receive(A, pattern)


def test_a_client_named_like_a_wildcard_gains_nothing() -> None:
    assert not may_subscribe("+", f"{ROOT}/+/down/target")
    assert not may_publish("#", f"{ROOT}/#/up/presence")


def test_a_last_will_is_the_own_presence_and_nothing_else() -> None:
    presence = topic_of(Presence(is_online=False))
    assert may_leave_will(A, presence.path(A))
    for path in (presence.path(B), BY_NAME["report"].path(A), BY_NAME["target"].path(A), ""):
        assert not may_leave_will(A, path)


@pytest.mark.parametrize(
    ("pattern", "path", "is_match"),
    [
        ("a/b", "a/b", True),
        ("a/b", "a/c", False),
        ("a/b", "a/b/c", False),
        ("a/+/c", "a/b/c", True),
        ("a/+/c", "a/b/d", False),
        ("a/+", "a", False),
        ("a/+", "a/b/c", False),
        ("#", "a/b", True),
        ("a/#", "a/b/c", True),
        ("a/#", "a", True),
        ("a/#", "b/a", False),
        ("+/+", "a/b", True),
        ("+", "a/b", False),
    ],
)
def test_filters_match_as_mqtt_says(pattern: str, path: str, is_match: bool) -> None:
    assert matches(pattern, path) is is_match
