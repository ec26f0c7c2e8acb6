"""SqlOutbox: what the device has to tell, kept until the hub says that it is in its database.

1. `append` costs the caller microseconds: it puts the body into a buffer of BUFFER_RECORDS_MAX.
   `run` (a thread of its own) commits the buffer every COMMIT_DELAY_S, or sooner when
   COMMIT_RECORDS wait: what a kill can lose is what was appended within that time, and that never
   had a sequence number.
2. The file is bounded in rows and bytes. Past either, and when the buffer is full because the disk
   is, the oldest go and are counted; the count is in the file and survives a restart.
3. Rows are deleted only on the hub's watermark (`delete_up_to`), or by rule 2.
4. A file that is corrupt is set aside (`.corrupt-<ms>`, CORRUPT_FILES_MAX are kept), a new stream
   begins, and an EventRecord says so. A disk that is full or gone is waited for. Neither ever
   reaches the caller of `append`.
5. A body that breaks the wire's contract is refused here, so that one of them can never hold up
   the batch it would be in.

Thread-safe.
"""

import logging
import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from edge_agent.telemetry.sql_outbox_file import OutboxFile
from shared.clock import Clock, now_ms
from shared.errors import IntegrityError, TransientError
from shared.settings import Settings
from shared.wire.records import Body, EventRecord, Record

log = logging.getLogger(__name__)

COMMIT_DELAY_S = 0.25
COMMIT_RECORDS = 500
BUFFER_RECORDS_MAX = 10_000
CORRUPT_FILES_MAX = 3
RECORD_OVERHEAD_BYTES = 64  # Sequence, time and field names around a body on the wire
REFUSALS_PER_LOG_LINE = 1000

_ENCODER = msgspec.msgpack.Encoder()
_BODIES = msgspec.msgpack.Decoder(Body)


class OutboxSettings(Settings, frozen=True):
    """How much the device keeps while the hub is away."""

    rows_max: Annotated[int, Meta(ge=100, le=100_000_000)] = 200_000
    bytes_max: Annotated[int, Meta(ge=64 << 10, le=1 << 40)] = 64 << 20


class SqlOutbox:
    """See the rules above."""

    def __init__(self, path: Path, settings: OutboxSettings, clock: Clock) -> None:
        """Open the outbox at `path`; the folder exists."""
        self._path, self._settings, self._clock = path, settings, clock
        self._buffer: deque[tuple[int, Body]] = deque()
        self._buffer_lock = threading.Lock()  # Held for microseconds: `append` takes it
        self._file_lock = threading.RLock()  # Held while the disk works
        self._wake = threading.Event()
        self._unwritten_dropped = 0  # Lost before they got into the file; under the buffer lock
        self.refused_count = 0
        self._is_disk_well = True
        self._file: OutboxFile | None = None
        with self._file_lock:
            self._reopen()

    # What it holds ------------------------------------------------------------------------------

    @property
    def stream(self) -> str | None:
        """Return the stream's id; None while the file cannot be opened."""
        file = self._file
        return None if file is None else str(file.stream)

    @property
    def last_sequence(self) -> int:
        """Return the newest committed sequence; 0 before the first."""
        file = self._file
        return 0 if file is None else file.last_sequence

    @property
    def watermark(self) -> int:
        """Return up to where the hub is known to have this stream."""
        file = self._file
        return 0 if file is None else file.watermark

    @property
    def rows_count(self) -> int:
        """Return how many records wait, committed or not."""
        file = self._file
        return len(self._buffer) + (0 if file is None else file.rows_count)

    @property
    def bytes_count(self) -> int:
        """Return the size of all committed bodies."""
        file = self._file
        return 0 if file is None else file.bytes_count

    @property
    def dropped_count(self) -> int:
        """Return how many records of this file's life were lost to a limit."""
        file = self._file
        return self._unwritten_dropped + (0 if file is None else file.dropped_count)

    # Writing ------------------------------------------------------------------------------------

    def append(self, body: Body) -> None:
        """Keep `body` until the hub has it. Never raises, never waits for the disk."""
        with self._buffer_lock:
            self._buffer.append((now_ms(self._clock), body))
            self._trim_buffer()
            is_due = len(self._buffer) >= COMMIT_RECORDS
        if is_due:
            self._wake.set()

    def run(self, stop: threading.Event) -> None:
        """Commit what is appended until `stop` is set, then once more."""
        while not stop.is_set():
            self._clock.wait(self._wake, COMMIT_DELAY_S)
            self._wake.clear()
            if not self.flush():
                self._clock.wait(stop, COMMIT_DELAY_S)  # The disk is full or gone
        self.flush()

    def flush(self) -> bool:
        """Commit what was appended so far; return whether the disk took all of it."""
        with self._file_lock:
            while True:
                pending, dropped = self._take()
                if not pending and not dropped:
                    return True
                if not self._write(pending, dropped):
                    self._put_back(pending, dropped)
                    return False

    def close(self) -> None:
        """Commit and close. The outbox is of no use afterwards."""
        with self._file_lock:
            self.flush()
            if self._file is not None:
                self._file.close()
                self._file = None

    def _take(self) -> tuple[list[tuple[int, Body]], int]:
        with self._buffer_lock:
            count = min(len(self._buffer), COMMIT_RECORDS)
            pending = [self._buffer.popleft() for _ in range(count)]
            dropped, self._unwritten_dropped = self._unwritten_dropped, 0
        return pending, dropped

    def _put_back(self, pending: list[tuple[int, Body]], dropped: int) -> None:
        with self._buffer_lock:
            self._buffer.extendleft(reversed(pending))
            self._unwritten_dropped += dropped
            self._trim_buffer()

    def _trim_buffer(self) -> None:
        while len(self._buffer) > BUFFER_RECORDS_MAX:
            self._buffer.popleft()
            self._unwritten_dropped += 1

    def _write(self, pending: list[tuple[int, Body]], dropped: int) -> bool:
        if self._file is None:
            self._reopen()
        encoded = [(at_ms, data) for at_ms, body in pending if (data := self._encode(body))]
        return self._attempt(
            lambda file: file.insert(
                encoded,
                rows_max=self._settings.rows_max,
                bytes_max=self._settings.bytes_max,
                dropped_before=dropped,
            )
        )

    def _encode(self, body: Body) -> bytes | None:
        """Return `body` as bytes, or None if the hub would refuse it (rule 5)."""
        try:
            data = _ENCODER.encode(body)
            # NaN is the one value within every limit that does not come back equal to itself.
            if _BODIES.decode(data) == body:
                return data
            reason = "a number is not finite"
        except (msgspec.MsgspecError, TypeError, ValueError, OverflowError) as error:
            reason = str(error)
        if self.refused_count % REFUSALS_PER_LOG_LINE == 0:
            kind = type(body).__name__
            log.error("outbox.refused", extra={"kind": kind, "reason": reason[:200]})
        self.refused_count += 1
        return None

    # Reading and deleting -----------------------------------------------------------------------

    def read(self, after: int, *, records_max: int, bytes_max: int) -> tuple[Record, ...]:
        """Return committed records above sequence `after`, in order, as many as fit (at least one).

        Empty as well while the disk does not answer.
        """
        records: list[Record] = []
        unreadable: list[int] = []

        def take(file: OutboxFile) -> None:
            size = 0
            for sequence, at_ms, data in file.read(after, rows_max=records_max):
                size += len(data) + RECORD_OVERHEAD_BYTES
                if records and size > bytes_max:
                    break
                try:
                    body = _BODIES.decode(data)
                    records.append(Record(sequence=sequence, at_ms=at_ms, body=body))
                except (msgspec.MsgspecError, ValueError):
                    unreadable.append(sequence)  # Written by another version of this program

        with self._file_lock:
            is_read = self._attempt(take)
            for sequence in unreadable:
                self.drop(sequence)
        return tuple(records) if is_read else ()

    def delete_up_to(self, sequence: int) -> None:
        """Delete what the hub has. A disk that does not answer keeps it, until the next time."""
        with self._file_lock:
            if sequence > self.watermark:
                self._attempt(lambda file: file.delete_up_to(sequence))

    def drop(self, sequence: int) -> None:
        """Give up on one record that cannot be sent, and count it."""
        with self._file_lock:
            self._attempt(lambda file: file.drop(sequence))

    def renew_stream(self) -> None:
        """Begin a new stream with what is here: this file is an older copy of itself."""
        with self._file_lock:
            if self._attempt(lambda file: file.renew_stream()):
                self._tell("outbox.went_back", "The outbox was older than what the hub had of it.")

    # The file -----------------------------------------------------------------------------------

    def _attempt(self, act: Callable[[OutboxFile], None]) -> bool:
        """Do something with the file; return whether it went well (rule 4)."""
        if self._file is None:
            return False
        try:
            act(self._file)
        except TransientError as error:
            self._note_disk(error)
            return False
        except IntegrityError as error:
            self._set_aside(error)
            return False
        self._note_disk(None)
        return True

    def _reopen(self) -> None:
        try:
            self._file = OutboxFile(self._path)
        except TransientError as error:
            self._note_disk(error)
        except IntegrityError as error:
            self._set_aside(error)

    def _set_aside(self, error: IntegrityError) -> None:
        """Move a corrupt file away and begin a new one; if even that fails, `flush` tries again."""
        if self._file is not None:
            self._file.close()
            self._file = None
        aside = self._path.with_name(f"{self._path.name}.corrupt-{now_ms(self._clock)}")
        try:
            self._path.rename(aside)
            for suffix in ("-wal", "-shm"):
                self._path.with_name(self._path.name + suffix).unlink(missing_ok=True)
            kept = sorted(self._path.parent.glob(f"{self._path.name}.corrupt-*"))
            for old in kept[:-CORRUPT_FILES_MAX]:
                old.unlink(missing_ok=True)
            self._file = OutboxFile(self._path)
        except (OSError, TransientError, IntegrityError) as problem:
            self._note_disk(problem)
            return
        self._tell(error.code, f"{error.message} It was set aside as {aside.name}.")

    def _note_disk(self, problem: Exception | None) -> None:
        """Log the first failure of a row of them, and the end of the row."""
        if problem is not None and self._is_disk_well:
            log.warning("outbox.disk", extra={"text": str(problem)})
        elif problem is None and not self._is_disk_well:
            log.info("outbox.disk_is_back", extra={"dropped": self.dropped_count})
        self._is_disk_well = problem is None

    def _tell(self, code: str, text: str) -> None:
        log.error(code, extra={"text": text})
        self.append(EventRecord(code=code, text=text[:2000]))
