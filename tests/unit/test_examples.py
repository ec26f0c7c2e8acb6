"""The example configurations are what the programs read, and say the defaults truly."""

from pathlib import Path

import pytest

from cloud_hub.config import HubConfig
from cloud_hub.config import load_config as load_hub
from edge_agent.config import AgentConfig, PipelineSettings
from edge_agent.config import load_config as load_agent
from edge_agent.sources.settings import FolderSettings
from shared.model.spec import parse_spec

EXAMPLES = Path(__file__).parents[2] / "deploy" / "examples"
SPECS = sorted(path for path in EXAMPLES.glob("*.toml") if path.stem not in {"agent", "hub"})


def test_the_hubs_example_is_the_hubs_defaults() -> None:
    assert load_hub(EXAMPLES / "hub.toml") == HubConfig()


def test_the_agents_example_says_the_defaults() -> None:
    example = load_agent(EXAMPLES / "agent.toml")
    least = PipelineSettings(name="a", model="b", source=FolderSettings(path="c"))
    default = AgentConfig(pipelines=(least,))
    for part in ("log_level", "outbox", "telemetry", "transfer", "updates", "link"):
        assert getattr(example, part) == getattr(default, part), part


@pytest.mark.parametrize("path", SPECS, ids=lambda path: path.stem)
def test_every_example_spec_is_one(path: Path) -> None:
    assert parse_spec(path.read_bytes(), name=path.name).model
