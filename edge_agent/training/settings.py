"""LearningSettings: the device owner's say. `[learning]` of the agent's file; absent: never.

1. What is not allowed here happens at no hub's wish: models, jobs, measurements, hours, power,
   temperature, load, kind of network, privacy budget.
2. Samples are read where the owner says; they never leave.
"""

from enum import StrEnum
from typing import Annotated

from msgspec import Meta

from shared.learning.task import Measurement
from shared.settings import Settings
from shared.wire.limits import Name, Share

MODELS_MAX = 32
GLOBS_MAX = 64
HOUR = r"^([01][0-9]|2[0-3]):[0-5][0-9]\Z"


class SampleFormat(StrEnum):
    """How labelled samples lie on the disk."""

    FOLDER = "folder"  # <path>/<class name>/*.png|jpg
    NPZ = "npz"  # `items` (N, H, W[, 3]) uint8 or (N, T, C) float32, `labels` (N,) whole numbers


class SampleSettings(Settings, frozen=True):
    """Labelled samples of one model."""

    model: Name
    path: Annotated[str, Meta(min_length=1, max_length=4096)]
    format: SampleFormat = SampleFormat.FOLDER
    held_out_share: Annotated[float, Meta(gt=0.0, lt=1.0)] = 0.2  # Never trained on, for measuring


class PrivacySettings(Settings, frozen=True):
    """What the device may spend in its life, for each model."""

    epsilon_max: Annotated[float, Meta(gt=0.0, le=1e6)] | None = None
    delta: Annotated[float, Meta(gt=0.0, lt=1.0)] = 1e-5
    is_noise_required: bool = False  # Refuse Jobs without local noise


class LearningSettings(Settings, frozen=True):
    """See the rules above."""

    samples: Annotated[tuple[SampleSettings, ...], Meta(max_length=MODELS_MAX)]
    # Job names with * as anything; a Job must match `jobs_allowed` and none of `jobs_forbidden`.
    jobs_allowed: Annotated[tuple[str, ...], Meta(max_length=GLOBS_MAX)] = ("*",)
    jobs_forbidden: Annotated[tuple[str, ...], Meta(max_length=GLOBS_MAX)] = ()
    measurements_forbidden: Annotated[tuple[Measurement, ...], Meta(max_length=16)] = ()
    privacy: PrivacySettings = PrivacySettings()
    # Local time, "22:00" to "06:00"; empty: always.
    hours_from: Annotated[str, Meta(pattern=HOUR)] | None = None
    hours_to: Annotated[str, Meta(pattern=HOUR)] | None = None
    on_battery: bool = False  # Learn also while running from a battery
    battery_share_min: Share = 0.3  # ... and then only with at least this much left
    temperature_c_max: Annotated[float, Meta(ge=0.0, le=150.0)] = 75.0
    load_max: Annotated[float, Meta(gt=0.0, le=1000.0)] = 0.9  # 1-minute load for each core
    on_metered: bool = False  # Also over mobile and other networks that cost
    memory_bytes_min: Annotated[int, Meta(ge=0)] = 400 << 20  # Free, before the process starts
    samples_min: Annotated[int, Meta(ge=1)] = 1
    threads: Annotated[int, Meta(ge=1, le=64)] = 1
    memory_bytes_max: Annotated[int, Meta(ge=128 << 20)] = 2 << 30  # Of one local training
    poll_s: Annotated[float, Meta(ge=0.05, le=60.0)] = 1.0  # How often the hub is asked for work
    hub_silent_s_max: Annotated[float, Meta(ge=0.5, le=600.0)] = 30.0  # Of one request
    # For how long the hub counts on a device that it does not hear of; a sign of life every third.
    lease_s: Annotated[float, Meta(ge=20.0, le=3600.0)] = 60.0
    task_bytes_max: Annotated[int, Meta(ge=1 << 20)] = 2 << 30  # Of one task with its weights

    def __post_init__(self) -> None:
        """Refuse what the types cannot."""
        if (self.hours_from is None) != (self.hours_to is None):
            raise ValueError("hours_from and hours_to go together")
        models = [samples.model for samples in self.samples]
        if len(set(models)) != len(models):
            raise ValueError("two entries of samples are for the same model")
