"""The hub's database: one engine, one way to open a transaction, SQLite and PostgreSQL alike.

1. Each service's `sql_store.py` declares its tables on METADATA; migrations/ makes them.
2. Every query must run on both: what differs between dialects (upsert) is here.
3. On SQLite a transaction that will write takes the write lock at its start (BEGIN IMMEDIATE), so
   that two writers wait for each other instead of failing in the middle.
4. A disk that is full lets everybody read: whether writes are taken is known from writes alone.
"""

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy.dialects import postgresql
from sqlalchemy.dialects import sqlite as sqlite_dialect

from shared.errors import ContractError, TransientError, UnavailableError

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
FILE_NAME = "hub.db"
DIALECTS = ("sqlite", "postgresql")
_WRITE_NOTHING_NEW = f"UPDATE {VERSION_TABLE} SET version_num = version_num"  # noqa: S608  (no input)
_PG_DISK_FULL = "53100"


class Database:
    """One database. Safe to share between threads."""

    def __init__(self, url: str | sa.URL) -> None:
        """Connect to nothing yet.

        Args: url: an SQLAlchemy URL: sqlite:///path or postgresql+psycopg://user@host/name.

        Raises ContractError `database.url`.
        """
        self.engine = sa.create_engine(
            _checked(url), pool_size=CONNECTIONS_MAX, max_overflow=0, pool_pre_ping=True
        )
        self._takes_writes = True  # As far as the last one that failed, or `check`, knows
        if self.engine.dialect.name == "sqlite":
            sa.event.listen(self.engine, "connect", _set_up_sqlite)
            sa.event.listen(self.engine, "begin", _begin_immediate)

    def migrate(self) -> None:
        """Bring the schema up to date; safe to call by several processes at once.

        Raises TransientError `database.unavailable` if nothing answers or it is busy;
        UnavailableError `database.unusable` or `database.newer`.
        """
        config = Config()
        config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
        try:
            with self.begin() as connection:
                if connection.dialect.name == "postgresql":
                    connection.execute(sa.text("SELECT pg_advisory_xact_lock(4733872)"))
                config.attributes["connection"] = connection
                command.upgrade(config, "head")
        except CommandError as error:
            raise UnavailableError(
                "database.newer",
                f"A newer version of the hub has used this database: {error}.",
                remedy="Run that version, or put the database of this one back from a backup.",
            ) from error
        except sa.exc.DatabaseError as error:  # No database at all, or no right to change it
            raise UnavailableError(
                "database.unusable",
                f"The database cannot be used: {_first_line(error)}.",
                remedy="Give its user the right to make tables, or put it back from a backup.",
            ) from error

    def check(self) -> None:
        """Return if it answers; and takes writes, if it did not the last time.

        Raises TransientError `database.unavailable` or `database.full`, UnavailableError
        `database.unusable`.
        """
        try:
            with self.read() as connection:
                connection.exec_driver_sql("SELECT 1")
            if not self._takes_writes:
                with self.begin() as connection:
                    connection.exec_driver_sql(_WRITE_NOTHING_NEW)
                self._takes_writes = True
        except sa.exc.DatabaseError as error:
            raise UnavailableError(
                "database.unusable",
                f"The database cannot be used: {_first_line(error)}.",
                remedy="Put it back from a backup.",
            ) from error

    @contextmanager
    def begin(self) -> Iterator[sa.Connection]:
        """Open a transaction that is committed at the end, or undone if anything raises.

        Raises TransientError `database.unavailable` or `database.full`.
        """
        try:
            with self.engine.begin() as connection:
                yield connection
        except (sa.exc.OperationalError, sa.exc.TimeoutError) as error:
            self._takes_writes = False
            raise _unavailable(error) from error

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
        except (sa.exc.OperationalError, sa.exc.TimeoutError) as error:
            raise _unavailable(error) from error

    def close(self) -> None:
        """Close every connection."""
        self.engine.dispose()


def sqlite_url(state: Path) -> sa.URL:
    """Return the URL of a state folder's own database, whatever characters its path has."""
    return sa.URL.create("sqlite", database=str(state / FILE_NAME))


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


def _checked(url: str | sa.URL) -> sa.URL:
    """Return the URL of a database that the hub can speak to. Raises ContractError."""
    try:
        parsed = sa.make_url(url)
        dialect = parsed.get_dialect()
        is_in_memory = dialect.name == "sqlite" and parsed.database in (None, "", ":memory:")
        if dialect.name in DIALECTS and not is_in_memory and dialect.import_dbapi():
            return parsed
    except (sa.exc.ArgumentError, ImportError, ValueError):
        pass
    # Not shown: it may hold a password.
    raise ContractError(
        "database.url",
        "This is not the URL of a database that the hub can use.",
        remedy="Write sqlite:////path/to/hub.db or postgresql+psycopg://user@host/name.",
    )


def _unavailable(error: sa.exc.OperationalError | sa.exc.TimeoutError) -> TransientError:
    """Return the error for a database that does not answer, or stayed too busy for too long."""
    if _is_full(getattr(error, "orig", None)):
        return TransientError(
            "database.full",
            "The disk under the hub's database is full.",
            remedy="Free some space; the hub goes on by itself then.",
        )
    return TransientError(
        "database.unavailable",
        f"The database cannot be used now: {_first_line(error)}.",
        remedy="Check that it runs, that the hub may write it, and what --database names.",
    )


def _is_full(cause: BaseException | None) -> bool:
    if isinstance(cause, sqlite3.Error):
        return getattr(cause, "sqlite_errorcode", 0) == sqlite3.SQLITE_FULL
    return getattr(cause, "sqlstate", None) == _PG_DISK_FULL


def _first_line(error: sa.exc.SQLAlchemyError) -> str:
    cause = getattr(error, "orig", None) or error
    return (str(cause).splitlines() or [type(cause).__name__])[0].rstrip(".")


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
