"""ServingSettings: how released models are served by the hub. `[serving]` of the hub's file."""

from typing import Annotated

from msgspec import Meta

from cloud_hub.releases.channel import ChannelName
from shared.settings import Settings


class ServingSettings(Settings, frozen=True):
    """Limits of every served model."""

    batch_max: Annotated[int, Meta(ge=1, le=1024)] = 16  # Items run at once
    wait_ms: Annotated[float, Meta(ge=0.0, le=1000.0)] = 2.0  # For a batch to fill, from its first
    queue_max: Annotated[int, Meta(ge=1, le=100_000)] = 256  # Items of one model that wait
    models_max: Annotated[int, Meta(ge=1, le=64)] = 4  # Served at a time; the idlest one goes
    idle_s: Annotated[float, Meta(ge=1.0, le=86_400.0)] = 300.0  # Then a model's process ends
    start_s_max: Annotated[float, Meta(ge=1.0, le=600.0)] = 60.0
    answer_s_max: Annotated[float, Meta(ge=0.1, le=600.0)] = 20.0  # A process over it is ended
    threads: Annotated[int, Meta(ge=1, le=256)] = 1  # Of each process, for one batch
    memory_bytes_max: Annotated[int, Meta(ge=256 << 20)] = 4 << 30  # Of each process
    # The channel whose release is served; where nobody has set it, the newest release.
    follows: ChannelName = ChannelName.STABLE
