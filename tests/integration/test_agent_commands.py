"""`edge-agent` as a person types it: its help, what it refuses and how, and a life with a hub."""

import json
import os
import shlex
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_agent.__main__ import COMMANDS, build_parser
from shared.command_line import Command
from shared.exit_codes import exit_codes_text
from tests.support.commands import BIN, Served, serve, type_in, type_in_as_nobody
from tests.support.loaded_program import LoadedProgram, loaded_program
from tests.support.tiny_items import SAMPLES
from tests.support.tiny_releases import Kind, artifact_of
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("processes")]
TOKEN = f"{'a' * 48}.{'b' * 64}"
SPEC = f"""\
model = "tones"
task = "classification"
[input]
kind = "window"
samples = {SAMPLES}
[output]
decoder = "logits"
classes = ["rising", "falling", "flat"]
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    csv = tmp_path / "values.csv"
    csv.write_text("value\n" + "\n".join(str(n % 7) for n in range(500)) + "\n")
    path = tmp_path / "agent.toml"
    path.write_text(
        '[link]\nbackoff_s_min = 0.1\nbackoff_s_max = 1.0\n[[pipelines]]\nname = "bench"\n'
        f'model = "tones"\n[pipelines.source]\nkind = "csv"\npath = "{csv}"\ncolumns = ["value"]\n'
        f"loop = true\n[pipelines.source.window]\nsamples = {SAMPLES}\n"
    )
    return path


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("served")
    with serve(folder / "hub", "--host-name", "127.0.0.1") as served:
        yield served
        assert served.end().code == 0


@pytest.fixture(scope="module")
def program() -> Iterator[LoadedProgram]:
    with loaded_program("edge-agent") as loaded:
        yield loaded


def test_the_help_shows_every_command_and_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    for words in ((), ("--help",)):
        said = type_in("edge-agent", *words)
        assert said.code == 0
        for command in COMMANDS:
            assert command.summary in said.out
        assert exit_codes_text() in said.out
    assert type_in("edge-agent", "--version").out.startswith("edge-agent 0.")


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.words[0])
def test_every_command_explains_itself_with_an_example_that_parses(
    command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        build_parser().parse_args([*command.words, "--help"])
    assert stopped.value.code == 0
    out = capsys.readouterr().out
    assert out.startswith(f"usage: edge-agent {command.words[0]} ")
    assert "Examples:" in out
    for example in command.examples:
        words = shlex.split(example.split("|")[0])
        args = build_parser().parse_args(words[1:])
        assert args.run_command is command.run


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (("run", "--config", "{config}", "--state", "{tmp}/s"), 4, "cloud-hub token create"),
        (("run", "--config", "/none.toml"), 3, "/none.toml"),
        (("run", "--config", "{config}", "--state", "{config}/s"), 6, "{config}"),
        (("run",), 2, "--config"),
        (("status", "--state", "{tmp}/s"), 6, "edge-agent run"),
        (("why", "--state", "{tmp}/s"), 6, "edge-agent run"),
        (("join", "https://127.0.0.1:1", "--token", "x", "--state", "{tmp}/s"), 3, "join token"),
        (("join", "no url", "--token", TOKEN, "--state", "{tmp}/s"), 3, "https://hub.local:8443"),
        (("join", "https://127.0.0.1:1", "--token", TOKEN, "--state", "{tmp}/s"), 6, "firewall"),
        (("join", "https://127.0.0.1:1", "--token", TOKEN, "--state", "{config}"), 6, "{config}"),
        (("join", "https://127.0.0.1:1"), 2, "--token"),
        (("try", "{tmp}/m.onnx", "--spec", "/none.toml", "--source", "x"), 3, "/none.toml"),
        (("try", "{tmp}/m.onnx", "--spec", "{config}", "--source", "x"), 3, "`link`"),
        (("try", "{tmp}/none", "--spec", "{tmp}/spec.toml", "--source", "x"), 4, "no model"),
        (("try", "{config}", "--spec", "{tmp}/spec.toml", "--source", "x"), 4, "ONNX"),
        (("try", "{tmp}/m.onnx", "--spec", "{tmp}/spec.toml", "--source", "none"), 3, "a video"),
        (("try", "{tmp}/m.onnx", "--spec", "{tmp}/spec.toml", "--source", "x", "--items", "-1"), 2,
         "positive"),
        (("nonsense",), 2, "nonsense"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_with_a_remedy(
    program: LoadedProgram,
    tmp_path: Path,
    config: Path,
    words: tuple[str, ...],
    code: int,
    told: str,
) -> None:
    (tmp_path / "spec.toml").write_text(SPEC)
    (tmp_path / "m.onnx").write_bytes(artifact_of(Kind.GOOD))
    places = {"tmp": str(tmp_path), "config": str(config)}
    typed = [word.format(**places) for word in words]
    said = program.type(*typed, *(("--json",) if code != 2 else ()))
    assert said.code == code, said.err
    assert told.format(**places) in said.told
    if code != 2:
        assert said.json["remedy"]


def test_a_folder_of_another_user_is_told_not_traced(tmp_path: Path, config: Path) -> None:
    state = tmp_path / "state"
    (state / "identity").mkdir(parents=True)
    (state / "identity" / "device.crt").write_text("x")
    for parent in (tmp_path, *tmp_path.parents):
        if parent.owner() == state.owner() and parent.stat().st_mode & 0o001 == 0:
            parent.chmod(parent.stat().st_mode | 0o011)
    state.chmod(0o000)
    for words, code in (
        (("run", "--config", config), 6),
        (("join", "https://127.0.0.1:1", "--token", TOKEN), 4),
        (("status",), 6),
        (("doctor",), 7),
    ):
        said = type_in_as_nobody("edge-agent", *words, "--state", state)
        assert said.code == code, said.err
        assert str(state) in said.told + said.out
    state.chmod(0o700)


def test_a_model_is_tried_without_a_hub(tmp_path: Path, config: Path) -> None:
    (tmp_path / "spec.toml").write_text(SPEC)
    (tmp_path / "m.onnx").write_bytes(artifact_of(Kind.GOOD))
    words = ("try", tmp_path / "m.onnx", "--spec", tmp_path / "spec.toml")
    said = type_in("edge-agent", *words, "--source", tmp_path / "values.csv", "--json")
    assert said.code == 0, said.err
    assert said.json["items"] == 500 // SAMPLES
    assert len(said.out.splitlines()) == 1


def test_a_device_joins_runs_says_so_and_ends(tmp_path: Path, config: Path, hub: Served) -> None:
    state = ("--state", tmp_path / "state")
    command = hub.client("token", "create", "--name", "gate", "--json").json["join_command"]
    joined = type_in(*shlex.split(command), *state)
    assert joined.code == 0, joined.err
    assert "Joined isthmus" in joined.out
    again = type_in(*shlex.split(command), *state, "--json")
    assert (again.code, again.json["code"]) == (4, "identity.joined")
    assert "--again" in again.told
    with subprocess.Popen(
        [BIN / "edge-agent", "run", "--config", config, *state],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:

        def is_connected() -> bool:
            said = type_in("edge-agent", "status", *state, "--json")
            return said.code == 0 and bool(said.json["is_connected"])

        wait_until(is_connected, seconds_max=30.0)
        said = type_in("edge-agent", "status", *state)
        assert "connected" in said.out
        assert "waiting for a model" in said.out
        assert "tones: no release runs yet" in type_in("edge-agent", "why", *state).out
        assert type_in("edge-agent", "why", "other", *state).code == 4
        doctor = type_in("edge-agent", "doctor", *state, "--config", config)
        assert doctor.code == 0, doctor.out
        assert "ok    broker" in doctor.out
        second = type_in("edge-agent", "run", "--config", config, *state)
        assert second.code == 6
        assert "Another agent runs" in second.told
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=30)
    assert process.returncode == 0
    assert err == ""
    events = [json.loads(line)["event"] for line in out.splitlines()]
    order = ["pipeline.started", "agent.started", "agent.stopping", "pipeline.stopped"]
    assert [event for event in events if event in order] == order
    assert events.index("pipeline.started") < events.index("link.up")  # Before any network
    (device,) = hub.client("devices", "list", "--json").json["devices"]
    wait_until(
        lambda: (
            hub.client("devices", "show", "gate", "--json").json["device"]["presence"] == "offline"
        )
    )
    assert device["name"] == "gate"


def test_a_killed_agent_leaves_no_status(tmp_path: Path, config: Path, hub: Served) -> None:
    state = ("--state", tmp_path / "state")
    command = hub.client("token", "create", "--json").json["join_command"]
    assert type_in(*shlex.split(command), *state).code == 0
    with subprocess.Popen(
        [BIN / "edge-agent", "run", "--config", config, *state], stdout=subprocess.DEVNULL
    ) as process:
        wait_until(lambda: type_in("edge-agent", "status", *state).code == 0, seconds_max=30.0)
        process.kill()
        process.wait()
    assert (tmp_path / "state" / "run" / "status.json").exists()
    assert type_in("edge-agent", "status", *state).code == 6


def test_a_reader_that_leaves_is_no_error() -> None:
    env = os.environ | {"PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        [BIN / "edge-agent", "doctor", "--state", "/none"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=env,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(30) == 0
