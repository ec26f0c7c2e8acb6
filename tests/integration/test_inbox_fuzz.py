"""10,000 hostile messages: the inbox goes on, and what is good among them is stored."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cloud_hub.sql_database import Database
from shared.clock import now_ms
from shared.ids import HUB_ID, DeviceId
from shared.link.memory_link import MemoryBroker, MemoryLink, RawMessage
from shared.wire.blocks import BlockRequest
from shared.wire.certificates import CertificateRequest
from shared.wire.codec import encode
from shared.wire.presence import Presence
from shared.wire.records import Record, RecordBatch
from shared.wire.report import Report
from shared.wire.topics import ROOT, TOPICS, Direction, Message, hub_filters, topic_of
from tests.support.enrolled import HARDWARE, HEARTBEAT, enrol, new_csr
from tests.support.hub_parts import HubParts, make_hub_parts
from tests.support.manual_clock import ManualClock
from tests.support.record_bodies import (
    decision_record,
    event_record,
    host_record,
    telemetry_record,
)

MESSAGES_PER_EXAMPLE = 50
EXAMPLES = 200
BODIES = (decision_record(1), telemetry_record(), host_record(), event_record())
RECORDS = tuple(Record(sequence=n + 1, at_ms=n, body=body) for n, body in enumerate(BODIES))
GOOD: tuple[Message, ...] = (
    Presence(is_online=True, reason="started", hardware=HARDWARE),
    HEARTBEAT,
    RecordBatch(stream="0" * 16, since=0, records=RECORDS),
    Report(target_revision=1, at_ms=1, models=()),
    BlockRequest(path="metadata/timestamp.json", first=0, wanted=b"\x01"),
    CertificateRequest(csr_pem=new_csr()),
)
UP = [topic for topic in TOPICS if topic.direction is Direction.UP]


class Target:
    """A hub that listens, and one device that is enrolled."""

    def __init__(self, folder: Path, migrated_file: Path) -> None:
        (folder / "hub.db").write_bytes(migrated_file.read_bytes())
        self.clock, self.broker = ManualClock(), MemoryBroker()
        self.database = Database(f"sqlite:///{folder}/hub.db")
        self.link = MemoryLink(
            self.broker,
            client=HUB_ID,
            filters=hub_filters(),
            clock=self.clock,
            with_last_will=False,
        )
        self.parts: HubParts = make_hub_parts(self.database, folder, self.link, self.clock)
        self.device = enrol(self.parts.devices)
        self.stop = threading.Event()
        self.sequence = len(BODIES)
        self.link.start()

    def send(self, path: str, payload: bytes) -> None:
        device = path.removeprefix(ROOT + "/").partition("/")[0]
        self.broker.publish(device, RawMessage(path, payload, 1, retain=False))

    def serve(self) -> None:
        self.parts.inbox.step(self.stop, wait_s=0.0)
        while self.parts.blocks.step(self.stop):
            pass

    def is_well(self) -> bool:
        """Return whether a good batch is still stored."""
        self.sequence += 1
        record = Record(sequence=self.sequence, at_ms=0, body=decision_record(self.sequence))
        batch = RecordBatch(stream="f" * 16, since=0, records=(record,))
        before = self.parts.telemetry.counts.records
        self.send(topic_of(batch).path(self.device), self.encoded(batch))
        self.serve()
        return self.parts.telemetry.counts.records == before + 1

    def encoded(self, message: Message) -> bytes:
        return encode(message, session_id=self.link.session_id, sent_ms=now_ms(self.clock))


@pytest.fixture
def target(tmp_path: Path, migrated_sqlite_file: Path) -> Iterator[Target]:
    made = Target(tmp_path, migrated_sqlite_file)
    yield made
    made.link.stop()
    made.database.close()


def _cut(payload: bytes, at: int) -> bytes:
    return payload[: at % (len(payload) + 1)]


def _flip(payload: bytes, at: int, bits: int) -> bytes:
    changed = bytearray(payload)
    changed[at % len(changed)] ^= bits
    return bytes(changed)


def _insert(payload: bytes, at: int, more: bytes) -> bytes:
    at %= len(payload) + 1
    return payload[:at] + more + payload[at:]


# What is sent: a good message's number and how it is damaged, or any bytes.
DAMAGE = st.one_of(
    st.builds(lambda at: lambda payload: _cut(payload, at), st.integers(0, 4000)),
    st.builds(
        lambda at, bits: lambda payload: _flip(payload, at, bits),
        st.integers(0, 4000),
        st.integers(1, 255),
    ),
    st.builds(
        lambda at, more: lambda payload: _insert(payload, at, more),
        st.integers(0, 4000),
        st.binary(min_size=1, max_size=20),
    ),
    st.builds(lambda data: lambda _payload: data, st.binary(max_size=200)),
    st.just(lambda payload: payload),
)
SENT = st.tuples(
    st.integers(0, len(GOOD) - 1),
    st.one_of(st.none(), st.sampled_from(UP)),  # On its own topic, or on another
    st.sampled_from(["", "dev-stranger"]),
    DAMAGE,
)


@pytest.mark.slow
@settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(messages=st.lists(SENT, min_size=MESSAGES_PER_EXAMPLE, max_size=MESSAGES_PER_EXAMPLE))
def test_nothing_that_is_sent_stops_the_inbox(target: Target, messages: list[object]) -> None:
    good = [target.encoded(message) for message in GOOD]
    for number, topic, stranger, damage in messages:
        row = topic or topic_of(GOOD[number])
        target.send(row.path(DeviceId(stranger) or target.device), damage(good[number]))
    target.serve()
    assert target.is_well()
