"""Inbox and BlockServer over a memory link, with the hub's real services on SQLite."""

import logging
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from cloud_hub.inbox import inbox as inbox_module
from cloud_hub.inbox.block_server import BlockServerSettings
from cloud_hub.sql_database import Database
from shared.clock import SystemClock, now_ms
from shared.ids import HUB_ID, DeviceId
from shared.link.link import Connected, Delivery
from shared.link.memory_link import MemoryBroker, MemoryLink, RawMessage
from shared.wire.blocks import BLOCK_BYTES, Block, BlockRequest
from shared.wire.certificates import CertificateReply, CertificateRequest
from shared.wire.codec import encode
from shared.wire.presence import Heartbeat, Presence
from shared.wire.records import Record, RecordBatch, Watermark
from shared.wire.report import Report
from shared.wire.topics import Message, device_filters, hub_filters, topic_of
from tests.support.enrolled import HEARTBEAT, enrol, new_csr
from tests.support.hub_parts import HubParts, make_hub_parts
from tests.support.manual_clock import ManualClock
from tests.support.record_bodies import decision_record

STREAM = "0123456789abcdef"
TARGET = "targets/models/digits/1/model.onnx"
STRANGER = DeviceId("dev-stranger")


class Hub:
    """The hub's parts on a memory broker, and one enrolled device's link; driven by `serve`."""

    def __init__(self, folder: Path, migrated_file: Path) -> None:
        self.folder = folder
        (folder / "hub.db").write_bytes(migrated_file.read_bytes())
        self.clock = ManualClock()
        self.broker = MemoryBroker()
        self.database = Database(f"sqlite:///{folder}/hub.db")
        self.link = self._link(HUB_ID)
        self.parts: HubParts = make_hub_parts(
            self.database,
            folder,
            self.link,
            self.clock,
            block_settings=BlockServerSettings(bytes_per_s=10 * BLOCK_BYTES),
        )
        self.device = enrol(self.parts.devices)
        self.device_link = self._link(self.device)
        self.stop = threading.Event()
        self.link.start()
        self.device_link.start()

    def _link(self, client: DeviceId) -> MemoryLink:
        return MemoryLink(
            self.broker,
            client=client,
            filters=hub_filters() if client == HUB_ID else device_filters(client),
            clock=self.clock,
            with_last_will=False,
        )

    def serve(self) -> None:
        """Let the inbox take everything that has arrived."""
        self.parts.inbox.step(self.stop, wait_s=0.0)

    def send_blocks(self) -> int:
        """Let the block server send everything it has queued; return how many blocks."""
        count = 0
        while self.parts.blocks.step(self.stop):
            count += 1
        return count

    def say(self, message: Message) -> None:
        self.device_link.publish(self.device, message)

    def say_as(self, device: DeviceId, message: Message) -> None:
        """Put a message of any device on the wire, past what a broker would allow."""
        topic = topic_of(message)
        payload = encode(message, session_id=self.device_link.session_id, sent_ms=0)
        raw = RawMessage(topic.path(device), payload, topic.qos, retain=False)
        self.broker.publish(device, raw)

    def heard(self) -> list[Message]:
        """Return what the device received since the last call."""
        return [
            arrival.received.message
            for arrival in self.device_link.arrivals(wait_s=0.0)
            if isinstance(arrival, Delivery)
        ]

    def unacknowledged(self) -> int:
        return len(self.broker._sessions[HUB_ID].unacknowledged)

    def items(self) -> list[int]:
        told = self.parts.telemetry.decisions(self.device, limit=1000)
        return sorted(one.body.item for one in told)

    def close(self) -> None:
        self.link.stop()
        self.device_link.stop()
        self.database.close()


@pytest.fixture
def hub(tmp_path: Path, migrated_sqlite_file: Path) -> Iterator[Hub]:
    made = Hub(tmp_path, migrated_sqlite_file)
    yield made
    made.close()


def batch(first: int, last: int) -> RecordBatch:
    records = tuple(
        Record(sequence=n, at_ms=0, body=decision_record(n)) for n in range(first, last + 1)
    )
    return RecordBatch(stream=STREAM, since=first - 1, records=records)


def test_records_are_stored_answered_and_then_acknowledged(hub: Hub) -> None:
    hub.say(batch(1, 3))
    assert hub.unacknowledged() == 1
    hub.serve()
    assert hub.items() == [1, 2, 3]
    assert hub.heard() == [Watermark(stream=STREAM, sequence=3)]
    assert hub.unacknowledged() == 0
    assert hub.parts.inbox.received["records"] == 1


def test_presence_and_heartbeat_reach_the_devices(hub: Hub) -> None:
    hub.say(Presence(is_online=True, reason="started", agent_version="1.2.3"))
    hub.say(HEARTBEAT)
    hub.serve()
    device = hub.parts.devices.get(hub.device)
    assert device.presence == "online"
    assert device.agent_version == "1.2.3"
    assert device.last_seen_ms == now_ms(hub.clock)


def test_a_report_reaches_the_rollouts(hub: Hub) -> None:
    hub.say(Report(target_revision=0, at_ms=now_ms(hub.clock), models=()))
    hub.serve()
    assert hub.parts.rollouts.device_report(hub.device) is not None


def test_a_certificate_request_is_answered(hub: Hub) -> None:
    hub.say(CertificateRequest(csr_pem=new_csr()))  # Of another key than the device's own
    hub.serve()
    (reply,) = hub.heard()
    assert isinstance(reply, CertificateReply)
    assert reply.code is not None
    assert hub.unacknowledged() == 0


def test_a_device_that_is_not_enrolled_is_not_heard(hub: Hub) -> None:
    hub.say_as(STRANGER, batch(1, 3))
    hub.serve()
    assert hub.parts.telemetry.streams(STRANGER) == ()
    assert hub.parts.inbox.rejected["inbox.unknown_device"] == 1
    assert hub.unacknowledged() == 0


def test_a_revoked_device_is_not_heard(hub: Hub) -> None:
    hub.parts.devices.revoke(hub.device)
    hub.say(batch(1, 3))
    hub.serve()
    assert hub.items() == []
    assert hub.parts.inbox.rejected["inbox.unknown_device"] == 1


def test_nonsense_of_one_device_is_counted_and_the_others_go_on(hub: Hub) -> None:
    path = topic_of(batch(1, 1)).path(hub.device)
    for payload in (b"", b"\xff" * 100, b"\x00" * 300_000):
        hub.broker.publish(hub.device, RawMessage(path, payload, 1, retain=False))
    disordered = RecordBatch(stream=STREAM, since=5, records=batch(1, 3).records)
    hub.say(disordered)
    hub.say(batch(1, 3))
    hub.serve()
    assert hub.items() == [1, 2, 3]
    assert hub.parts.inbox.rejected == {
        "wire.invalid": 2,
        "wire.too_large": 1,
        "records.order": 1,
    }
    assert hub.unacknowledged() == 0


def test_a_rejection_is_logged_once_per_device_and_code_per_minute(
    hub: Hub, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        for _ in range(5):
            hub.say_as(STRANGER, HEARTBEAT)
            hub.say_as(DeviceId("dev-other"), HEARTBEAT)
        hub.serve()
        hub.clock.advance(inbox_module.LOG_PERIOD_S)
        hub.say_as(STRANGER, HEARTBEAT)
        hub.serve()
    lines = [r.device for r in caplog.records if r.getMessage() == "inbox.rejected"]
    assert lines == [STRANGER, "dev-other", STRANGER]
    assert hub.parts.inbox.rejected["inbox.unknown_device"] == 11


class CountingClock(ManualClock):
    """Does something at the n-th wait: what happens while the inbox waits to try again."""

    def __init__(self, happenings: dict[int, Callable[[], None]]) -> None:
        super().__init__()
        self.waits_count = 0
        self._happenings = happenings

    def wait(self, event: threading.Event, seconds: float) -> bool:
        self.waits_count += 1
        self._happenings.get(self.waits_count, lambda: None)()
        return super().wait(event, seconds)


def _break_database(hub: Hub) -> None:
    with hub.database.begin() as connection:
        connection.execute(sa.text("ALTER TABLE telemetry_streams RENAME TO away"))


def _mend_database(hub: Hub) -> None:
    with hub.database.begin() as connection:
        connection.execute(sa.text("ALTER TABLE away RENAME TO telemetry_streams"))


def test_a_database_that_comes_back_in_time_costs_nothing(hub: Hub) -> None:
    _break_database(hub)
    clock = CountingClock({3: lambda: _mend_database(hub)})
    hub.parts.inbox._clock = clock
    hub.say(batch(1, 3))
    hub.serve()
    assert hub.items() == [1, 2, 3]
    assert clock.waits_count == 3
    assert hub.unacknowledged() == 0


def test_records_that_the_database_does_not_take_get_no_watermark(hub: Hub) -> None:
    _break_database(hub)
    hub.say(batch(1, 3))
    hub.serve()
    assert hub.heard() == [], "so the device sends them again"
    assert hub.unacknowledged() == 0, "and the broker's window stays open"
    _mend_database(hub)
    hub.say(batch(1, 3))
    hub.serve()
    assert hub.items() == [1, 2, 3]


def test_a_report_that_the_database_does_not_take_comes_again(hub: Hub) -> None:
    with hub.database.begin() as connection:
        tables = sa.inspect(connection).get_table_names()
        reports = next(name for name in tables if "report" in name)
        connection.execute(sa.text(f"ALTER TABLE {reports} RENAME TO away"))
    hub.say(Report(target_revision=0, at_ms=now_ms(hub.clock), models=()))
    hub.serve()
    assert hub.unacknowledged() == 1
    with hub.database.begin() as connection:
        connection.execute(sa.text(f"ALTER TABLE away RENAME TO {reports}"))
    hub.link.reconnect()
    hub.serve()
    assert hub.parts.rollouts.device_report(hub.device) is not None
    assert hub.unacknowledged() == 0


def test_many_unacknowledged_messages_make_a_new_connection_which_brings_them_again(
    hub: Hub,
) -> None:
    with hub.database.begin() as connection:
        connection.execute(sa.text("ALTER TABLE devices RENAME TO away"))
    waits_max = inbox_module.UNACKNOWLEDGED_MAX * inbox_module.TRIES_MAX

    def mend() -> None:
        with hub.database.begin() as connection:
            connection.execute(sa.text("ALTER TABLE away RENAME TO devices"))

    hub.parts.inbox._clock = CountingClock({waits_max + 3: mend})
    for _ in range(inbox_module.UNACKNOWLEDGED_MAX):
        hub.say(Presence(is_online=True))
    hub.serve()
    # Each twice, and the retained one once more: that is what a new connection brings.
    assert hub.parts.inbox.received["presence"] == 2 * inbox_module.UNACKNOWLEDGED_MAX + 1
    assert hub.unacknowledged() == 0
    assert hub.parts.devices.get(hub.device).presence == "online"


def test_a_stop_while_the_database_is_away_leaves_the_message_for_the_next_start(hub: Hub) -> None:
    _break_database(hub)
    hub.say(batch(1, 3))
    hub.stop.set()
    hub.serve()
    assert hub.unacknowledged() == 1


def test_a_watermark_without_room_is_sent_later(hub: Hub) -> None:
    hub.say(batch(1, 3))
    hub.say(batch(4, 6))
    hub.broker.pause()
    for _ in range(2000):  # Until nothing more fits
        try:
            hub.link.publish(hub.device, Block(path=TARGET, index=0, file_bytes=0, data=b""))
        except inbox_module.TransientError:
            break
    hub.serve()
    assert hub.items() == [1, 2, 3, 4, 5, 6]
    assert len(hub.parts.inbox._unsent) == 1, "one per stream: the newest says all"
    hub.broker.resume()
    hub.serve()
    assert [m for m in hub.heard() if isinstance(m, Watermark)] == [
        Watermark(stream=STREAM, sequence=6)
    ]


def test_run_serves_until_stopped(hub: Hub) -> None:
    inbox = hub.parts.inbox
    inbox._clock = SystemClock()
    thread = threading.Thread(target=inbox.run, args=(hub.stop,))
    thread.start()
    hub.say(batch(1, 3))
    arrivals = iter(hub.device_link.arrivals(wait_s=5.0))
    assert isinstance(next(arrivals), Connected)
    assert isinstance(next(arrivals), Delivery)  # The watermark
    hub.stop.set()
    hub.link.stop()  # Wakes it
    thread.join(5.0)
    assert not thread.is_alive()


# Blocks ---------------------------------------------------------------------------------------


@pytest.fixture
def file_bytes(hub: Hub) -> bytes:
    """A file of the repository: two whole blocks and a short one."""
    data = bytes(range(256)) * (BLOCK_BYTES * 2 // 256) + b"the end"
    path = hub.folder / "repository" / TARGET
    path.parent.mkdir(parents=True)
    path.write_bytes(data)
    return data


def test_wanted_blocks_are_sent(hub: Hub, file_bytes: bytes) -> None:
    hub.say(BlockRequest(path=TARGET, first=0, wanted=b"\x07"))
    hub.serve()
    assert hub.heard() == [], "not by the inbox's own thread"
    assert hub.send_blocks() == 3
    blocks = [m for m in hub.heard() if isinstance(m, Block)]
    assert [b.index for b in blocks] == [0, 1, 2]
    assert b"".join(b.data for b in blocks) == file_bytes
    assert {b.file_bytes for b in blocks} == {len(file_bytes)}


def test_a_file_that_is_not_there_is_said_so(hub: Hub) -> None:
    hub.say(BlockRequest(path="metadata/7.root.json", first=0, wanted=b"\x01"))
    hub.serve()
    hub.send_blocks()
    assert hub.heard() == [
        Block(path="metadata/7.root.json", index=0, file_bytes=0, data=b"", is_missing=True)
    ]


def test_blocks_are_paced(hub: Hub, file_bytes: bytes) -> None:
    started_s = hub.clock.monotonic_s()
    hub.say(BlockRequest(path=TARGET, first=0, wanted=b"\x03"))
    hub.serve()
    hub.send_blocks()
    assert hub.clock.monotonic_s() - started_s == pytest.approx(0.2), "ten blocks a second"


def test_a_device_that_asks_for_much_does_not_delay_telemetry(hub: Hub, file_bytes: bytes) -> None:
    for first in range(0, 1600, 16):
        hub.say(BlockRequest(path=TARGET, first=first, wanted=b"\xff\xff"))
    hub.say(batch(1, 3))
    before_s = hub.clock.monotonic_s()
    hub.serve()
    assert hub.heard() == [Watermark(stream=STREAM, sequence=3)]
    assert hub.clock.monotonic_s() == before_s
    assert hub.parts.blocks.counts.dropped == 1600 - 64


def test_blocks_for_a_link_that_is_down_are_dropped(hub: Hub, file_bytes: bytes) -> None:
    hub.say(BlockRequest(path=TARGET, first=0, wanted=b"\x07"))
    hub.serve()
    hub.broker.kill()
    assert hub.send_blocks() == 3
    counts = hub.parts.blocks.counts
    assert (counts.sent, counts.dropped) == (0, 3)


def test_what_is_heard_of_each_kind_is_counted(hub: Hub) -> None:
    hub.say(HEARTBEAT)
    hub.say(Heartbeat(uptime_s=1, outbox_rows=0, outbox_dropped=0))
    hub.say(batch(1, 1))
    hub.serve()
    assert hub.parts.inbox.received == {"heartbeat": 2, "records": 1}
