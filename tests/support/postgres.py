"""Private PostgreSQL servers: own folder, Unix socket only.

They listen on no TCP port, so that several runs on one machine cannot meet. PostgreSQL refuses to
run as root; there they run as the user that its package made, or as nobody.
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
from pathlib import Path

import psycopg
import pytest

from tests.support.requirements import require_postgresql
from tests.support.waiting import wait_until

SETTINGS = (
    "listen_addresses=",
    "max_connections=200",
    "shared_buffers=16MB",
    "autovacuum=off",
    "log_min_messages=fatal",
)
# Fast, and still right as long as nobody kills the server.
FORGETFUL = ("fsync=off", "synchronous_commit=off", "full_page_writes=off")
START_S_MAX = 30.0


class PostgresServer:
    """One server over one folder, which can be killed and started again."""

    def __init__(self, folder: Path, *, settings: tuple[str, ...] = ()) -> None:
        """Make the server's files; nothing runs yet."""
        self.folder = folder
        self._programs = require_postgresql()
        self._user = _user()
        self._settings = (*SETTINGS, *settings)
        self._process: subprocess.Popen[bytes] | None = None
        if self._user is not None:
            os.chown(folder, self._user.pw_uid, self._user.pw_gid)
        options = ["--auth=trust", "--no-sync", "--no-locale", "--encoding=UTF8", "-U", "postgres"]
        initdb = [self._programs / "initdb", "-D", folder / "data", *options]
        subprocess.run(initdb, check=True, stdout=subprocess.DEVNULL, cwd=folder, **_as(self._user))

    def start(self) -> None:
        """Start it; return when it answers."""
        command = [self._programs / "postgres", "-D", self.folder / "data", "-k", self.folder]
        command += [word for setting in self._settings for word in ("-c", setting)]
        self._process = subprocess.Popen(
            command,
            cwd=self.folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            **_as(self._user),
        )
        wait_until(self._answers, seconds_max=START_S_MAX)

    def kill(self) -> None:
        """Send SIGKILL to it and to every process of its own."""
        assert self._process is not None
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def stop(self) -> None:
        """End it, without waiting for its clients."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
            self._process.wait(timeout=START_S_MAX)

    def _answers(self) -> bool:
        try:
            self.execute("SELECT 1")
        except psycopg.OperationalError:
            return False
        return True

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
    with server_folder() as folder:
        server = PostgresServer(folder, settings=FORGETFUL)
        try:
            server.start()
            yield server
        finally:
            server.stop()


@contextmanager
def server_folder() -> Iterator[Path]:
    """A folder for a server: its path is short enough for a socket."""
    folder = Path(tempfile.mkdtemp(prefix="isthmus-pg-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


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
