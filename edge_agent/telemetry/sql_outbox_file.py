"""OutboxFile: the records of one stream in one SQLite file. Statements only; policy is SqlOutbox's.

1. WAL with synchronous FULL: each commit is on the disk before it returns. NORMAL would not do: a
   power cut could take back the newest commits, their sequence numbers would be given out again,
   and the hub, which may have seen the first bearer, would drop the second as a duplicate.
2. Sequence numbers are AUTOINCREMENT: never given out twice, not even after all rows are deleted.
3. What is counted (rows, bytes, dropped, watermark) changes in the transaction that it counts.
4. Not safe to share between threads; whoever owns it holds a lock.
5. bytes_max of the settings bounds the bodies. The file is larger by SQLite's own pages (measured
   1.13 to 1.18 times for bodies of 316 and 148 bytes) and does not shrink when rows go; beside it
   lies a write-ahead log of up to WAL_BYTES_MAX.
"""

import re
import secrets
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from shared.errors import IntegrityError, IsthmusError, TransientError

SCHEMA = 1
BUSY_TIMEOUT_MS = 2000
WAL_BYTES_MAX = 4 << 20
_TABLES = """
CREATE TABLE IF NOT EXISTS records (
    sequence INTEGER PRIMARY KEY AUTOINCREMENT, at_ms INTEGER NOT NULL, body BLOB NOT NULL
);
CREATE TABLE IF NOT EXISTS state (
    id INTEGER PRIMARY KEY CHECK (id = 1), stream TEXT NOT NULL,
    watermark INTEGER NOT NULL, dropped INTEGER NOT NULL
);
"""
_STREAM = re.compile(r"[0-9a-f]{16}")
# The file is not what we wrote. Everything else (full, locked, unplugged) may pass.
_CORRUPT_CODES = frozenset(
    {
        sqlite3.SQLITE_CORRUPT,
        sqlite3.SQLITE_NOTADB,
        sqlite3.SQLITE_FORMAT,
        sqlite3.SQLITE_ERROR,  # "no such column": another program's file
        sqlite3.SQLITE_MISMATCH,
        sqlite3.SQLITE_CONSTRAINT,
    }
)

Row = tuple[int, int, bytes]  # sequence, at_ms, body


class OutboxFile:
    """See the rules above."""

    def __init__(self, path: Path) -> None:
        """Open the file at `path`, making it and its stream if it is new.

        Raises IntegrityError `outbox.corrupt`; TransientError `outbox.disk`.
        """
        with _converted():
            # Our own BEGIN and COMMIT; several threads take turns (rule 4).
            self._connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            try:
                self._open()
            except (sqlite3.Error, IsthmusError):
                self._connection.close()
                raise

    def _open(self) -> None:
        execute = self._connection.execute
        execute(f"PRAGMA busy_timeout={BUSY_TIMEOUT_MS}")
        execute("PRAGMA journal_mode=WAL")
        execute("PRAGMA synchronous=FULL")
        execute(f"PRAGMA journal_size_limit={WAL_BYTES_MAX}")
        (health,) = execute("PRAGMA quick_check(1)").fetchone()
        (schema,) = execute("PRAGMA user_version").fetchone()
        if health != "ok" or schema not in (0, SCHEMA):
            raise IntegrityError("outbox.corrupt", f"The outbox file: {health}, schema {schema}.")
        with self._transaction():
            for statement in _TABLES.split(";"):
                execute(statement)
            execute(f"PRAGMA user_version={SCHEMA}")
            execute("INSERT OR IGNORE INTO state VALUES (1, ?, 0, 0)", (secrets.token_hex(8),))
        self.stream, self.watermark, self.dropped_count = execute(
            "SELECT stream, watermark, dropped FROM state"
        ).fetchone()
        if not _STREAM.fullmatch(str(self.stream)):
            raise IntegrityError("outbox.corrupt", "The outbox file's stream id is not one.")
        self.rows_count, self.bytes_count = execute(
            "SELECT count(*), coalesce(sum(length(body)), 0) FROM records"
        ).fetchone()
        self.last_sequence = self._read_last_sequence()

    def insert(
        self,
        bodies: Sequence[tuple[int, bytes]],
        *,
        rows_max: int,
        bytes_max: int,
        dropped_before: int,
    ) -> None:
        """Commit (at_ms, body) pairs; the oldest rows over the limits go, and are counted.

        Args: `dropped_before` is what was lost before it got here, counted along.
        Raises IntegrityError `outbox.corrupt`; TransientError `outbox.disk`: nothing is changed.
        """
        with _converted():
            with self._transaction():
                self._connection.executemany(
                    "INSERT INTO records (at_ms, body) VALUES (?, ?)", bodies
                )
                rows = self.rows_count + len(bodies)
                size = self.bytes_count + sum(len(body) for _, body in bodies)
                rows_left, bytes_left = self._drop_oldest(rows, size, rows_max, bytes_max)
                dropped = self.dropped_count + dropped_before + rows - rows_left
                if dropped != self.dropped_count:
                    self._connection.execute("UPDATE state SET dropped = ?", (dropped,))
                last_sequence = self._read_last_sequence()
            # Only now: a transaction that failed must leave the counts as they were.
            self.rows_count, self.bytes_count = rows_left, bytes_left
            self.dropped_count, self.last_sequence = dropped, last_sequence

    def _drop_oldest(self, rows: int, size: int, rows_max: int, bytes_max: int) -> tuple[int, int]:
        upto = 0
        if rows > rows_max or size > bytes_max:
            oldest = self._connection.execute(
                "SELECT sequence, length(body) FROM records ORDER BY sequence"
            )
            for sequence, length in oldest:
                upto, rows, size = sequence, rows - 1, size - length
                if rows <= rows_max and size <= bytes_max:
                    break
            oldest.close()
            self._connection.execute("DELETE FROM records WHERE sequence <= ?", (upto,))
        return rows, size

    def read(self, after: int, *, rows_max: int) -> Iterator[Row]:
        """Yield at most `rows_max` rows with a sequence above `after`, in order.

        Raises IntegrityError `outbox.corrupt`; TransientError `outbox.disk`.
        """
        with _converted():
            rows = self._connection.execute(
                "SELECT sequence, at_ms, body FROM records WHERE sequence > ?"
                " ORDER BY sequence LIMIT ?",
                (after, rows_max),
            )
            try:
                yield from rows
            finally:
                rows.close()

    def delete_up_to(self, sequence: int) -> None:
        """Delete every row up to and including `sequence`, which becomes the watermark.

        Raises IntegrityError `outbox.corrupt`; TransientError `outbox.disk`: nothing is changed.
        """
        with _converted():
            rows, size = self._connection.execute(
                "SELECT count(*), coalesce(sum(length(body)), 0) FROM records WHERE sequence <= ?",
                (sequence,),
            ).fetchone()
            watermark = max(self.watermark, sequence)
            with self._transaction():
                self._connection.execute("DELETE FROM records WHERE sequence <= ?", (sequence,))
                self._connection.execute("UPDATE state SET watermark = ?", (watermark,))
            self.rows_count -= rows
            self.bytes_count -= size
            self.watermark = watermark

    def drop(self, sequence: int) -> None:
        """Delete one row that nobody can read or send, and count it. Raises as `insert`."""
        with _converted():
            (rows, size) = self._connection.execute(
                "SELECT count(*), coalesce(sum(length(body)), 0) FROM records WHERE sequence = ?",
                (sequence,),
            ).fetchone()
            with self._transaction():
                self._connection.execute("DELETE FROM records WHERE sequence = ?", (sequence,))
                self._connection.execute("UPDATE state SET dropped = dropped + ?", (rows,))
            self.rows_count -= rows
            self.bytes_count -= size
            self.dropped_count += rows

    def renew_stream(self) -> None:
        """Give what is here a new stream id, from watermark 0. Raises as `insert`."""
        with _converted():
            stream = secrets.token_hex(8)
            with self._transaction():
                self._connection.execute("UPDATE state SET stream = ?, watermark = 0", (stream,))
            self.stream, self.watermark = stream, 0

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def _read_last_sequence(self) -> int:
        row = self._connection.execute(
            "SELECT seq FROM sqlite_sequence WHERE name = 'records'"
        ).fetchone()
        return 0 if row is None else int(row[0])

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._connection.execute("COMMIT")
        except sqlite3.Error:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise


@contextmanager
def _converted() -> Iterator[None]:
    """Turn SQLite's errors into ours."""
    try:
        yield
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR)
        is_short = code == sqlite3.SQLITE_IOERR_SHORT_READ
        if is_short or (code & 0xFF) in _CORRUPT_CODES:
            raise IntegrityError("outbox.corrupt", f"The outbox file: {error}.") from error
        raise TransientError("outbox.disk", f"The outbox file: {error}.") from error
