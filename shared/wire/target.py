"""Target: what the hub wants one device to run. Retained, complete, and never a command."""

from typing import Annotated, ClassVar

import msgspec
from msgspec import UNSET, Meta, UnsetType

from shared.wire.fit import FitHint
from shared.wire.limits import Count, Digest, Name, Seconds, Share, UnixMs, Version

MODELS_MAX = 32
PIPELINES_MAX = 64
LEARNING_MAX = 8
ORDERS_MAX = 32
PIPELINE_BYTES_MAX = 16 * 1024


class TrialPolicy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When a device may call a new release no worse than the old one, judged on its own items.

    The release not serving runs beside the serving one on the same items. A trial that has not
    seen `items_min` items after `deadline_s` is undone: silence is not success.
    """

    items_min: Annotated[int, Meta(ge=1, le=1_000_000)] = 100
    seconds_min: Seconds = 0.0
    deadline_s: Seconds = 600.0
    failed_share_max: Share = 0.01  # Items on which inference failed
    latency_ratio_max: Annotated[float, Meta(ge=0.1, le=1000.0)] = 2.0  # New / old, medians
    latency_ms_floor: Annotated[float, Meta(ge=0.0, le=1e6)] = 5.0  # Faster is never "slow"
    confidence_drop_max: Share = 0.15  # Old mean minus new mean, on the same items
    disagreement_share_max: Share = 0.5  # Items where old and new conclude differently


class TargetRelease(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One model's release that the device should run."""

    model: Name
    version: Version
    manifest_digest: Digest
    rollout: Name  # The rollout that asks for it
    trial: TrialPolicy = TrialPolicy()
    # Left out of the bytes where no device of the same hardware has measured the release.
    fit_hint: FitHint | UnsetType = UNSET


class LearningOrder(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A Job that would like this device to learn with others. Its owner's policy may say no."""

    job: Name
    model: Name
    # Where the Fleet API answers; an empty host is the one the device joined by.
    host: Annotated[str, Meta(max_length=253)] = ""
    port: Annotated[int, Meta(ge=1, le=65535)]
    until_ms: UnixMs  # The device lets go by itself then
    samples_min: Count = 1
    # What each Round would cost the privacy budget; None where the Job asks for no local noise.
    noise_multiplier: Annotated[float, Meta(gt=0.0, le=1000.0)] | None = None


class PipelineOrder(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One pipeline as the hub would have it: PipelineSettings (shared/pipeline) as JSON.

    In bytes, so that a device which does not know a word of it refuses this pipeline alone.
    """

    name: Name
    settings: Annotated[bytes, Meta(min_length=2, max_length=PIPELINE_BYTES_MAX)]


class Target(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The whole of what the hub wants of one device."""

    schema: ClassVar[int] = 1

    revision: Count  # Rises by one with every change; a lower one is old news
    issued_ms: UnixMs
    releases: Annotated[tuple[TargetRelease, ...], Meta(max_length=MODELS_MAX)] = ()
    # Names of the device's own pipelines to run; None runs all of them.
    pipelines: Annotated[tuple[Name, ...], Meta(max_length=PIPELINES_MAX)] | None = None
    # Pipelines that the hub defines; one with the name of the device's own stands in its place.
    # Left out of the bytes where there is none.
    orders: Annotated[tuple[PipelineOrder, ...], Meta(max_length=ORDERS_MAX)] | UnsetType = UNSET
    # Left out of the bytes where no Job wants the device: agents that do not learn never see it.
    learning: Annotated[tuple[LearningOrder, ...], Meta(max_length=LEARNING_MAX)] | UnsetType = (
        UNSET
    )
