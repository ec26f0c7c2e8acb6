"""RolloutOrder: what a person asks for. A frozen value; `check_order` names the field at fault."""

import math
from dataclasses import dataclass, field

import msgspec

from cloud_hub.rollouts.waves import DEFAULT_WAVES, WaveSize, check_waves
from shared.errors import ContractError
from shared.ids import DeviceId, ModelName
from shared.wire.target import TrialPolicy

DEVICES_MAX = 100_000
SECONDS_MAX = 90 * 86_400.0
ITEMS_MAX = 1_000_000_000
NOTES_CHARS_MAX = 500
VERSION_MAX = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class FailureLimit:
    """A wave has failed when more than this share and at least this many of its devices have."""

    share_max: float = 0.1
    count_min: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutOrder:
    """Move devices to a release, wave by wave. Neither group nor devices means every device."""

    model: ModelName
    version: int
    group: str | None = None
    devices: tuple[DeviceId, ...] = ()  # In this order; a group's go online ones first
    waves: tuple[WaveSize, ...] = DEFAULT_WAVES
    failure_limit: FailureLimit = FailureLimit()
    success_share_min: float = 0.9  # Of the devices that answered
    unknown_share_max: float = 0.0  # Of the wave; above it, silence holds the rollout
    wave_deadline_s: float = 3600.0  # From being targeted until silence is called unknown
    bake_s: float = 60.0  # How long a wave must stay good before the next
    bake_items_min: int = 0  # Items its devices must decide meanwhile; fewer is low traffic: hold
    items_failed_share_max: float = 0.05  # Of those items; judged only where bake_items_min is set
    trial: TrialPolicy = field(default_factory=TrialPolicy)
    undo_on_failure: bool = True  # Else a failed wave only holds
    keeps_absorbing: bool = False  # When done, devices that join the group later get it too
    notes: str = ""


def check_order(order: RolloutOrder) -> None:
    """Raise ContractError `rollout.order` (or `rollout.waves`) that names the field at fault."""
    check_waves(order.waves)
    for name, share in (
        ("failure_limit.share_max", order.failure_limit.share_max),
        ("success_share_min", order.success_share_min),
        ("unknown_share_max", order.unknown_share_max),
        ("items_failed_share_max", order.items_failed_share_max),
    ):
        _require(name, 0.0 <= share <= 1.0, "must be a share from 0 to 1")
    _require("version", 1 <= order.version <= VERSION_MAX, f"must be from 1 to {VERSION_MAX}")
    _require("success_share_min", order.success_share_min > 0.0, "must be above 0")
    _require("unknown_share_max", order.unknown_share_max < 1.0, "must be below 1")
    _require("failure_limit.count_min", order.failure_limit.count_min >= 1, "must be at least 1")
    _require(
        "wave_deadline_s",
        1 <= order.wave_deadline_s <= SECONDS_MAX,
        f"must be from 1 to {SECONDS_MAX:g}",
    )
    _require("bake_s", 0 <= order.bake_s <= SECONDS_MAX, _upto(SECONDS_MAX))
    _require("bake_items_min", 0 <= order.bake_items_min <= ITEMS_MAX, _upto(ITEMS_MAX))
    _require(
        "wave_deadline_s",
        order.wave_deadline_s > order.trial.seconds_min,
        f"must be above trial.seconds_min ({order.trial.seconds_min:g} s): nobody could answer",
    )
    _require("devices", len(order.devices) <= DEVICES_MAX, f"are over {DEVICES_MAX}")
    _require("devices", len(set(order.devices)) == len(order.devices), "name one device twice")
    _require("devices", not (order.devices and order.group), "and group exclude each other")
    _require("keeps_absorbing", not (order.keeps_absorbing and order.devices), "needs no devices")
    _require("notes", len(order.notes) <= NOTES_CHARS_MAX, f"are over {NOTES_CHARS_MAX} characters")
    _check_trial(order.trial)


def encode_order(order: RolloutOrder) -> str:
    """Return an order as JSON text, for the database."""
    return msgspec.json.encode(order).decode()


def decode_order(text: str) -> RolloutOrder:
    """Return an order from what `encode_order` wrote."""
    return msgspec.json.decode(text, type=RolloutOrder)


def _check_trial(trial: TrialPolicy) -> None:
    """Hold a policy made in code to what the wire allows; else no Target could carry it."""
    try:
        msgspec.msgpack.decode(msgspec.msgpack.encode(trial), type=TrialPolicy)
    except msgspec.ValidationError as error:
        raise ContractError("rollout.order", f"trial: {error}.") from error
    numbers = (getattr(trial, name) for name in trial.__struct_fields__)
    _require("trial", all(math.isfinite(number) for number in numbers), "must hold finite numbers")


def _require(field: str, is_good: bool, rule: str) -> None:
    if not is_good:
        raise ContractError("rollout.order", f"{field} {rule}.")


def _upto(limit: float) -> str:
    return f"must not be below 0 or above {limit:g}"
