"""A private PostgreSQL server for one test run: own folder, Unix socket only, no durability.

It listens on no TCP port, so that several runs on one machine cannot meet. PostgreSQL refuses to
run as root; there it runs as the user that its package made, or as nobody.
"""

import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest

from tests.support.requirements import require_postgresql
from tests.support.waiting import wait_until

SETTINGS = (
    "listen_addresses=",
    "fsync=off",
    "synchronous_commit=off",
    "full_page_writes=off",
    "max_connections=200",
    "shared_buffers=16MB",
    "autovacuum=off",
    "log_min_messages=fatal",
)


@dataclass(frozen=True, slots=True)
class PostgresServer:
    """A running server."""

    folder: Path

    def url(self, name: str) -> str:
        """Return the SQLAlchemy URL of one of its databases."""
        return f"postgresql+psycopg://postgres@/{name}?host={self.folder}"

    @contextmanager
    def new_database(self, *, template: str = "template1") -> Iterator[str]:
        """Make a database, a copy of `template`; give its name; drop it at the end."""
        name = "test_" + secrets.token_hex(6)
        self.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        try:
            yield name
        finally:
            self.execute(f"DROP DATABASE {name} WITH (FORCE)")

    def execute(self, statement: str) -> None:
        """Run one statement outside of any transaction."""
        with psycopg.connect(
            host=str(self.folder), user="postgres", dbname="postgres", autocommit=True
        ) as connection:
            connection.execute(statement.encode())


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """A server that lives as long as the test run."""
    programs = require_postgresql()
    folder = Path(tempfile.mkdtemp(prefix="isthmus-pg-"))
    user = _user()
    try:
        if user is not None:
            os.chown(folder, user.pw_uid, user.pw_gid)
        data = folder / "data"
        options = ["--auth=trust", "--no-sync", "--no-locale", "--encoding=UTF8", "-U", "postgres"]
        initdb = [programs / "initdb", "-D", data, *options]
        subprocess.run(initdb, check=True, stdout=subprocess.DEVNULL, cwd=folder, **_as(user))
        command = [programs / "postgres", "-D", data, "-k", folder]
        command += [word for setting in SETTINGS for word in ("-c", setting)]
        process = subprocess.Popen(
            command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **_as(user)
        )
        try:
            server = PostgresServer(folder)
            wait_until(lambda: _answers(server), seconds_max=30)
            yield server
        finally:
            process.send_signal(signal.SIGINT)  # Fast shutdown: does not wait for connections.
            process.wait(timeout=30)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _answers(server: PostgresServer) -> bool:
    try:
        server.execute("SELECT 1")
    except psycopg.OperationalError:
        return False
    return True


def _user() -> pwd.struct_passwd | None:
    if os.geteuid() != 0:
        return None
    try:
        return pwd.getpwnam("postgres")
    except KeyError:
        return pwd.getpwnam("nobody")


def _as(user: pwd.struct_passwd | None) -> dict[str, object]:
    if user is None:
        return {}
    return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
