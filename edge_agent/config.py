"""The agent's whole configuration: each part's settings, put together and read once, at start.

One TOML file: `[[pipelines]]`, each with a source, a model's name, how to decide, and who is told;
`[learning]`, what the owner lets the device learn; `[sharing]`, which samples may leave it.
What must not live here: what a setting means (that is beside the part that owns it).
"""

from pathlib import Path
from typing import Annotated

from msgspec import Meta

from edge_agent.inference.settings import InferenceSettings
from edge_agent.sharing.settings import SharingSettings
from edge_agent.sinks.live_settings import LiveSettings
from edge_agent.telemetry.publisher import PublisherSettings
from edge_agent.telemetry.sql_outbox import OutboxSettings
from edge_agent.training.settings import LearningSettings
from edge_agent.updates.transfer import TransferSettings
from edge_agent.updates.updater import UpdateSettings
from shared.logs import LogLevel
from shared.pipeline.pipeline import PipelineSettings
from shared.settings import Settings, load_toml
from shared.wire.target import PIPELINES_MAX


class MetricsSettings(Settings, frozen=True):
    """Numbers for Prometheus at /metrics; without it there are none."""

    host: Annotated[str, Meta(min_length=1, max_length=253)] = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65535)] = 9108


class RemoteSettings(Settings, frozen=True):
    """What of pipelines the hub may order here. The owner's word; the hub cannot change it."""

    pipelines: bool = True  # Whether the hub may add and change pipelines at all
    sources: Annotated[tuple[str, ...], Meta(max_length=16)] = ("stream", "camera", "mqtt")
    sinks: Annotated[tuple[str, ...], Meta(max_length=16)] = ("hub",)


class TelemetrySettings(Settings, frozen=True):
    """How often the hub is told numbers."""

    window_s: Annotated[float, Meta(ge=0.5, le=3600.0)] = 10.0
    host_s: Annotated[float, Meta(ge=1.0, le=3600.0)] = 30.0


class ReconnectSettings(Settings, frozen=True):
    """How patient the connection to the hub is."""

    keepalive_s: Annotated[int, Meta(ge=5, le=3600)] = 30
    backoff_s_min: Annotated[float, Meta(ge=0.1, le=60.0)] = 1.0
    backoff_s_max: Annotated[float, Meta(ge=1.0, le=3600.0)] = 60.0


class AgentConfig(Settings, frozen=True):
    """The whole file."""

    pipelines: Annotated[tuple[PipelineSettings, ...], Meta(min_length=1, max_length=PIPELINES_MAX)]
    log_level: LogLevel = "INFO"
    outbox: OutboxSettings = OutboxSettings()
    publisher: PublisherSettings = PublisherSettings()
    telemetry: TelemetrySettings = TelemetrySettings()
    transfer: TransferSettings = TransferSettings()
    updates: UpdateSettings = UpdateSettings()
    link: ReconnectSettings = ReconnectSettings()
    inference: InferenceSettings = InferenceSettings()
    live: LiveSettings | None = None
    metrics: MetricsSettings | None = None
    remote: RemoteSettings = RemoteSettings()
    learning: LearningSettings | None = None  # Without it the device never learns
    sharing: SharingSettings | None = None  # Without it no sample ever leaves

    def __post_init__(self) -> None:
        """Refuse what the types cannot."""
        names = [pipeline.name for pipeline in self.pipelines]
        if len(set(names)) != len(names):
            raise ValueError("two pipelines have the same name")

    @property
    def models(self) -> tuple[str, ...]:
        """Return the names of the models that pipelines use, each once, in order."""
        return tuple(dict.fromkeys(pipeline.model for pipeline in self.pipelines))


def load_config(path: Path) -> AgentConfig:
    """Return the configuration file. Raises ContractError naming the key that is wrong."""
    return load_toml(path, AgentConfig)
