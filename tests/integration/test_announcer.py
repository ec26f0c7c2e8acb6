"""The announcer and the inbox of a device: what it says by itself, and who gets what comes down."""

import logging
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from edge_agent.telemetry.publisher import Publisher
from edge_agent.telemetry.sql_outbox import OutboxSettings, SqlOutbox
from edge_agent.updates.transfer import BlockTransfer
from edge_agent.uplink.announcer import HEARTBEAT_S, Announcer
from edge_agent.uplink.file_identity import FileIdentity
from edge_agent.uplink.renewal import Renewal
from edge_agent.uplink.target_inbox import TargetInbox
from shared.errors import TransientError
from shared.ids import HUB_ID
from shared.link.link import OUTGOING_MAX, Delivery
from shared.link.memory_link import MemoryBroker, MemoryLink, RawMessage
from shared.wire.blocks import Block
from shared.wire.certificates import CertificateReply
from shared.wire.presence import Heartbeat, Presence
from shared.wire.records import Watermark
from shared.wire.report import Report
from shared.wire.target import Target
from shared.wire.topics import Message, device_filters, hub_filters, topic_of
from tests.support.manual_clock import ManualClock
from tests.support.record_bodies import decision_record
from tests.support.updater_bench import DEVICE, Bench
from tests.support.waiting import wait_until

BEAT = Heartbeat(uptime_s=0, outbox_rows=0, outbox_dropped=0)
BIRTH = Presence(is_online=True, reason="started", agent_version="0.1.0")


@dataclass
class Device:
    """The uplink of a device around real parts, and its hub's link."""

    folder: Path
    clock: ManualClock = field(default_factory=ManualClock)
    broker: MemoryBroker = field(default_factory=MemoryBroker)

    def __post_init__(self) -> None:
        self.bench = Bench(self.folder / "device", self.folder / "store", clock=self.clock)
        self.outbox = SqlOutbox(self.folder / "outbox.db", OutboxSettings(), self.clock)
        self.link = self._link(DEVICE, device_filters(DEVICE))
        self.hub = self._link(HUB_ID, hub_filters())
        self.hub.start()
        self.publisher = Publisher(self.outbox, self.link, DEVICE, self.clock)
        self.transfer = BlockTransfer(lambda _request: None, self.clock)
        self.renewal = Renewal(FileIdentity(self.folder / "identity"), self.link, clock=self.clock)
        self.announcer = Announcer(
            self.link,
            DEVICE,
            birth=BIRTH,
            updater=self.bench.updater,
            outbox=self.outbox,
            clock=self.clock,
        )
        self.inbox = TargetInbox(
            self.link,
            updater=self.bench.updater,
            publisher=self.publisher,
            transfer=self.transfer,
            renewal=self.renewal,
            announcer=self.announcer,
        )
        self.bench.start()

    def _link(self, client: str, filters: tuple[tuple[str, int], ...]) -> MemoryLink:
        return MemoryLink(
            self.broker,
            client=client,  # type: ignore[arg-type]
            filters=filters,
            clock=self.clock,
            with_last_will=client != HUB_ID,
        )

    def connect(self) -> None:
        """Let the link come up, and the inbox take notice of it."""
        self.link.start()
        self.take()

    def take(self) -> None:
        """Let the inbox take what came."""
        for arrival in self.link.arrivals(wait_s=0):
            self.inbox._take(arrival)

    def heard(self) -> list[Message]:
        """Return what the hub heard since the last time."""
        found = []
        for arrival in self.hub.arrivals(wait_s=0):
            if isinstance(arrival, Delivery):
                found.append(arrival.received.message)
            self.hub.acknowledge(arrival)
        return found

    def send(self, message: Message) -> None:
        """Let the hub send to the device, and the device take it."""
        self.hub.publish(DEVICE, message)
        self.take()


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Device]:
    (tmp_path / "device").mkdir()
    made = Device(tmp_path)
    yield made
    made.outbox.close()


def kinds(messages: list[Message]) -> list[type]:
    return [type(message) for message in messages]


def test_on_a_connection_the_birth_comes_first_and_then_the_report(device: Device) -> None:
    device.announcer.step()
    assert device.heard() == [], "nothing is said without a link"
    device.connect()
    device.announcer.step()
    heard = device.heard()
    assert heard[0] == BIRTH
    assert kinds(heard) == [Presence, Report]
    device.announcer.step()
    assert device.heard() == [], "no news is no message"


def test_a_new_connection_is_announced_again_with_the_report_that_is_no_news(
    device: Device,
) -> None:
    device.connect()
    device.announcer.step()
    device.heard()
    device.broker.kill()
    device.broker.restart()
    device.take()
    device.heard()  # What the broker retained for the hub
    device.announcer.step()
    assert kinds(device.heard()) == [Presence, Report]


def test_a_heartbeat_says_how_much_waits(device: Device) -> None:
    device.connect()
    device.announcer.step()
    device.outbox.append(decision_record(1))
    device.heard()
    device.clock.advance(HEARTBEAT_S - 0.1)
    device.announcer.step()
    assert device.heard() == []
    device.clock.advance(0.1)
    device.announcer.step()
    (beat,) = device.heard()
    assert beat == Heartbeat(uptime_s=int(HEARTBEAT_S), outbox_rows=1, outbox_dropped=0)
    device.announcer.step()
    assert device.heard() == [], "once each time"


def test_a_report_goes_out_as_soon_as_it_says_something_new(device: Device) -> None:
    device.connect()
    device.announcer.step()
    device.heard()
    device.send(Target(revision=7, issued_ms=0))
    device.bench.step()
    device.announcer.step()
    (report,) = device.heard()
    assert isinstance(report, Report)
    assert report.target_revision == 7


def test_what_could_not_be_sent_is_sent_at_a_later_step(device: Device) -> None:
    device.connect()
    device.broker.pause()  # Takes nothing; the link queues up to its limit
    for _ in range(OUTGOING_MAX):
        device.link.publish(DEVICE, BEAT)
    with pytest.raises(TransientError) as raised:
        device.link.publish(DEVICE, BEAT)
    assert raised.value.code == "link.full"
    device.announcer.step()
    device.broker.resume()
    device.heard()
    device.announcer.step()
    assert kinds(device.heard()) == [Presence, Report]


def test_the_inbox_gives_each_message_to_its_part(device: Device) -> None:
    device.connect()
    device.send(Target(revision=3, issued_ms=0))
    device.bench.step()
    assert device.bench.updater.target == Target(revision=3, issued_ms=0)
    device.send(Block(path="targets/x", index=0, file_bytes=1, data=b"x"))
    assert device.transfer.dropped_count == 1, "it had asked for nothing, and got it"
    device.send(CertificateReply(code="device.revoked", text="Gone."))
    assert device.renewal._replies.qsize() == 1
    device.send(Watermark(stream="ab" * 8, sequence=0))
    assert device.publisher._watermarks, "the publisher has it"
    assert device.inbox.rejected_count == 0


def test_nonsense_is_counted_and_acknowledged_so_that_it_does_not_come_again(
    device: Device, caplog: pytest.LogCaptureFixture
) -> None:
    device.connect()
    path = topic_of(Target(revision=1, issued_ms=0)).path(DEVICE)
    with caplog.at_level(logging.WARNING):
        device.broker.publish(HUB_ID, RawMessage(path, b"junk", 1, retain=False))
        device.take()
    assert device.inbox.rejected_count == 1
    assert "inbox.rejected" in caplog.text
    device.link.reconnect()
    device.take()
    assert device.inbox.rejected_count == 1
    device.send(Target(revision=2, issued_ms=0))
    device.bench.step()
    assert device.bench.updater.target is not None


def test_the_inbox_serves_until_it_is_stopped(device: Device) -> None:
    device.link.start()
    stop = threading.Event()
    thread = threading.Thread(target=device.inbox.run, args=(stop,))
    thread.start()
    try:
        device.hub.publish(DEVICE, Target(revision=5, issued_ms=0))

        def is_taken() -> bool:
            device.bench.step()
            return device.bench.updater.target is not None

        wait_until(is_taken)
    finally:
        stop.set()
        thread.join(5.0)
    assert not thread.is_alive()
