"""The hub's database for store tests: every such test runs on SQLite and on PostgreSQL.

Fixtures: `database` is migrated and empty, one per test; `database_url` is the same for tests that
open it themselves (several processes); `empty_database_url` has no tables yet. Migrating happens
once per run, each test gets a copy.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloud_hub.sql_database import Database
from tests.support.postgres import PostgresServer

KINDS = ("sqlite", pytest.param("postgresql", marks=pytest.mark.slow))


@pytest.fixture(params=KINDS)
def database_kind(request: pytest.FixtureRequest) -> str:
    """Which database this test runs on."""
    return str(request.param)


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """A migrated, empty database."""
    opened = Database(database_url)
    yield opened
    opened.close()


@pytest.fixture
def database_url(
    database_kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[str]:
    """The URL of a migrated, empty database."""
    if database_kind == "sqlite":
        shutil.copyfile(request.getfixturevalue("migrated_sqlite_file"), tmp_path / "hub.db")
        yield f"sqlite:///{tmp_path}/hub.db"
        return
    server: PostgresServer = request.getfixturevalue("postgres_server")
    template: str = request.getfixturevalue("migrated_postgres_name")
    with server.new_database(template=template) as name:
        yield server.url(name)


@pytest.fixture
def empty_database_url(
    database_kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[str]:
    """The URL of a database without any tables."""
    if database_kind == "sqlite":
        yield f"sqlite:///{tmp_path}/empty.db"
        return
    server: PostgresServer = request.getfixturevalue("postgres_server")
    with server.new_database() as name:
        yield server.url(name)


@pytest.fixture(scope="session")
def migrated_sqlite_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated SQLite file to copy."""
    path = tmp_path_factory.mktemp("migrated") / "hub.db"
    _migrate(f"sqlite:///{path}")
    return path


@pytest.fixture(scope="session")
def migrated_postgres_name(postgres_server: PostgresServer) -> Iterator[str]:
    """The name of a migrated PostgreSQL database to copy."""
    with postgres_server.new_database() as name:
        _migrate(postgres_server.url(name))
        yield name


def _migrate(url: str) -> None:
    opened = Database(url)
    opened.migrate()
    opened.close()
