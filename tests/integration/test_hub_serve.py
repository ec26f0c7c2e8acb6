"""`cloud-hub serve` as a person meets it: its greeting, what it refuses, and how it ends."""

import json
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import httpx
import pytest
import sqlalchemy as sa

from cloud_hub.sql_database import VERSION_TABLE, Database, sqlite_url
from tests.support.commands import (
    ANY_PORTS,
    Said,
    Served,
    serve,
    type_in,
    type_in_as_nobody,
)
from tests.support.loaded_program import LoadedProgram, loaded_program
from tests.support.postgres import PostgresServer
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("processes")]


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """One hub for the tests that only look."""
    with serve(tmp_path_factory.mktemp("served") / "hub") as served:
        yield served
        assert served.end().code == 0


@pytest.fixture(scope="module")
def program() -> Iterator[LoadedProgram]:
    """`cloud-hub` for the tests in which no hub comes up."""
    with loaded_program("cloud-hub") as loaded:
        yield loaded


def refused(program: LoadedProgram, state: Path, *words: object) -> Said:
    """Return what a hub said that did not start."""
    said = program.type("serve", "--json", "--no-discovery", "--state", state, *ANY_PORTS, *words)
    assert "dashboard_url" not in said.out
    return said


def test_the_greeting_says_where_it_answers(hub: Served) -> None:
    with httpx.Client(trust_env=False, verify=False, timeout=30.0) as client:
        assert client.get(f"{hub.url}/health").status_code == 200
    assert str(hub.greeting["join_url"]).startswith("https://")
    assert str(hub.greeting["broker_url"]).startswith("mqtts://")
    assert hub.greeting["operator_token"]


def test_the_operator_token_is_told_once_and_works(tmp_path: Path) -> None:
    with serve(tmp_path / "hub") as served:
        token = str(served.greeting["operator_token"])
        assert served.end().code == 0
    file = tmp_path / "token"
    file.write_text(token)
    with serve(tmp_path / "hub") as served:
        assert served.greeting["operator_token"] is None
        words = ("devices", "list", "--hub", served.url, "--operator-token-file", file)
        assert type_in("cloud-hub", *words, "--state", tmp_path / "nowhere").code == 0


def test_a_token_names_the_address_that_it_joins_at(hub: Served) -> None:
    """Whatever port it is: 0 was asked for."""
    answer = hub.client("token", "create", "--name", "gate")
    assert answer.code == 0
    assert f"edge-agent join {hub.greeting['join_url']} --token " in answer.out
    assert not str(hub.greeting["join_url"]).endswith(":0")


def test_a_second_hub_on_the_same_folder_is_refused(hub: Served) -> None:
    with serve(hub.state) as second:
        assert not second.is_up
        said = second.end()
    assert said.code == 6
    assert said.json["code"] == "hub.running"
    assert str(hub.state) in said.told
    assert "--state" in said.told
    assert hub.client("status").code == 0, "the first one goes on"


@pytest.mark.parametrize("name", ["http", "https", "mqtt"])
def test_a_busy_port_is_named_with_the_option_that_changes_it(
    program: LoadedProgram, tmp_path: Path, name: str
) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as busy:
        port = busy.getsockname()[1]
        said = refused(program, tmp_path / "hub", f"--{name}", f"127.0.0.1:{port}")
    assert said.code == 6
    assert str(port) in said.told
    assert f"--{name}" in said.told


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (("--http", "nonsense"), 3, "HOST:PORT"),
        (("--http", "127.0.0.1:99999"), 3, "HOST:PORT"),
        (("--mqtt", "127.0.0.1:²"), 3, "HOST:PORT"),
        (("--http", "nohost.invalid:80"), 6, "nohost.invalid"),
        (("--broker", "http://x"), 3, "mqtts://HOST:PORT"),
        (("--broker", "mqtts://x:y"), 3, "mqtts://HOST:PORT"),
        (("--host-name", "bad name"), 3, "'bad name'"),
        (("--database", "mysql://x/y"), 3, "postgresql+psycopg://"),
        (("--database", "sqlite://"), 3, "sqlite:////"),
        (("--database", "postgresql+psycopg://x@127.0.0.1:1/y"), 6, "--database"),
        (("--database", "sqlite:////proc/none/hub.db"), 6, "--database"),
        (("--config", "/none.toml"), 3, "/none.toml"),
        (("--htp", "x"), 2, "--htp"),
    ],
)
def test_a_wrong_option_is_told_with_a_remedy(
    program: LoadedProgram, tmp_path: Path, words: tuple[str, str], code: int, told: str
) -> None:
    said = refused(program, tmp_path / "hub", *words)
    assert said.code == code, said.err
    assert told in said.told
    if code != 2:
        assert said.json["remedy"]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("htp = 1", "`htp`"),
        ('[http]\nhost = "x"\nport = "80"', "$.http.port"),
        ("[telemetry]\nkeep = 1", "$.telemetry"),
        ('log_level = "LOUD"', "$.log_level"),
        ('broker = "x"', "mqtts://"),
        ('host_names = ["a b"]', "'a b'"),
        ("name = ", "not TOML"),
    ],
)
def test_a_wrong_configuration_names_the_key(
    program: LoadedProgram, tmp_path: Path, text: str, told: str
) -> None:
    config = tmp_path / "hub.toml"
    config.write_text(text)
    said = refused(program, tmp_path / "hub", "--config", config)
    assert said.code == 3
    assert told in said.told
    assert said.json["remedy"]
    assert not (tmp_path / "hub").exists(), "nothing is made before the configuration is read"


def test_a_folder_of_another_user_is_told_not_traced(tmp_path: Path) -> None:
    state = tmp_path / "hub"
    with serve(state):
        pass
    for parent in (tmp_path, *tmp_path.parents):
        if parent.owner() == state.owner() and parent.stat().st_mode & 0o001 == 0:
            parent.chmod(parent.stat().st_mode | 0o011)
    state.chmod(0o000)
    said = type_in_as_nobody("cloud-hub", "serve", "--state", state, *ANY_PORTS)
    assert said.code == 6
    assert str(state) in said.told
    assert "--state" in said.told
    for words in (("status",), ("devices", "list"), ("doctor",)):
        said = type_in_as_nobody("cloud-hub", *words, "--state", state)
        assert said.code in (3, 7), said.err
        assert "Traceback" not in said.err
    state.chmod(0o700)


def test_a_folder_that_cannot_be_made(program: LoadedProgram, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    said = refused(program, tmp_path / "file" / "hub")
    assert said.code == 6
    assert str(tmp_path / "file") in said.told


def test_a_file_that_is_no_database(program: LoadedProgram, tmp_path: Path) -> None:
    state = tmp_path / "hub"
    state.mkdir()
    (state / "hub.db").write_bytes(b"junk" * 1000)
    said = refused(program, state)
    assert (said.code, said.json["code"]) == (6, "database.unusable")


def test_a_database_of_a_newer_hub(program: LoadedProgram, tmp_path: Path) -> None:
    state = tmp_path / "hub"
    state.mkdir()
    database = Database(sqlite_url(state))
    database.migrate()
    with database.begin() as connection:
        connection.execute(sa.text(f"UPDATE {VERSION_TABLE} SET version_num = '9999'"))
    database.close()
    said = refused(program, state)
    assert (said.code, said.json["code"]) == (6, "database.newer")
    assert "backup" in said.told


def test_a_damaged_key_is_named(program: LoadedProgram, tmp_path: Path) -> None:
    state = tmp_path / "hub"
    with serve(state) as served:
        assert served.end().code == 0
    (state / "pki" / "ca.key").write_text("junk")
    said = refused(program, state)
    assert (said.code, said.json["code"]) == (6, "authority.damaged")
    assert "ca.key" in said.told


def test_a_path_with_odd_characters_is_as_good_as_any(tmp_path: Path) -> None:
    state = tmp_path / "a hub? 100%#1"
    with serve(state) as served:
        assert served.client("status").code == 0
        assert served.end().code == 0
    assert (state / "hub.db").is_file()


def test_it_serves_on_ipv6(tmp_path: Path) -> None:
    ports = ("--http", "[::1]:0", "--https", "[::1]:0", "--mqtt", "127.0.0.1:0")
    with serve(tmp_path / "hub", ports=ports) as served:
        assert served.url.startswith("http://[::1]:")
        assert served.client("status").code == 0
        assert served.end().code == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_while_requests_are_open(tmp_path: Path, number: signal.Signals) -> None:
    """A live stream, an upload that never ends, and a connection that says nothing."""
    ended = threading.Event()
    with serve(tmp_path / "hub") as served:
        address = ("127.0.0.1", int(served.url.rsplit(":", 1)[1]))
        headers = {"Authorization": f"Bearer {served.local_token}"}
        with (
            socket.create_connection(address),
            socket.create_connection(address) as upload,
            httpx.Client(trust_env=False, headers=headers, timeout=30.0) as client,
            client.stream("GET", f"{served.url}/api/v1/live") as stream,
        ):
            upload.sendall(
                b"POST /api/v1/releases HTTP/1.1\r\nHost: hub\r\nContent-Length: 1000000\r\n"
                b"Content-Type: multipart/form-data; boundary=x\r\n"
                + f"Authorization: {headers['Authorization']}\r\n\r\n--x".encode()
            )
            assert stream.status_code == 200

            def read() -> None:
                for _ in stream.iter_lines():
                    pass
                ended.set()

            reader = threading.Thread(target=read)
            reader.start()
            said = served.end(number)
            assert ended.wait(10.0)
            reader.join(10.0)
    assert said.code == 0
    assert "Traceback" not in said.err
    events = [json.loads(line)["event"] for line in said.err.splitlines()]
    assert "hub.stopping" in events


def test_it_answers_again_at_once_on_the_same_ports(tmp_path: Path) -> None:
    with serve(tmp_path / "hub") as served:
        port = served.url.rsplit(":", 1)[1]
        assert served.end().code == 0
    with serve(tmp_path / "hub", "--http", f"127.0.0.1:{port}") as served:
        assert served.url.endswith(port)
        assert served.end().code == 0


def test_a_whole_fleet_s_data_lies_in_postgresql(
    tmp_path: Path, postgres_server: PostgresServer
) -> None:
    with postgres_server.new_database() as name:
        words = ("--database", postgres_server.url(name), "--host-name", "127.0.0.1")
        with serve(tmp_path / "hub", *words) as served:
            command = served.client("token", "create", "--name", "gate", "--json").json
            joined = type_in(
                *command["join_command"].split(), "--state", tmp_path / "device", "--json"
            )
            assert joined.code == 0, joined.err
            assert served.end().code == 0
        with serve(tmp_path / "hub", *words) as served:
            (device,) = served.client("devices", "list", "--json").json["devices"]
            assert device["device_id"] == joined.json["device_id"]
            assert served.end().code == 0
    assert not (tmp_path / "hub" / "hub.db").exists()


def test_a_database_that_goes_away_ends_nothing(
    tmp_path: Path, postgres_server: PostgresServer
) -> None:
    with (
        postgres_server.new_database() as name,
        serve(tmp_path / "hub", "--database", postgres_server.url(name)) as served,
    ):
        postgres_server.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
        cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = "
        postgres_server.execute(f"{cut}'{name}'")
        assert served.client("devices", "list").code == 6
        postgres_server.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
        wait_until(lambda: served.client("devices", "list").code == 0, seconds_max=20.0)
        assert served.end().code == 0
