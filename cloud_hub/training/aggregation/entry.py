"""Values of aggregation: what arrives, what is said about it, what comes out.

What must not live here: any rule.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

import msgspec

from shared.model.weights import Vector


class Standing(StrEnum):
    """Whether an update counts."""

    ACCEPTED = "accepted"
    HELD = "held"  # On disk; counts or not is decided by a later update, or when the Round closes
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class UpdateEntry:
    """One device's update as it arrived: new weights minus the weights it was given."""

    device: str
    vector: Vector  # (N,) float32; never changed, may be dropped after `add` returned
    samples_count: int | None  # None: its owner does not tell
    loss: float | None = None  # q-FedAvg cannot do without
    rounds_late: int = 0
    details: Mapping[str, float] = field(default_factory=dict)  # Kept and given back, not used


class UpdateRecord(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is kept of an update beside its numbers."""

    number: int  # Order of arrival within the Round, from 1
    device: str
    norm: float  # L2, after clipping where the hub clips
    weight: float  # Before `weight_share_max`: samples, or 1, less the discount for being late
    divisor: float  # What it adds to the divisor of the mean: its weight, but for q-FedAvg
    samples_count: int | None = None
    loss: float | None = None
    rounds_late: int = 0
    details: dict[str, float] = {}


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was decided about one update."""

    device: str
    rounds_late: int
    standing: Standing
    code: str = ""  # Of a refusal or of holding: "update.norm", "update.not_finite", ...
    text: str = ""
    norm: float | None = None  # None where it is not a number
    weight: float = 0.0
    details: Mapping[str, float] = field(default_factory=dict)  # As the entry had them


@dataclass(frozen=True, slots=True)
class Aggregate:
    """What a closed Round came to."""

    vector: Vector  # (N,): the update of the common weights, with central noise where ordered
    devices: tuple[str, ...]  # Whose updates counted, in order of arrival
    weight_sum: float  # After `weight_share_max`
    norm: float  # L2 of `vector`
    verdicts: tuple[Verdict, ...] = ()  # On those that were held until now
