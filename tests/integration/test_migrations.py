"""The migrations make exactly the tables that the stores declare, on both databases."""

import importlib
import multiprocessing
import pkgutil

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

import cloud_hub
from cloud_hub.sql_database import METADATA, VERSION_TABLE, Database


def import_stores() -> list[str]:
    """Import every sql_store of the hub, so that METADATA is whole; return their names."""
    names = [
        module.name
        for module in pkgutil.walk_packages(cloud_hub.__path__, "cloud_hub.")
        if module.name.rpartition(".")[2].startswith("sql_store")
    ]
    for name in names:
        importlib.import_module(name)
    return names


def head(database: Database) -> list[str]:
    with database.read() as connection:
        return [
            str(row[0]) for row in connection.execute(sa.text(f"SELECT * FROM {VERSION_TABLE}"))
        ]


def migrate(url: str) -> None:
    database = Database(url)
    database.migrate()
    database.close()


def test_the_stores_declare_exactly_what_the_migrations_make(database: Database) -> None:
    assert "cloud_hub.devices.sql_store" in import_stores()
    with database.read() as connection:
        context = MigrationContext.configure(
            connection, opts={"version_table": VERSION_TABLE, "compare_type": True}
        )
        differences = compare_metadata(context, METADATA)
    assert differences == []


def test_a_missing_column_would_be_noticed(database: Database) -> None:
    import_stores()
    with database.begin() as connection:
        connection.execute(sa.text("ALTER TABLE devices DROP COLUMN board"))
    with database.read() as connection:
        context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
        assert compare_metadata(context, METADATA)


def test_migrating_twice_changes_nothing(database: Database) -> None:
    before = head(database)
    database.migrate()
    assert head(database) == before
    assert len(before) == 1


@pytest.mark.slow
def test_several_processes_may_migrate_at_once(empty_database_url: str) -> None:
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=migrate, args=(empty_database_url,)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    database = Database(empty_database_url)
    assert len(head(database)) == 1
    database.close()
