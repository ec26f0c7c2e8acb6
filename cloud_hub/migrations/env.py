"""How Alembic runs our migrations: always over a connection that the caller opened.

`Database.migrate` is the caller: it holds the lock that makes several processes wait for each
other, and its transaction makes a migration happen whole or not at all (both databases can undo
a CREATE TABLE).
"""

from alembic import context

from cloud_hub.sql_database import METADATA, VERSION_TABLE

connection = context.config.attributes.get("connection")
if connection is None:
    raise SystemExit("Migrations run by cloud-hub itself, at its start; see sql_database.py.")

context.configure(
    connection=connection,
    target_metadata=METADATA,
    version_table=VERSION_TABLE,
    render_as_batch=connection.dialect.name == "sqlite",
)
with context.begin_transaction():
    context.run_migrations()
