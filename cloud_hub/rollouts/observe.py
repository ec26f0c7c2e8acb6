"""What one device's newest Report means for its place in a rollout. Pure.

1. Revoked comes first: such a device counts nowhere, whatever it says.
2. A failure of this release outweighs a proof in the same Report.
3. A device is back only when it has taken up the Target that sent it back, and proves what it ran
   before: what a silent device said earlier is no answer.
4. Time: once a device's deadline is past, progress is no answer any more; proof or failure is,
   however late.
"""

from dataclasses import dataclass

from cloud_hub.rollouts.device_model import DeviceModel
from cloud_hub.rollouts.rollout import (
    MOVED,
    PENDING,
    DeviceEvent,
    DeviceFailure,
    DeviceState,
    ReleaseRef,
    RolloutDevice,
)
from shared.ids import RolloutId
from shared.wire.report import UpdateState

_UNDER_WAY = frozenset({UpdateState.FETCHING, UpdateState.STAGED, UpdateState.TRIAL})


@dataclass(frozen=True, slots=True)
class Aim:
    """What the device was asked, by whom, and how long it has."""

    rollout_id: RolloutId
    release: ReleaseRef
    deadline_s: float


@dataclass(frozen=True, slots=True)
class Observation:
    """One event of one device, with its reason."""

    event: DeviceEvent
    text: str
    failure: DeviceFailure | None = None


def observe_device(
    device: RolloutDevice,
    seen: DeviceModel | None,
    aim: Aim,
    *,
    is_active: bool,
    has_taken_up: bool,
    now_ms: int,
) -> Observation | None:
    """Return what has become of `device`, or None if nothing has.

    Args: has_taken_up says whether its newest Report answers its newest Target.
    """
    if not is_active:
        if device.state in (DeviceState.REMOVED, DeviceState.UNDONE):
            return None
        return Observation(DeviceEvent.REMOVED, "It was revoked; it counts no more.")
    if device.state is DeviceState.UNDOING:
        returned = _observe_return(device.previous, seen, aim) if has_taken_up else None
        return returned or _observe_missing_return(device, aim, now_ms)
    if device.state not in MOVED:
        return None
    failure = _failure_of(seen, aim)
    if failure is not None:
        if device.state is DeviceState.FAILED:
            return None
        return Observation(DeviceEvent.FAILED, f"{failure.text} [{failure.code}]", failure)
    if seen is not None and seen.has_settled(aim.release):
        if device.state is DeviceState.UPDATED:
            return None
        return Observation(
            DeviceEvent.PROVED,
            f"It runs version {seen.version} ({seen.precision}); receipt {seen.receipt_id} of its "
            "own key proves it.",
        )
    if device.state is DeviceState.UPDATED:
        return Observation(DeviceEvent.LOST, _explain_lost(seen, aim))
    if device.state in PENDING and _is_late(device, aim, now_ms):
        return Observation(DeviceEvent.FELL_SILENT, _explain_silence(seen, aim))
    if device.state is DeviceState.TARGETED and _is_under_way(seen, aim):
        return Observation(DeviceEvent.PROGRESSED, "It has taken up the release.")
    return None


def _observe_return(
    before: ReleaseRef | None, seen: DeviceModel | None, aim: Aim
) -> Observation | None:
    """Return BACK or KEPT for a device that has taken up the Target that sends it back."""
    if seen is not None and seen.state in _UNDER_WAY | {UpdateState.UNDOING}:
        return None
    if before is not None:
        if seen is None or seen.running != before or seen.proof is None:
            return None
        text = f"It runs version {before.version} again, and has proved it."
        return Observation(DeviceEvent.BACK, text)
    if seen is not None and seen.running == aim.release:
        text = "It ran nothing before and has settled the release meanwhile: it keeps it."
        return Observation(DeviceEvent.KEPT, text)
    return Observation(DeviceEvent.BACK, "It no longer runs the release; before, it ran none.")


def _observe_missing_return(device: RolloutDevice, aim: Aim, now_ms: int) -> Observation | None:
    if device.is_silence_noted or now_ms - device.since_ms <= aim.deadline_s * 1000:
        return None
    return Observation(
        DeviceEvent.FELL_SILENT,
        f"It has not said within {aim.deadline_s:g} s that it is back. Its Target stands; it goes "
        "back as soon as it is there.",
    )


def _failure_of(seen: DeviceModel | None, aim: Aim) -> DeviceFailure | None:
    if seen is None or seen.failure is None or seen.failure.release != aim.release:
        return None
    if seen.failure.rollout != aim.rollout_id:
        return None  # It failed in an earlier rollout, and now gets another chance.
    return DeviceFailure(
        code=seen.failure.code, text=seen.failure.text, undo_ms=seen.failure.undo_ms
    )


def _is_under_way(seen: DeviceModel | None, aim: Aim) -> bool:
    return (
        seen is not None and seen.state in _UNDER_WAY and seen.target_version == aim.release.version
    )


def _is_late(device: RolloutDevice, aim: Aim, now_ms: int) -> bool:
    return device.targeted_ms is not None and now_ms - device.targeted_ms > aim.deadline_s * 1000


def _explain_lost(seen: DeviceModel | None, aim: Aim) -> str:
    if seen is None:
        return "Its newest report does not name the model any more."
    if seen.running != aim.release:
        return f"It had proved version {aim.release.version} and now runs version {seen.version}."
    return f"It cannot prove any more what it runs: {seen.receipt_problem or seen.state}."


def _explain_silence(seen: DeviceModel | None, aim: Aim) -> str:
    start = f"No proof and no failure within {aim.deadline_s:g} s."
    if seen is None:
        return f"{start} It never reported on the model."
    if seen.running == aim.release:
        return f"{start} It says it runs the release, but: {seen.receipt_problem or seen.state}."
    return (
        f"{start} Its last report says: version {seen.version}, {seen.state}, "
        f"{seen.progress:.0%} fetched, {seen.trial_items} items in trial."
    )
