"""The bytes of every message, kept for ever: what one version sent, the next one understands."""

from pathlib import Path

import pytest

from shared.ids import DeviceId
from shared.wire.codec import decode
from shared.wire.topics import BY_NAME, TOPICS, topic_of
from tests.support.golden_messages import GOLDEN, MESSAGE_ID, SENT_MS, SESSION_ID, golden_bytes

FOLDER = Path(__file__).parent / "golden"
DEVICE = DeviceId("dev-7fk2mq9x")


def read(name: str) -> bytes:
    return bytes.fromhex((FOLDER / f"{name}.hex").read_text())


@pytest.mark.parametrize("name", GOLDEN)
def test_the_bytes_of_a_message_have_not_changed(name: str) -> None:
    assert golden_bytes(GOLDEN[name]).hex() == read(name).hex()


@pytest.mark.parametrize("name", GOLDEN)
def test_kept_bytes_are_still_understood(name: str) -> None:
    topic = BY_NAME[name.partition(".")[0]]
    received = decode(topic.path(DEVICE), read(name))
    assert received.message == GOLDEN[name]
    assert received.topic is topic
    assert received.device == DEVICE
    assert (received.message_id, received.session_id) == (MESSAGE_ID, SESSION_ID)
    assert received.sent_ms == SENT_MS


def test_every_message_of_the_table_has_kept_bytes_in_its_present_schema() -> None:
    kept = {(topic_of(message).name, name.rpartition(".v")[2]) for name, message in GOLDEN.items()}
    assert {(topic.name, str(topic.message.schema)) for topic in TOPICS} <= kept


def test_no_kept_file_is_forgotten() -> None:
    assert {path.stem for path in FOLDER.glob("*.hex")} == set(GOLDEN)
