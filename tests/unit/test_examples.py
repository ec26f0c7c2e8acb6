"""The example configurations are what the programs read, and say the defaults truly."""

from pathlib import Path
from typing import get_args

import pytest

from cloud_hub.config import HubConfig
from cloud_hub.config import load_config as load_hub
from edge_agent.config import AgentConfig, MetricsSettings, RemoteSettings
from edge_agent.config import load_config as load_agent
from edge_agent.inference.settings import InferenceSettings
from edge_agent.sinks.live_settings import LiveSettings
from shared.model.spec import parse_spec
from shared.pipeline.pipeline import PipelineSettings
from shared.pipeline.sinks import SinkSettings
from shared.pipeline.sources import CsvSettings, FolderSettings, SourceSettings, VideoSettings

EXAMPLES = Path(__file__).parents[2] / "deploy" / "examples"
AGENTS = sorted(EXAMPLES.glob("agent*.toml"))
SPECS = sorted(set(EXAMPLES.glob("*.toml")) - {*AGENTS, EXAMPLES / "hub.toml"})


def test_the_hubs_example_is_the_hubs_defaults() -> None:
    assert load_hub(EXAMPLES / "hub.toml") == HubConfig()


def test_the_agents_example_says_the_defaults() -> None:
    example = load_agent(EXAMPLES / "agent.toml")
    least = PipelineSettings(name="a", model="b", source=FolderSettings(path="c"))
    default = AgentConfig(pipelines=(least,))
    for part in ("log_level", "outbox", "telemetry", "transfer", "updates", "link"):
        assert getattr(example, part) == getattr(default, part), part


@pytest.mark.parametrize("path", AGENTS, ids=lambda path: path.stem)
def test_every_example_of_an_agent_is_one(path: Path) -> None:
    assert load_agent(path).pipelines


def test_the_examples_show_every_kind_of_source_and_sink() -> None:
    pipelines = [pipeline for path in AGENTS for pipeline in load_agent(path).pipelines]
    shown = {type(pipeline.source) for pipeline in pipelines}
    # Those that replay files are in the comments of agent.toml.
    assert shown >= set(get_args(SourceSettings)) - {CsvSettings, FolderSettings, VideoSettings}
    assert {type(sink) for pipeline in pipelines for sink in pipeline.sinks} == set(
        get_args(SinkSettings)
    )


def test_the_example_of_cameras_says_the_defaults() -> None:
    config = load_agent(EXAMPLES / "agent-cameras.toml")
    assert config.inference == InferenceSettings()
    assert config.live == LiveSettings()
    assert config.metrics == MetricsSettings()
    assert config.remote == RemoteSettings()


@pytest.mark.parametrize("path", SPECS, ids=lambda path: path.stem)
def test_every_example_spec_is_one(path: Path) -> None:
    assert parse_spec(path.read_bytes(), name=path.name).model
