"""PipelineSettings: source -> frames -> model -> decisions -> sinks, as a person writes it.

Written in the device's own file, or ordered by the hub in the Target; the same words in both.
"""

from typing import Annotated

from msgspec import Meta

from shared.pipeline.decisions import DecisionSettings
from shared.pipeline.frames import FrameSettings
from shared.pipeline.sinks import HubSinkSettings, SinkSettings
from shared.pipeline.sources import SourceSettings
from shared.settings import Settings
from shared.wire.limits import Name, Share

SINKS_MAX = 8


class PipelineLimits(Settings, frozen=True):
    """What a model may cost this pipeline: how its variant is chosen, by measurement."""

    latency_ms_p95_max: Annotated[float, Meta(ge=0.0, le=1e6)] = 0.0  # 0: no limit
    rss_bytes_max: Annotated[int, Meta(ge=0, le=1 << 40)] = 0  # Of the worker; 0: no limit
    agreement_min: Share = 0.95  # Of a quantized variant with fp32, on held-out items
    speedup_min: Annotated[float, Meta(ge=1.0, le=100.0)] = 1.15  # Of a quantized one over fp32


class PipelineSettings(Settings, frozen=True):
    """One pipeline."""

    name: Name
    model: Name
    source: SourceSettings
    frames: FrameSettings = FrameSettings()
    decisions: DecisionSettings = DecisionSettings()
    sinks: Annotated[tuple[SinkSettings, ...], Meta(max_length=SINKS_MAX)] = (HubSinkSettings(),)
    limits: PipelineLimits = PipelineLimits()
