"""What the READMEs tell people to type is what the programs take, and their TOML is read."""

import argparse
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from cloud_hub.__main__ import DOCTOR, SERVE
from cloud_hub.command_line.parser import build_parser as hub_parser
from cloud_hub.command_line.parser import parse as parse_hub
from edge_agent.__main__ import build_parser as agent_parser
from edge_agent.config import load_config

ROOT = Path(__file__).parents[2]
READMES = ("README.md", *sorted(str(path.relative_to(ROOT)) for path in [
    *ROOT.glob("edge_agent/**/README.md"), *ROOT.glob("cloud_hub/**/README.md"),
    *ROOT.glob("shared/**/README.md"), *ROOT.glob("deploy/**/README.md"),
]))  # fmt: skip


def blocks(text: str, language: str) -> Iterator[str]:
    """Yield what stands between ```language and ```."""
    for part in text.split(f"```{language}\n")[1:]:
        yield part.partition("```")[0]


def commands() -> Iterator[tuple[str, str]]:
    """Yield README and line of each command of ours."""
    for readme in READMES:
        for block in blocks((ROOT / readme).read_text("utf-8"), "sh"):
            for line in block.replace("\\\n", " ").splitlines():
                words = shlex.split(line, comments=True)
                if words and Path(words[0]).name in ("edge-agent", "cloud-hub"):
                    yield readme, shlex.join([Path(words[0]).name, *words[1:]])


@cache
def parsers() -> tuple[argparse.ArgumentParser, argparse.ArgumentParser]:
    """Return the agent's and the hub's; they keep nothing from one line to the next."""
    return agent_parser(), hub_parser((SERVE, DOCTOR))


def test_there_are_commands_to_check() -> None:
    assert len(list(commands())) > 20


@pytest.mark.parametrize(("readme", "line"), sorted(set(commands())))
def test_every_command_of_a_readme_is_one(readme: str, line: str) -> None:
    program, *arguments = shlex.split(line)
    try:
        if program == "edge-agent":
            parsers()[0].parse_args(arguments)
        else:
            parse_hub(parsers()[1], arguments)
    except SystemExit as end:
        pytest.fail(f"{readme}: {line}: exit code {end.code}")


def test_the_first_pipeline_of_the_readme_is_a_configuration(tmp_path: Path) -> None:
    text = (ROOT / "README.md").read_text("utf-8")
    first, second = [block for block in blocks(text, "toml") if "pipelines" in block]
    (tmp_path / "agent.toml").write_text(first)
    assert [pipeline.name for pipeline in load_config(tmp_path / "agent.toml").pipelines] == [
        "gate"
    ]
    (tmp_path / "agent.toml").write_text(f"{first}\n{second}")
    config = load_config(tmp_path / "agent.toml")
    assert config.live is not None
    assert config.metrics is not None
    assert config.pipelines[0].decisions.lines[0].name == "road"


@pytest.mark.parametrize("spec", sorted({
    word
    for _, line in commands()
    for word in shlex.split(line)
    if word.startswith("deploy/examples/")
}))  # fmt: skip
def test_every_example_that_a_readme_names_is_there(spec: str) -> None:
    assert (ROOT / spec).is_file()
