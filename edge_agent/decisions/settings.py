"""DecisionSettings: how this device reads a model's outputs, where it differs from the spec."""

from typing import Annotated

from msgspec import Meta

from shared.settings import Settings
from shared.wire.limits import Number, Share


class DecisionSettings(Settings, frozen=True):
    """None leaves it to the model's spec."""

    confidence_min: Share | None = None  # Detection
    overlap_max: Share | None = None  # Detection
    threshold: Number | None = None  # Anomaly
    # Classification: a new class must beat the last decided one by this much to replace it.
    hysteresis_margin: Share = 0.0
    # During a trial: the share of items on which the other release runs too. Bounds the CPU. With
    # none a trial has no evidence, and every release is taken back as silent: so not below 0.01.
    companion_share: Annotated[float, Meta(ge=0.01, le=1.0)] = 1.0
