"""Publisher: sends the outbox to the hub in batches, until the hub's watermark says it has them.

The protocol is at the top of shared/wire/records.py. This end of it:

1. The cursor is the last sequence sent. A batch holds what follows it, and says `since` = cursor:
   whatever is between the two is not in the outbox any more and never will be.
2. At most BATCHES_IN_FLIGHT_MAX batches are out without a watermark. A batch that is not full waits
   until gather_s after the one before: every batch costs the hub a transaction, and the device a
   write to its disk when the watermark comes.
3. The cursor goes back to the known watermark when the link comes up (what was out may be lost),
   when the hub asks (`resend`: to the hub's own watermark, which is lower than ours if its database
   came from a backup), and when the hub says nothing for resend_s. Several batches behind a lost
   one each make the hub ask: the same request again within RESEND_QUIET_S is heard once.
4. After that timer only one batch is out at a time, one more with each watermark that comes, and
   the timer doubles up to resend_s_max: a hub that is away must not find thousands of copies in its
   broker's queue, and a slow link not be filled with them. The timer is resend_s, or
   ROUND_TRIPS_MIN times what a batch took lately if that is longer; as in TCP, a batch that was
   sent twice is no measurement (P. Karn, C. Partridge, 1987; RFC 6298, section 3).
5. A watermark above all we ever wrote means that our file is older than what the hub saw of it (a
   disk put back from an image): its numbers must not be used again, so a new stream begins.
6. A batch that does not keep the contract is halved until the one record that breaks it is alone;
   that one is dropped and counted.

`on_watermark` and `on_connected` may be called by any thread; `run` and `step` belong to one.
"""

import logging
import threading
from collections import deque
from dataclasses import dataclass
from typing import Annotated, Protocol

from msgspec import Meta

from edge_agent.telemetry.sql_outbox import SqlOutbox
from shared.clock import Clock
from shared.errors import ContractError, TransientError
from shared.ids import DeviceId
from shared.settings import Settings
from shared.wire.records import BATCH_RECORDS_MAX, Record, RecordBatch, Watermark
from shared.wire.topics import BY_MESSAGE, Message

log = logging.getLogger(__name__)

BATCHES_IN_FLIGHT_MAX = 4
BATCHES_PER_STEP_MAX = 16
WATERMARKS_MAX = 64
POLL_S = 0.25
RESEND_QUIET_S = 1.0
ROUND_TRIPS_MIN = 3.0
SMOOTHING = 0.125  # Weight of the newest round trip: RFC 6298's alpha
ENVELOPE_BYTES_MAX = 1024  # Envelope, stream and since, around the records
RECORDS_BYTES_MAX = BY_MESSAGE[RecordBatch].bytes_max - ENVELOPE_BYTES_MAX


class PublisherSettings(Settings, frozen=True):
    """How patient the publisher is."""

    gather_s: Annotated[float, Meta(ge=0.0, le=3600)] = 1.0
    resend_s: Annotated[float, Meta(ge=0.1, le=3600)] = 10.0
    resend_s_max: Annotated[float, Meta(ge=0.1, le=3600)] = 60.0
    batch_records_max: Annotated[int, Meta(ge=1, le=BATCH_RECORDS_MAX)] = BATCH_RECORDS_MAX


class Uplink(Protocol):
    """The part of shared.link.link.Link that the publisher needs."""

    @property
    def is_connected(self) -> bool:
        """Whether the link is up right now."""
        ...

    def publish(self, device: DeviceId, message: Message) -> None:
        """Send; see shared.link.link.Link."""
        ...


@dataclass(frozen=True, slots=True)
class _Flight:
    """A batch that is out."""

    last_sequence: int
    sent_s: float
    is_first: bool  # None of it was sent before


class Publisher:
    """See the rules above."""

    def __init__(
        self,
        outbox: SqlOutbox,
        link: Uplink,
        device: DeviceId,
        clock: Clock,
        settings: PublisherSettings | None = None,
    ) -> None:
        """Start at the outbox's own watermark."""
        self._outbox, self._link, self._device = outbox, link, device
        self._clock, self._settings = clock, settings or PublisherSettings()
        self._watermarks: deque[Watermark] = deque(maxlen=WATERMARKS_MAX)
        self._has_connected = threading.Event()
        self._wake = threading.Event()
        self._stream: str | None = None
        self._cursor = 0
        self._in_flight: deque[_Flight] = deque()
        self._sent_upto = 0  # Highest sequence ever sent: from here down, it is sent again
        self._round_trip_s: float | None = None
        self._window = BATCHES_IN_FLIGHT_MAX
        self._heard_s = clock.monotonic_s()  # When something last went forward
        self._resend_s = self._settings.resend_s
        self._sent_s: float | None = None  # When the last batch went; None: the next may at once
        self._resent_to: tuple[int, float] | None = None  # Where `resend` sent us, and when
        self.resends_count = 0

    def on_watermark(self, watermark: Watermark) -> None:
        """Take the hub's answer; past WATERMARKS_MAX the oldest goes, for a newer one says more."""
        self._watermarks.append(watermark)
        self._wake.set()

    def on_connected(self) -> None:
        """Take notice that the link came up."""
        self._has_connected.set()
        self._wake.set()

    def run(self, stop: threading.Event) -> None:
        """Publish until `stop` is set."""
        while not stop.is_set():
            if not self.step():
                self._clock.wait(self._wake, POLL_S)
                self._wake.clear()

    def step(self) -> bool:
        """Hear the hub, then send what may be sent; return whether there is more to do at once."""
        self._hear()
        if not self._link.is_connected:
            return False
        self._check_timer()
        for _ in range(BATCHES_PER_STEP_MAX):
            if len(self._in_flight) >= self._window or not self._send_next():
                return False
        return True

    # Hearing ------------------------------------------------------------------------------------

    def _hear(self) -> None:
        if self._outbox.stream != self._stream:  # At start, and after a corrupt file
            self._begin_stream()
        if self._has_connected.is_set():
            self._has_connected.clear()
            self._rewind(self._outbox.watermark)
        upto = 0
        while self._watermarks:
            watermark = self._watermarks.popleft()
            if watermark.stream != self._stream:
                continue  # Of an outbox that was here before
            if watermark.sequence > self._outbox.last_sequence:
                self._outbox.renew_stream()
                self._begin_stream()
                return
            upto = max(upto, watermark.sequence)
            self._advance(watermark.sequence)
            if watermark.resend:
                self._resend(watermark.sequence)
        if upto:
            self._outbox.delete_up_to(upto)  # Once for all of them: each is a write to the disk

    def _begin_stream(self) -> None:
        self._stream = self._outbox.stream
        self._resent_to, self._sent_upto = None, 0
        self._rewind(self._outbox.watermark)

    def _advance(self, sequence: int) -> None:
        """Take batches up to `sequence` off the list of those that are out."""
        now_s = self._clock.monotonic_s()
        self._heard_s = now_s  # Also by what says nothing new: copies are still arriving
        while self._in_flight and self._in_flight[0].last_sequence <= sequence:
            flight = self._in_flight.popleft()
            self._window = min(self._window + 1, BATCHES_IN_FLIGHT_MAX)
            if flight.is_first:
                self._measure(now_s - flight.sent_s)

    def _measure(self, round_trip_s: float) -> None:
        before_s = self._round_trip_s
        self._round_trip_s = (
            round_trip_s
            if before_s is None
            else (1 - SMOOTHING) * before_s + SMOOTHING * round_trip_s
        )
        patience_s = max(self._settings.resend_s, ROUND_TRIPS_MIN * self._round_trip_s)
        self._resend_s = min(patience_s, self._settings.resend_s_max)

    def _resend(self, sequence: int) -> None:
        now_s = self._clock.monotonic_s()
        if self._resent_to is not None:
            resent_sequence, resent_s = self._resent_to
            if resent_sequence == sequence and now_s - resent_s < RESEND_QUIET_S:
                return
        self._resent_to = sequence, now_s
        if sequence < self._outbox.watermark:
            log.warning(
                "publisher.hub_went_back",
                extra={"hub_watermark": sequence, "watermark": self._outbox.watermark},
            )
        self._rewind(sequence)

    def _check_timer(self) -> None:
        now_s = self._clock.monotonic_s()
        if not self._in_flight or now_s - self._heard_s < self._resend_s:
            return
        log.info("publisher.no_watermark", extra={"seconds": round(now_s - self._heard_s, 1)})
        self._window = 1
        self._resend_s = min(self._resend_s * 2, self._settings.resend_s_max)
        self._rewind(self._outbox.watermark)

    def _rewind(self, sequence: int) -> None:
        if self._in_flight:
            self.resends_count += 1
        self._cursor = sequence
        self._in_flight.clear()
        self._heard_s = self._clock.monotonic_s()
        self._sent_s = None

    # Sending ------------------------------------------------------------------------------------

    def _send_next(self) -> bool:
        """Send one batch; return whether the next may follow at once."""
        if not self._is_batch_due():
            return False
        records = self._outbox.read(
            self._cursor,
            records_max=self._settings.batch_records_max,
            bytes_max=RECORDS_BYTES_MAX,
        )
        if not records or self._outbox.stream != self._stream:
            return False
        try:
            return self._publish(records)
        except TransientError as error:
            log.debug("publisher.waits", extra={"code": error.code})
            return False

    def _is_batch_due(self) -> bool:
        waiting_count = self._outbox.last_sequence - self._cursor
        if waiting_count <= 0:
            return False
        if self._sent_s is None or waiting_count >= self._settings.batch_records_max:
            return True
        return self._clock.monotonic_s() - self._sent_s >= self._settings.gather_s

    def _publish(self, records: tuple[Record, ...]) -> bool:
        """Publish as many of `records` as make a good batch (rule 6); return whether any did."""
        assert self._stream is not None
        while records:
            batch = RecordBatch(stream=self._stream, since=self._cursor, records=records)
            try:
                self._link.publish(self._device, batch)
            except ContractError as error:
                if len(records) == 1:
                    log.error("publisher.dropped", extra={"code": error.code})
                    self._outbox.drop(records[0].sequence)
                records = records[: len(records) // 2]
                continue
            now_s, last = self._clock.monotonic_s(), records[-1].sequence
            if not self._in_flight:
                self._heard_s = now_s  # The timer runs from the first one out
            is_first = records[0].sequence > self._sent_upto
            self._in_flight.append(_Flight(last, now_s, is_first))
            self._cursor, self._sent_upto = last, max(self._sent_upto, last)
            self._sent_s = now_s
            return True
        return False
