"""InferenceSettings: how models are run on this device."""

from enum import StrEnum
from typing import Annotated

from msgspec import Meta

from shared.settings import Settings


class Isolation(StrEnum):
    """Where models run."""

    AUTO = "auto"  # A process of its own, but for devices with less than 512 MB
    PROCESS = "process"
    IN_PROCESS = "in-process"


class InferenceSettings(Settings, frozen=True):
    """How models are run on this device."""

    isolation: Isolation = Isolation.AUTO
    # Items decided at the same time, over all pipelines; 0: as many as the processor has cores.
    lanes: Annotated[int, Meta(ge=0, le=64)] = 0
    # What a worker process may take; a model that wants more is refused in its trial.
    worker_bytes_max: Annotated[int, Meta(ge=64 << 20, le=1 << 40)] = 1 << 30
    # A run that takes longer is stuck: its worker is killed and started again.
    run_s_max: Annotated[float, Meta(ge=0.1, le=600.0)] = 5.0
