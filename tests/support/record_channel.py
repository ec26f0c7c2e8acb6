"""A device's outbox and the hub's telemetry with a bad channel between, driven step by step.

Nothing runs by itself: the test says when the device sends, what of it arrives, what is lost or
comes twice, and who dies. Both ends are the real ones on real SQLite files; the channel is first
in, first out, and everything crosses it as bytes.
"""

import shutil
from collections import Counter, deque
from pathlib import Path

import sqlalchemy as sa

from cloud_hub.sql_database import Database
from cloud_hub.telemetry import sql_store
from cloud_hub.telemetry.service import TelemetryService
from edge_agent.telemetry.publisher import Publisher, PublisherSettings
from edge_agent.telemetry.sql_outbox import OutboxSettings, SqlOutbox
from shared.clock import now_ms
from shared.errors import ContractError, TransientError
from shared.ids import DeviceId, SessionId
from shared.wire.codec import decode, encode
from shared.wire.records import RecordBatch, Watermark
from shared.wire.topics import Message, topic_of
from tests.support.manual_clock import ManualClock
from tests.support.record_bodies import decision_record

DEVICE = DeviceId("dev-1")
SESSION = SessionId("0" * 16)
QUIET_ROUNDS_MAX = 200


class Wire:
    """The device's end of the channel: what was sent and has not arrived."""

    def __init__(self, clock: ManualClock) -> None:
        self.is_connected = True
        self.has_room = True
        self.refused_items: set[int] = set()  # A batch with one of them breaks the contract
        self.up: deque[tuple[str, bytes]] = deque()
        self.down: deque[tuple[str, bytes]] = deque()
        self._clock = clock

    def publish(self, device: DeviceId, message: Message) -> None:
        payload = encode(message, session_id=SESSION, sent_ms=now_ms(self._clock))
        if not self.is_connected or not self.has_room:
            raise TransientError("link.full", "no room")
        if isinstance(message, RecordBatch):
            for record in message.records:
                if getattr(record.body, "item", None) in self.refused_items:
                    raise ContractError("wire.invalid", "refused")
        self.up.append((topic_of(message).path(device), payload))

    def sent(self) -> list[RecordBatch]:
        """Return what is on its way up."""
        batches = [decode(*packet).message for packet in self.up]
        return [batch for batch in batches if isinstance(batch, RecordBatch)]

    def answers(self) -> list[Watermark]:
        """Return what is on its way down."""
        answers = [decode(*packet).message for packet in self.down]
        return [answer for answer in answers if isinstance(answer, Watermark)]


class Pair:
    """One device and one hub."""

    def __init__(
        self,
        folder: Path,
        migrated_file: Path,
        *,
        rows_max: int = 10_000,
        bytes_max: int = 1 << 20,
        batch_records_max: int = 3,
    ) -> None:
        self.folder = folder
        self.clock = ManualClock()
        self.wire = Wire(self.clock)
        self.outbox_settings = OutboxSettings(rows_max=rows_max, bytes_max=bytes_max)
        self.publisher_settings = PublisherSettings(batch_records_max=batch_records_max)
        self.outbox_path, self.hub_path = folder / "outbox.db", folder / "hub.db"
        shutil.copyfile(migrated_file, self.hub_path)
        self.item = 0
        self.committed: dict[int, int] = {}  # Item -> sequence
        self._start_hub()
        self._start_device()

    def _start_hub(self) -> None:
        self.database = Database(f"sqlite:///{self.hub_path}")
        self.telemetry = TelemetryService(self.database, self.clock)

    def _start_device(self) -> None:
        self.outbox = SqlOutbox(self.outbox_path, self.outbox_settings, self.clock)
        self.publisher = Publisher(
            self.outbox, self.wire, DEVICE, self.clock, self.publisher_settings
        )

    # What the device does

    def append(self, count: int) -> None:
        for _ in range(count):
            self.outbox.append(decision_record(self.item))
            self.item += 1

    def flush(self) -> None:
        assert self.outbox.flush()
        for sequence, item in self.held().items():
            self.committed[item] = sequence

    def held(self) -> dict[int, int]:
        """Return what is committed on the device: sequence -> item."""
        records = self.outbox.read(0, records_max=100_000, bytes_max=1 << 30)
        return {r.sequence: r.body.item for r in records if hasattr(r.body, "item")}

    def kill_device(self) -> None:
        """Take away the process: what was only in memory is gone."""
        file = self.outbox._file
        assert file is not None
        file.close()
        self._start_device()

    def wipe_device(self) -> None:
        """Start the device with an empty disk."""
        file = self.outbox._file
        assert file is not None
        file.close()
        for path in self.folder.glob("outbox.db*"):
            path.unlink()
        self._start_device()

    # What the channel does

    def deliver_up(self, *, times: int = 1) -> None:
        """Let the hub have the next batch, and its answer be on its way."""
        if not self.wire.up:
            return
        packet = self.wire.up.popleft()
        for _ in range(times):
            received = decode(*packet)
            assert isinstance(received.message, RecordBatch)
            answer = self.telemetry.ingest(received.device, received.message)
            payload = encode(answer, session_id=SESSION, sent_ms=now_ms(self.clock))
            self.wire.down.append((topic_of(answer).path(received.device), payload))

    def deliver_down(self, *, times: int = 1) -> None:
        if not self.wire.down:
            return
        answer = decode(*self.wire.down.popleft()).message
        assert isinstance(answer, Watermark)
        for _ in range(times):
            self.publisher.on_watermark(answer)

    def kill_broker(self) -> None:
        """Lose everything on its way; the device connects again."""
        self.wire.up.clear()
        self.wire.down.clear()
        self.publisher.on_connected()

    def settle(self) -> None:
        """Let everything run well until there is nothing left to do."""
        for _ in range(QUIET_ROUNDS_MAX):
            assert self.outbox.flush()
            self.publisher.step()
            if not (self.wire.up or self.wire.down) and self.outbox.rows_count == 0:
                return
            if not (self.wire.up or self.wire.down):
                self.clock.advance(10.0)  # Until the resend timer
            while self.wire.up:
                self.deliver_up()
            while self.wire.down:
                self.deliver_down()
        raise AssertionError(f"never came to rest: {self.outbox.rows_count} records are left")

    # What the hub does

    def back_up_hub(self) -> Path:
        self.database.close()
        copy = self.folder / "backup.db"
        shutil.copyfile(self.hub_path, copy)
        self._start_hub()
        return copy

    def restore_hub(self, copy: Path) -> None:
        self.database.close()
        for path in self.folder.glob("hub.db*"):
            path.unlink()
        shutil.copyfile(copy, self.hub_path)
        self._start_hub()

    def items_at_hub(self) -> Counter[int]:
        """Return how often the hub has each item."""
        with self.database.read() as connection:
            return Counter(connection.execute(sa.select(sql_store.decisions.c.item)).scalars())

    def close(self) -> None:
        self.outbox.close()
        self.database.close()
