"""What both command lines do alike."""

import argparse
import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from shared import command_line
from shared.command_line import (
    Command,
    GlobalOption,
    add_command,
    add_global_options,
    count,
    default_state,
    end_with_code,
)
from shared.errors import (
    ContractError,
    IntegrityError,
    IsthmusError,
    RefusedError,
    TransientError,
    UnavailableError,
)

OPTIONS = (
    GlobalOption("--state", "where", Path("x"), "DIR", is_path=True),
    GlobalOption("--json", "j", default=False),
)


@pytest.mark.parametrize(
    ("family", "code"),
    [
        (ContractError, 3),
        (RefusedError, 4),
        (IntegrityError, 5),
        (TransientError, 6),
        (UnavailableError, 6),
    ],
)
def test_an_error_is_told_and_has_its_exit_code(
    family: type[IsthmusError], code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> int:
        raise family("a.code", "It is so.", remedy="Do this.")

    assert end_with_code("prog", fail, is_json=False) == code
    said = capsys.readouterr()
    assert said.err == "prog: It is so.\n  Do this.\n"
    assert said.out == ""
    assert end_with_code("prog", fail, is_json=True) == code
    told = json.loads(capsys.readouterr().out)
    assert told == {"code": "a.code", "message": "It is so.", "remedy": "Do this."}


def test_ctrl_c_is_130_and_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted() -> int:
        raise KeyboardInterrupt

    assert end_with_code("prog", interrupted, is_json=False) == 130
    assert capsys.readouterr() == ("", "")


def test_a_bug_is_not_hidden() -> None:
    def bug() -> int:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        end_with_code("prog", bug, is_json=False)


# In a process of its own: what else a test run has loaded may have its own idea of signals.
ASKED = """
import os, signal
from shared.command_line import stop_on_signals
stop = stop_on_signals()
assert not stop.is_set()
os.kill(os.getpid(), signal.SIGTERM)
assert stop.wait(5.0)
assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
assert signal.getsignal(signal.SIGINT) is signal.SIG_DFL
print("asked", flush=True)
os.kill(os.getpid(), signal.SIGTERM)
"""


def test_the_first_signal_asks_and_the_second_ends() -> None:
    done = subprocess.run(
        [sys.executable, "-c", ASKED], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout) == (-signal.SIGTERM, "asked\n"), done.stderr


def test_the_state_folder_is_the_variable_s_or_the_user_s(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("A_STATE", "/srv/a")
    assert default_state("A_STATE", "a") == Path("/srv/a")
    monkeypatch.setenv("A_STATE", "")
    monkeypatch.setenv("HOME", "/home/ada")
    assert default_state("A_STATE", "a") == Path("/home/ada/.isthmus/a")


def test_a_user_without_a_home_has_one_here(monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("A_STATE", raising=False)
    monkeypatch.setattr(command_line.Path, "home", homeless)
    assert default_state("A_STATE", "a") == Path(".isthmus/a")


@pytest.mark.parametrize("text", ["-1", "x", "", "1.5", "²", "9" * 40])
def test_no_count(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError):
        count(text)


def test_a_count() -> None:
    assert (count("0"), count("12")) == (0, 12)


def make_parser(command: Command) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="prog")
    add_global_options(parser, OPTIONS, is_top=True)
    add_command(parser.add_subparsers(), command, OPTIONS)
    return parser


def test_global_options_count_before_and_after_the_words() -> None:
    parser = make_parser(Command(("look",), "H", "look at it", lambda _args: 0))
    assert parser.parse_args(["look"]).state == Path("x")
    assert parser.parse_args(["--state", "y", "look"]).state == Path("y")
    assert parser.parse_args(["look", "--state", "y", "--json"]).state == Path("y")
    assert parser.parse_args(["--json", "look"]).json is True


def test_a_command_may_take_only_some_of_them(capsys: pytest.CaptureFixture[str]) -> None:
    command = Command(("look",), "H", "look at it", lambda _args: 0, options=("--json",))
    with pytest.raises(SystemExit):
        make_parser(command).parse_args(["look", "--state", "y"])
    assert "--state" in capsys.readouterr().err


def test_the_help_of_a_command_holds_its_examples(capsys: pytest.CaptureFixture[str]) -> None:
    command = Command(
        ("look",),
        "H",
        "look at it",
        lambda _args: 0,
        examples=("prog look 100%",),
        description="Well.",
    )
    with pytest.raises(SystemExit):
        make_parser(command).parse_args(["look", "--help"])
    out = capsys.readouterr().out
    assert "Look at it.\n\nWell." in out
    assert "Examples:\n  prog look 100%" in out
