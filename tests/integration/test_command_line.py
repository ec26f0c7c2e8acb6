"""The operator's command line against a hub served on loopback."""

import contextlib
import json
import re
import shlex
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cloud_hub.api.services import HubStatus, PartStatus
from cloud_hub.command_line.parser import COMMANDS, build_parser, parse, run
from shared.command_line import Command
from shared.exit_codes import exit_codes_text
from tests.support import tiny_models as tiny
from tests.support.api_client import MODEL, ApiHub
from tests.support.fleet_simulator import Behaviour
from tests.support.https_server import serve_https
from tests.support.record_bodies import decision_record

pytestmark = pytest.mark.slow
LIVE_STEP_S = 0.05


class Terminal:
    """Runs commands as a person on the hub's own machine; `out` and `err` are what they wrote."""

    def __init__(self, hub: ApiHub, capsys: pytest.CaptureFixture[str]) -> None:
        self.hub = hub
        self._capsys = capsys
        self.out = self.err = ""

    def run(self, *arguments: str, state: Path | None = None, url: str | None = None) -> int:
        """Run one command; return its exit code."""
        words = [*arguments, "--hub", url or self.hub.url, "--state", str(state or self.hub.state)]
        self._capsys.readouterr()
        code = run(parse(build_parser(), words))
        self.out, self.err = self._capsys.readouterr()
        return code

    def json(self, *arguments: str) -> Any:
        """Run one command that must succeed with --json; return what it printed."""
        assert self.run(*arguments, "--json") == 0, self.err
        lines = self.out.splitlines()
        assert len(lines) == 1, self.out
        return json.loads(lines[0])


@pytest.fixture
def terminal(api_hub: ApiHub, capsys: pytest.CaptureFixture[str]) -> Terminal:
    return Terminal(api_hub, capsys)


@contextlib.contextmanager
def _fleet_lives(hub: ApiHub) -> Iterator[None]:
    """Let the fleet and the hub go on by themselves meanwhile."""
    stop = threading.Event()

    def live() -> None:
        while not stop.wait(LIVE_STEP_S):
            hub.step()

    thread = threading.Thread(target=live, name="fleet")
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(10)


def test_a_token_is_one_ready_command(terminal: Terminal) -> None:
    assert terminal.run("token", "create", "--name", "gate camera", "--group", "canary") == 0
    commands = [line.strip() for line in terminal.out.splitlines() if "edge-agent join" in line]
    assert len(commands) == 1
    assert commands[0].startswith("edge-agent join https://hub.test:8443 --token ")
    assert "within 60 min" in terminal.out
    body = terminal.json("token", "create", "--ttl", "2h")
    assert body["join_command"].endswith(body["token"])


def test_open_tokens_are_listed_and_revoked(terminal: Terminal) -> None:
    assert terminal.run("token", "list") == 0
    assert "cloud-hub token create" in terminal.out
    token_id = terminal.json("token", "create", "--name", "gate")["token_id"]
    terminal.json("token", "create", "--ttl", "2h")
    assert terminal.run("token", "list") == 0
    assert token_id in terminal.out
    assert "any device" in terminal.out
    assert terminal.run("token", "revoke", token_id) == 0
    assert token_id in terminal.out
    assert [t["name"] for t in terminal.json("token", "list")["tokens"]] == [None]
    assert terminal.run("token", "revoke", "nothing") == 4
    assert "cloud-hub token list" in terminal.err


def test_a_device_is_found_by_its_name(terminal: Terminal) -> None:
    first, second, third = (device.device_id for device in terminal.hub.enrol(3))
    assert terminal.run("devices", "rename", first, "gate camera") == 0
    assert terminal.json("devices", "show", "gate camera")["device"]["device_id"] == first
    assert terminal.run("devices", "group", "gate camera", "--add", "north") == 0
    assert terminal.run("why", "gate camera") == 0
    order = ("rollouts", "start", "--model", MODEL, "--version", "1", "--device", "gate camera")
    body = terminal.json(*order)
    assert terminal.hub.rollouts.get(body["rollout"]["rollout_id"]).rollout.order.devices == (
        first,
    )
    assert terminal.run("devices", "show", "nobody") == 4
    assert "cloud-hub devices list" in terminal.err
    for device in (second, third):
        assert terminal.run("devices", "rename", device, "dock") == 0
    assert terminal.run("devices", "show", "dock") == 4
    assert second in terminal.err
    assert third in terminal.err
    assert terminal.run("devices", "revoke", second, "--yes") == 0
    assert terminal.json("devices", "show", "dock")["device"]["device_id"] == third
    assert terminal.run("devices", "revoke", "dock", "--yes") == 0
    assert terminal.run("devices", "show", "dock") == 4, "a revoked one only by its id"


def test_a_rollout_of_a_channel_is_of_the_release_that_it_names(terminal: Terminal) -> None:
    terminal.hub.enrol(2)
    start = ("rollouts", "start", "--model", MODEL, "--channel", "stable")
    assert terminal.run(*start) == 4
    assert f"cloud-hub models channel {MODEL} stable" in terminal.err
    assert terminal.run("models", "channel", MODEL, "stable", "2") == 0
    assert terminal.json(*start)["rollout"]["version"] == 2


def test_devices_are_listed_shown_renamed_grouped_and_revoked(terminal: Terminal) -> None:
    assert terminal.run("devices", "list") == 0
    assert "cloud-hub token create" in terminal.out  # An empty list says what to do next.
    device = terminal.hub.enrol(2)[0].device_id
    assert terminal.run("devices", "rename", device, "gate camera") == 0
    assert terminal.run("devices", "group", device, "--add", "canary", "--add", "berlin") == 0
    assert terminal.run("devices", "group", device, "--remove", "berlin") == 0
    assert terminal.run("devices", "list", "--group", "canary") == 0
    assert "gate camera" in terminal.out
    assert len(terminal.json("devices", "list")["devices"]) == 2
    assert terminal.run("devices", "show", device) == 0
    assert "canary" in terminal.out
    assert terminal.json("devices", "show", device)["device"]["groups"] == ["canary"]
    assert terminal.run("devices", "revoke", device) == 3
    assert "--yes" in terminal.err
    assert terminal.run("devices", "revoke", device, "--yes") == 0
    assert terminal.json("devices", "show", device)["device"]["state"] == "revoked"
    assert terminal.run("devices", "group", device, "--set") == 0
    assert terminal.run("devices", "group", device) == 3


def test_a_long_list_of_devices_is_whole_as_json(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal.hub.enrol(5)
    monkeypatch.setattr("cloud_hub.command_line.finding.PAGE", 2)
    assert len(terminal.json("devices", "list")["devices"]) == 5


def test_a_model_is_added_listed_shown_and_named(terminal: Terminal, tmp_path: Path) -> None:
    model, spec = tmp_path / "digits.onnx", tmp_path / "spec.toml"
    model.write_bytes(tiny.classifier(3).SerializeToString())
    spec.write_text(tiny.SPEC)
    words = ("models", "add", str(model), "--spec", str(spec))
    assert terminal.run(*words, "--metric", "accuracy=0.98", "--notes", "third") == 0
    assert "Published digits version 3" in terminal.out
    assert "accuracy=0.98" in terminal.out
    assert terminal.run(*words, "--metric", "accuracy=0.98", "--notes", "third") == 0
    assert "The same was published before: digits version 3." in terminal.out
    assert "cloud-hub rollouts start --model digits --version 3" in terminal.out
    assert terminal.run("models", "channel", "digits", "stable", "3") == 0
    assert terminal.run("models", "list") == 0
    assert "stable=3" in terminal.out
    assert terminal.run("models", "list", "--model", "digits") == 0
    assert len(terminal.json("models", "list", "--model", "digits")["releases"]) == 3
    assert terminal.json("models", "show", "digits", "3")["notes"] == "third"
    assert terminal.run("models", "show", "digits", "3") == 0
    assert "passed" in terminal.out


def test_a_refused_model_says_why_and_ends_with_4(terminal: Terminal, tmp_path: Path) -> None:
    model, spec = tmp_path / "digits.onnx", tmp_path / "spec.toml"
    model.write_bytes(b"not a model")
    spec.write_text(tiny.SPEC)
    assert terminal.run("models", "add", str(model), "--spec", str(spec)) == 4
    assert "not an ONNX model" in terminal.err
    assert terminal.run("models", "add", str(tmp_path / "none"), "--spec", str(spec)) == 3
    assert "Cannot read" in terminal.err


def test_a_watched_rollout_is_told_to_its_end(terminal: Terminal) -> None:
    terminal.hub.enrol(3)
    words = ("rollouts", "start", "--model", MODEL, "--version", "1", "--bake", "0s")
    with _fleet_lives(terminal.hub):
        code = terminal.run(*words, "--wave", "1", "--wave", "100%", "--watch")
    assert code == 0
    assert "3 updated" in terminal.out.splitlines()[-1]
    assert "receipt" in terminal.out
    assert terminal.run("rollouts", "list") == 0
    assert "3 updated" in terminal.out
    rollout = terminal.json("rollouts", "list")["rollouts"][0]["rollout_id"]
    assert terminal.run("rollouts", "show", rollout) == 0
    shown = terminal.json("rollouts", "show", rollout)
    assert shown["rollout"]["rollout"]["waves"] == ["1", "100%"]
    assert shown["timeline"]["entries"]


def test_watching_a_rollout_that_comes_back_ends_with_7(terminal: Terminal) -> None:
    devices = terminal.hub.enrol(2)
    for device in devices:
        device.behaviour, device.honest_up_to = Behaviour.FAILING, 1
    start = ("rollouts", "start", "--model", MODEL, "--bake", "0s", "--wave", "100%", "--watch")
    with _fleet_lives(terminal.hub):
        assert terminal.run(*start, "--version", "1") == 0
        assert terminal.run(*start, "--version", "2", "--json") == 7
    answer = json.loads(terminal.out.splitlines()[-1])
    assert answer["rollout"]["state"] == "undone"
    assert terminal.run("why", devices[0].device_id) == 0
    assert "trial.worse" in terminal.out
    assert terminal.run("why", answer["rollout"]["rollout_id"]) == 0
    assert "failed" in terminal.out
    assert terminal.json("why", devices[0].device_id, "--model", MODEL)["sentences"]


def test_a_rollout_is_held_resumed_undone_and_cancelled(terminal: Terminal) -> None:
    for device in terminal.hub.enrol(2):
        device.behaviour, device.honest_up_to = Behaviour.SLOW, 0
    start = ("rollouts", "start", "--model", MODEL, "--version", "1", "--failure-limit", "20%")
    rollout = terminal.json(*start)["rollout"]["rollout_id"]
    for act, state in (
        ("hold", "held"),
        ("resume", "running"),
        ("undo", "undoing"),
        ("cancel", "cancelled"),
    ):
        assert terminal.run("rollouts", act, rollout, "--because", f"asked to {act}") == 0
        assert f"is {state}" in terminal.out
    assert terminal.run("rollouts", "hold", rollout) == 4
    assert terminal.run("rollouts", "show", rollout) == 0
    assert "asked to hold" in terminal.out
    assert terminal.json("rollouts", "show", rollout)["rollout"]["rollout"]["state"] == "cancelled"


def test_the_orders_of_a_rollout_arrive_as_given(terminal: Terminal) -> None:
    device = terminal.hub.enrol(4)[0].device_id
    body = terminal.json(
        "rollouts", "start", "--model", MODEL, "--version", "1", "--device", device,
        "--deadline", "10m", "--bake", "90s", "--failure-limit", "0.25", "--notes", "careful",
    )  # fmt: skip
    view = terminal.hub.rollouts.get(body["rollout"]["rollout_id"])
    order = view.rollout.order
    assert (order.wave_deadline_s, order.bake_s) == (600.0, 90.0)
    assert (order.failure_limit.share_max, order.notes) == (0.25, "careful")
    assert order.devices == (device,)


def test_status_and_audit_tell_of_the_hub(terminal: Terminal) -> None:
    device = terminal.hub.enrol()[0].device_id
    terminal.hub.tell(device, decision_record(1))
    assert terminal.run("status") == 0
    assert "mqtts://hub.test:8883" in terminal.out
    assert "broker" in terminal.out
    assert terminal.json("status")["records_ingested"] == 1
    assert terminal.run("audit") == 0
    assert "Nobody has done anything yet" in terminal.out
    terminal.run("devices", "rename", device, "gate")
    assert terminal.run("audit", "--limit", "1") == 0
    assert "device.rename" in terminal.out
    assert "local" in terminal.out
    assert terminal.json("audit")["entries"][0]["operator"] == "local"


def test_status_ends_with_6_when_a_part_is_not_well(terminal: Terminal) -> None:
    terminal.hub.status.append(HubStatus(parts=(PartStatus("link", is_good=False),)))
    assert terminal.run("status") == 6
    assert "NOT GOOD" in terminal.out


def test_an_operator_s_token_from_a_file_works_from_anywhere(
    terminal: Terminal, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "elsewhere"
    assert terminal.run("devices", "list", state=elsewhere) == 4
    assert "--operator-token-file" in terminal.err
    file = tmp_path / "token"
    file.write_text(terminal.json("operator", "rotate", "--name", "anna")["token"] + "\n")
    words = ("devices", "list", "--operator-token-file", str(file))
    assert terminal.run(*words, state=elsewhere) == 0
    file.write_text("wrong")
    assert terminal.run(*words, state=elsewhere) == 4
    assert "not known" in terminal.err
    file.unlink()
    assert terminal.run(*words, state=elsewhere) == 3


def test_a_hub_behind_tls_is_trusted_by_its_own_authority_only(
    terminal: Terminal, tmp_path: Path
) -> None:
    pki = terminal.hub.state / "pki"
    with serve_https(
        terminal.hub.app, certificate=pki / "server.crt", key=pki / "server.key"
    ) as port:
        url = f"https://localhost:{port}"
        assert terminal.run("status", url=url) == 0  # The CA lies in the state folder.
        token = tmp_path / "token"
        token.write_text(terminal.hub.token)
        words = ("status", "--operator-token-file", str(token))
        elsewhere = tmp_path / "elsewhere"
        assert terminal.run(*words, state=elsewhere, url=url) == 6
        assert "CERTIFICATE_VERIFY_FAILED" in terminal.err
        ca = ("--ca", str(pki / "ca.crt"))
        assert terminal.run(*words, *ca, state=elsewhere, url=url) == 0
        assert terminal.run(*words, "--ca", str(token), state=elsewhere, url=url) == 3


def test_a_hub_that_is_not_there_is_exit_6_with_a_remedy(terminal: Terminal) -> None:
    assert terminal.run("status", url="http://127.0.0.1:9") == 6
    assert "cloud-hub serve" in terminal.err
    assert terminal.run("status", url="nonsense") == 3


def test_an_error_is_json_too_where_json_was_asked_for(terminal: Terminal) -> None:
    assert terminal.run("devices", "show", "dev-nobody", "--json") == 4
    assert json.loads(terminal.out.splitlines()[-1])["code"] == "device.unknown"
    assert "no such device" in terminal.err


@pytest.mark.parametrize(
    "words",
    [
        ("token", "create", "--ttl", "soon"),
        ("models", "add", "m.onnx"),
        ("models", "add", "m.onnx", "--spec", "s", "--metric", "accuracy"),
        ("rollouts", "start", "--model", "m", "--version", "1", "--failure-limit", "150%"),
        ("rollouts", "start", "--model", "m", "--version", "1", "--group", "g", "--device", "d"),
        ("rollouts", "start", "--model", "m"),
        ("rollouts", "start", "--model", "m", "--version", "1", "--channel", "stable"),
        ("devices",),
        ("nonsense",),
    ],
)
def test_wrong_arguments_are_exit_2(
    words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        parse(build_parser(), words)
    assert stopped.value.code == 2
    assert capsys.readouterr().err


def test_no_command_prints_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        parse(build_parser(), [])
    assert stopped.value.code == 0
    out = capsys.readouterr().out
    assert all(" ".join(command.words) in out for command in COMMANDS)
    assert exit_codes_text() in out


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: " ".join(command.words))
def test_every_command_explains_itself_with_an_example_that_parses(
    command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        build_parser().parse_args([*command.words, "--help"])
    assert stopped.value.code == 0
    out = capsys.readouterr().out
    assert command.summary[1:] in out
    assert out.startswith(f"usage: cloud-hub {' '.join(command.words)} ")
    assert "Examples:" in out
    text = " ".join(command.examples).replace("\\", "")
    for example in text.split("cloud-hub ")[1:]:
        parse(build_parser(), shlex.split(example.split("|")[0]))


def test_global_options_stand_before_or_after_the_words() -> None:
    before = parse(build_parser(), ["--json", "--hub", "http://a", "status"])
    after = parse(build_parser(), ["status", "--json", "--hub", "http://a"])
    assert (before.json, before.hub) == (after.json, after.hub) == (True, "http://a")
    assert parse(build_parser(), ["status"]).json is False


def test_the_process_adds_its_own_commands(capsys: pytest.CaptureFixture[str]) -> None:
    serve = Command(("serve",), "The hub", "start a hub", lambda args: 0 if args.json else 5)
    parser = build_parser((serve,))
    assert run(parse(parser, ["serve"])) == 5
    assert run(parse(parser, ["serve", "--json"])) == 0
    parser.print_help()
    assert re.search(r"\n  serve +start a hub\n", capsys.readouterr().out)
