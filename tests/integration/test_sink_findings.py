"""What the doctor says of sinks, before the first decision is lost in one."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_agent.command_line.sink_findings import look_at_sinks
from edge_agent.config import AgentConfig
from shared.findings import Finding, Level
from shared.settings import parse_toml
from tests.support.http_streams import free_port
from tests.support.local_broker import LocalBroker
from tests.support.waiting import wait_until

PIPELINE = """
[[pipelines]]
name = "{name}"
model = "people"
source = {{kind = "stream", url = "rtsp://10.0.0.7/1"}}
sinks = [{{kind = "hub"}}, {sink}]
"""


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[LocalBroker]:
    broker = LocalBroker(tmp_path, free_port(), password=("gate", "secret"))
    broker.start()
    yield broker
    broker.kill()


def look(*sinks: str) -> list[Finding]:
    text = "".join(
        PIPELINE.format(name=f"p{number}", sink=sink) for number, sink in enumerate(sinks)
    )
    return list(look_at_sinks(parse_toml(text.encode(), AgentConfig, name="t").pipelines))


def test_a_folder_that_is_there_or_can_be_made_is_good_and_is_not_made(tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    found = look(
        f'{{kind = "snapshots", path = "{folder}", free_bytes_min = 1_048_576}}',
        f'{{kind = "jsonl", path = "{folder}/gate.jsonl"}}',
    )
    assert [one.level for one in found] == [Level.GOOD, Level.GOOD]
    assert not folder.exists()


def test_a_file_where_a_folder_should_be_is_bad(tmp_path: Path) -> None:
    file = tmp_path / "pictures"
    file.write_text("")
    (found,) = look(f'{{kind = "clips", path = "{file}"}}')
    assert found.level is Level.BAD
    assert "no folder" in found.text


def test_a_disk_with_too_little_room_is_a_warning(tmp_path: Path) -> None:
    (found,) = look(
        f'{{kind = "snapshots", path = "{tmp_path}", free_bytes_min = {1 << 44}}}',
    )
    assert found.level is Level.WARNING
    assert "free_bytes_min" in found.remedy


def test_two_sinks_may_write_the_same_file(tmp_path: Path) -> None:
    sink = f'{{kind = "jsonl", path = "{tmp_path}/gate.jsonl"}}'
    assert [found.level for found in look(sink, sink)] == [Level.GOOD, Level.GOOD]


@pytest.mark.slow
def test_a_broker_is_asked_with_its_password_and_told_nothing(
    broker: LocalBroker, tmp_path: Path
) -> None:
    right, wrong = tmp_path / "right", tmp_path / "wrong"
    right.write_text("secret\n")
    wrong.write_text("guess\n")

    def ask(password: Path, port: int) -> Finding:
        (found,) = look(
            f'{{kind = "mqtt", port = {port}, username = "gate", password_file = "{password}"}}'
        )
        return found

    wait_until(lambda: ask(right, broker.port).level is Level.GOOD)  # It has just begun
    refused = ask(wrong, broker.port)
    assert refused.level is Level.BAD
    assert "ot authorized" in refused.text
    missing = ask(tmp_path / "none", broker.port)
    assert missing.level is Level.BAD
    assert "none" in missing.text
    assert "cannot be reached" in ask(right, free_port()).text


def test_a_webhook_is_connected_to_and_its_token_looked_for(tmp_path: Path) -> None:
    gone = f"http://127.0.0.1:{free_port()}/hook"
    (found,) = look(f'{{kind = "webhook", url = "{gone}"}}')
    assert found.level is Level.WARNING
    (found,) = look(f'{{kind = "webhook", url = "{gone}", token_file = "{tmp_path}/none"}}')
    assert found.level is Level.BAD
    assert "token_file" in found.remedy


def test_a_webhook_that_listens_is_good() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        (found,) = look(
            f'{{kind = "webhook", url = "http://127.0.0.1:{server.getsockname()[1]}/"}}'
        )
    assert found.level is Level.GOOD
