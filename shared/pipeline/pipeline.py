"""PipelineSettings: source -> frames -> model -> decisions -> sinks, as a person writes it.

Written in the device's own file, or ordered by the hub in the Target; the same words in both.
"""

from collections.abc import Mapping
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from shared.choices import hint
from shared.errors import ContractError
from shared.pipeline.decisions import DecisionSettings
from shared.pipeline.frames import FrameSettings
from shared.pipeline.sinks import HubSinkSettings, SinkSettings
from shared.pipeline.sources import SourceSettings
from shared.settings import Settings
from shared.wire.limits import Name, Share

SINKS_MAX = 8
EXAMPLE = 'name = "gate", model = "people", source = {kind = "stream", url = "rtsp://..."}'


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


def parse_pipeline(settings: Mapping[str, Any]) -> PipelineSettings:
    """Return one pipeline. Raises ContractError `pipeline.invalid`, naming it and the key."""
    try:
        return msgspec.convert(settings, PipelineSettings, strict=True)
    except (msgspec.ValidationError, ValueError) as error:
        raise ContractError(
            "pipeline.invalid",
            f"{_called(settings.get('name'))} is not valid: {error}.",
            remedy=f"Correct that key{hint(error, PipelineSettings)}; `$` stands for the whole "
            "pipeline.",
        ) from error


def pipelines_in(found: Mapping[str, Any], *, where: str) -> list[dict[str, Any]]:
    """Return what a TOML text orders: one pipeline, or those under [[pipelines]]; all are checked.

    Args: where: the text, for errors ("gate.toml").

    Raises ContractError `pipeline.unreadable`, or `pipeline.invalid` as parse_pipeline.
    """
    several = found.get("pipelines", [found])
    if not isinstance(several, list) or not several:
        raise _unreadable(f"{where} has no pipeline.", EXAMPLE)
    names: set[str] = set()
    for settings in several:
        if not isinstance(settings, dict) or not isinstance(settings.get("name"), str):
            raise _unreadable(f"A pipeline in {where} has no name.", EXAMPLE)
        name = parse_pipeline(settings).name
        if name in names:
            raise _unreadable(
                f"{where} has two pipelines of the name {name}.",
                "Give each a name of its own: on a device the later would replace the earlier.",
            )
        names.add(name)
    return several


def _unreadable(message: str, remedy: str) -> ContractError:
    return ContractError("pipeline.unreadable", message, remedy=remedy)


def _called(name: object) -> str:
    return f"The pipeline {name}" if isinstance(name, str) and name else "The pipeline"
