"""`edge-agent learning` and what `edge-agent doctor` says of it: the owner's say, and its price."""

import sys
from pathlib import Path

import pytest

from edge_agent.command_line.learning_view import (
    learning_lines,
    look_at_learning,
    owner_ledger,
    view_learning,
)
from edge_agent.config import AgentConfig, load_config
from edge_agent.training.node_files import LEDGER
from shared.clock import SystemClock
from shared.errors import IntegrityError, RefusedError
from shared.exit_codes import DONE, INTEGRITY
from shared.findings import Finding, Level
from tests.support.commands import type_in
from tests.support.learning_digits import write_digits, write_key

PIPELINE = """\
[[pipelines]]
name = "bench"
model = "digits"
[pipelines.source]
kind = "csv"
path = "{folder}/rows.csv"
columns = ["value"]
[pipelines.source.window]
samples = 4
"""
# Nothing of the machine that runs this test stands in the way.
LEARNING = """\
[learning]
jobs_forbidden = ["night-*"]
measurements_forbidden = ["loss"]
load_max = 1000.0
temperature_c_max = 150.0
on_battery = true
battery_share_min = 0.0
on_metered = true
memory_bytes_min = 0
samples_min = 100
[learning.privacy]
epsilon_max = 8.0
[[learning.samples]]
model = "digits"
path = "{folder}/digits.npz"
format = "npz"
"""
MORE = 'hours_from = "22:00"\nhours_to = "06:00"\n'


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """A device that joined, with 150 labelled digits."""
    (tmp_path / "identity").mkdir()
    write_key(tmp_path / "identity" / "device.key")
    write_digits(tmp_path / "digits.npz", count=150)
    write_config(tmp_path, LEARNING)
    return tmp_path


def write_config(folder: Path, learning: str) -> Path:
    path = folder / "agent.toml"
    path.write_text((PIPELINE + learning).format(folder=folder))
    return path


def config_of(state: Path) -> AgentConfig:
    return load_config(state / "agent.toml")


def lines(state: Path) -> list[str]:
    return list(learning_lines(view_learning(config_of(state), state, SystemClock())))


def findings(state: Path) -> list[Finding]:
    return list(look_at_learning(config_of(state), state, SystemClock()))


def pay(state: Path, rounds: int) -> None:
    ledger = owner_ledger(config_of(state), state)
    for number in range(1, rounds + 1):
        ledger.charge("digits", "job-a", number, 4.0, base_digest="a" * 64)


def test_it_says_what_is_allowed_what_there_is_and_what_it_has_cost(state: Path) -> None:
    pay(state, 3)
    said = "\n".join(lines(state))
    epsilon = owner_ledger(config_of(state), state).epsilon("digits")
    for part in (
        "Jobs allowed: *; forbidden: night-*",
        "measurements held back: loss",
        "updates without local noise: refused",
        "at any hour",
        "now: it may learn",
        f"digits: 150 labelled samples in {state}/digits.npz",
        f"epsilon {epsilon:.3g} of 8 (delta 1e-05), 3 Rounds paid for",
    ):
        assert part in said, part
    good = {finding.topic: finding.text for finding in findings(state)}
    assert good == {
        "samples of digits": "150 labelled samples",
        "learning": "it may learn now",
    }


def test_everything_that_stands_in_the_way_is_told(
    state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "flwr", None)  # As on a device without it
    huge = LEARNING.replace("memory_bytes_min = 0", f"memory_bytes_min = {1 << 50}")
    write_config(state, huge)
    view = view_learning(config_of(state), state, SystemClock())
    assert [reason.code for reason in view.reasons] == [
        "learning.not_installed",
        "eligibility.memory",
    ]
    said = lines(state)
    assert "now: it does not learn" in said
    assert any("learning.memory_bytes_min" in line for line in said)
    told = [f.text for f in findings(state) if f.level is Level.WARNING]
    assert len(told) == 2
    assert 'pip install "isthmus[edge,learn]"' in told[0]


def test_hours_and_no_budget_are_told_as_they_are(state: Path) -> None:
    text = LEARNING.replace("[learning.privacy]\nepsilon_max = 8.0\n", "")
    write_config(state, text.replace("samples_min = 100\n", MORE))
    said = "\n".join(lines(state))
    assert "from 22:00 to 06:00" in said
    assert "updates without local noise: allowed" in said
    assert "of no limit" in said


def test_samples_that_are_too_few_or_not_there_are_a_warning_with_what_to_do(state: Path) -> None:
    write_digits(state / "digits.npz", count=99)
    (few, _) = findings(state)
    assert (few.level, few.text) == (Level.WARNING, "99 labelled samples, too few")
    (state / "digits.npz").unlink()
    (none, _) = findings(state)
    assert none.level is Level.WARNING
    assert f"{state}/digits.npz" in none.remedy


def test_a_device_whose_owner_says_nothing_does_not_learn(state: Path) -> None:
    write_config(state, "")
    assert findings(state) == []
    with pytest.raises(RefusedError) as raised:
        lines(state)
    assert raised.value.code == "policy.absent"


@pytest.mark.slow
def test_the_commands_say_it_to_people_and_programs_and_adopt_a_ledger(state: Path) -> None:
    pay(state, 2)
    words = ("learning", "--config", state / "agent.toml", "--state", state)
    said = type_in("edge-agent", *words)
    assert (said.code, "2 Rounds paid for" in said.out) == (DONE, True)
    (model,) = type_in("edge-agent", *words, "--json").json["models"]
    assert (model["samples_count"], model["rounds_charged"]) == (150, 2)
    # Another key, as after joining again: nothing is forgotten, and nothing goes on by itself.
    write_key(state / "identity" / "device.key")
    refused = type_in("edge-agent", *words)
    assert refused.code == INTEGRITY
    assert "--adopt-ledger" in refused.told
    doctor = type_in("edge-agent", "doctor", *words[1:], "--json")
    [bad] = [f for f in doctor.json["findings"] if f["topic"] == "learning"]
    assert bad["level"] == "bad"
    with pytest.raises(IntegrityError):
        pay(state, 1)
    adopted = type_in("edge-agent", *words, "--adopt-ledger", "--json")
    assert adopted.json["models"][0]["rounds_charged"] == 2
    assert type_in("edge-agent", *words).code == DONE
    (state / "learning" / LEDGER).unlink()
    assert type_in("edge-agent", *words, "--adopt-ledger").code == INTEGRITY
