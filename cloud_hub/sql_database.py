"""The hub's database: one engine, one way to open a transaction, SQLite and PostgreSQL alike.

1. Each service's `sql_store.py` declares its tables on METADATA; migrations/ makes them.
2. Every query must run on both: what differs between dialects (upsert) is here.
3. On SQLite a transaction that will write takes the write lock at its start (BEGIN IMMEDIATE), so
   that two writers wait for each other instead of failing in the middle.
"""

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from sqlalchemy.dialects import postgresql
from sqlalchemy.dialects import sqlite as sqlite_dialect

from shared.errors import TransientError

METADATA = sa.MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
    }
)
BUSY_TIMEOUT_MS = 10_000
CONNECTIONS_MAX = 20
MIGRATIONS = Path(__file__).parent / "migrations"
VERSION_TABLE = "hub_alembic_version"  # Optuna uses alembic's own default name.


class Database:
    """One database. Safe to share between threads."""

    def __init__(self, url: str) -> None:
        """Args: an SQLAlchemy URL: sqlite:///path or postgresql+psycopg://user@host/name."""
        self.engine = sa.create_engine(
            url, pool_size=CONNECTIONS_MAX, max_overflow=0, pool_pre_ping=True
        )
        if self.engine.dialect.name == "sqlite":
            sa.event.listen(self.engine, "connect", _set_up_sqlite)
            sa.event.listen(self.engine, "begin", _begin_immediate)

    def migrate(self) -> None:
        """Bring the schema up to date; safe to call by several processes at once."""
        config = Config()
        config.set_main_option("script_location", str(MIGRATIONS))
        with self.engine.begin() as connection:
            if connection.dialect.name == "postgresql":
                connection.execute(sa.text("SELECT pg_advisory_xact_lock(4733872)"))
            config.attributes["connection"] = connection
            command.upgrade(config, "head")

    @contextmanager
    def begin(self) -> Iterator[sa.Connection]:
        """Open a transaction that is committed at the end, or undone if anything raises.

        Raises TransientError `database.unavailable`.
        """
        try:
            with self.engine.begin() as connection:
                yield connection
        except sa.exc.OperationalError as error:
            raise TransientError("database.unavailable", f"The database: {error.orig}.") from error
        except sa.exc.TimeoutError as error:  # All CONNECTIONS_MAX stayed in use for too long
            raise TransientError("database.unavailable", f"The database: {error}.") from error

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """Open a transaction for reading only: takes no write lock.

        Raises TransientError `database.unavailable`.
        """
        try:
            with self.engine.connect() as connection:
                reading = connection.execution_options(isthmus_reads=True)
                with reading.begin():
                    yield reading
        except sa.exc.OperationalError as error:
            raise TransientError("database.unavailable", f"The database: {error.orig}.") from error
        except sa.exc.TimeoutError as error:  # All CONNECTIONS_MAX stayed in use for too long
            raise TransientError("database.unavailable", f"The database: {error}.") from error

    def close(self) -> None:
        """Close every connection."""
        self.engine.dispose()


def upsert(
    connection: sa.Connection,
    table: sa.Table,
    values: Mapping[str, object] | Sequence[Mapping[str, object]],
    *,
    key: Sequence[str],
    update: Sequence[str],
) -> None:
    """Insert rows; where `key` is taken, set the columns of `update` instead (none: leave it)."""
    if connection.dialect.name == "postgresql":
        insert: sqlite_dialect.Insert | postgresql.Insert = postgresql.insert(table)
    else:
        insert = sqlite_dialect.insert(table)
    if update:
        changes = {name: insert.excluded[name] for name in update}
        statement = insert.on_conflict_do_update(index_elements=list(key), set_=changes)
    else:
        statement = insert.on_conflict_do_nothing(index_elements=list(key))
    rows = [values] if isinstance(values, Mapping) else list(values)
    if rows:
        connection.execute(statement, [dict(row) for row in rows])


def _set_up_sqlite(connection: sqlite3.Connection, _record: object) -> None:
    connection.isolation_level = None  # SQLAlchemy's own BEGIN below, not the driver's.
    for pragma in (
        f"busy_timeout={BUSY_TIMEOUT_MS}",  # First: changing the journal mode takes a lock too.
        "journal_mode=WAL",
        "synchronous=FULL",  # What was acknowledged to a device survives a power cut.
        "foreign_keys=ON",
    ):
        connection.execute(f"PRAGMA {pragma}")


def _begin_immediate(connection: sa.Connection) -> None:
    reads = connection.get_execution_options().get("isthmus_reads", False)
    connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")
