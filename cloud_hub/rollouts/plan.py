"""The plan: what one tick, or one person's wish, changes in one rollout. Pure: values in, Plan out.

1. `advance` observes every device, judges the wave, moves the rollout, then brings Targets in line
   with its state. All of it hangs on levels, not on edges: whatever a killed hub left undone, the
   next call does; a second call at the same instant changes nothing.
2. In RUNNING, every waiting device of the wave under way and those before it is targeted; in no
   other state is anybody targeted. So the waves' limits hold whatever else goes wrong.
3. In UNDOING, every device whose Target still names the release is sent back.
4. Every change writes its entry.
"""

from collections.abc import Iterable
from dataclasses import replace

from cloud_hub.rollouts.draft import Draft, Plan, Snapshot
from cloud_hub.rollouts.judge import (
    Judgement,
    Verdict,
    WaveFacts,
    count_devices,
    judge_wave,
)
from cloud_hub.rollouts.observe import Aim, observe_device
from cloud_hub.rollouts.rollout import (
    MOVED,
    OPEN,
    UNFINISHED,
    DeviceState,
    RolloutDevice,
    RolloutEvent,
    RolloutState,
)
from shared.ids import DeviceId
from shared.plural import counted

ANSWERS_MAX = 5  # A hold of one wave ends by itself this often; then a person must look.
HELD_BY_PERSON = "person"
SELF_ENDING = frozenset({"wave.silent", "wave.short", "wave.low_traffic"})


def advance(snapshot: Snapshot, *, now_ms: int) -> Plan:
    """Return what has become of the rollout, and what is to be done about it."""
    draft = Draft(snapshot, now_ms)
    _observe(draft)
    if draft.rollout.state in (RolloutState.RUNNING, RolloutState.HELD):
        _judge(draft)
    _align(draft)
    return draft.finish()


def start(snapshot: Snapshot, *, now_ms: int, by: str) -> Plan:
    """Return the first entries and Targets of a new rollout."""
    draft = Draft(snapshot, now_ms)
    rollout, order = draft.rollout, draft.rollout.order
    whom = f"group {order.group}" if order.group else counted(len(snapshot.devices), "device")
    sizes = ", ".join(str(limit) for limit in rollout.wave_limits)
    waves = "one wave that reaches" if len(rollout.wave_limits) == 1 else "waves that reach"
    noun = "device" if rollout.wave_limits[-1:] == (1,) else "devices"
    draft.note(
        "rollout.started",
        f"Move {whom} to {rollout.model} version {rollout.release.version}, in {waves} "
        f"{sizes} {noun}. {order.notes}".strip(),
        by=by,
    )
    _observe(draft)
    _align(draft)
    return draft.finish()


def hold(snapshot: Snapshot, *, now_ms: int, why: str, by: str) -> Plan:
    """Return the plan that moves nobody else. Raises RefusedError `rollout.cannot_hold`."""
    draft = Draft(snapshot, now_ms)
    draft.ask(RolloutEvent.HOLD, "rollout.held", why or "Held.", by, hold_code=HELD_BY_PERSON)
    return draft.finish()


def resume(
    snapshot: Snapshot, *, now_ms: int, why: str, by: str, excuse_silent: bool = False
) -> Plan:
    """Return the plan that goes on: failed devices are excused, silent ones get a new deadline.

    With `excuse_silent` silent devices do not count any more either; their Target stands, and they
    are updated when they come back. Raises RefusedError `rollout.cannot_resume`.
    """
    draft = Draft(snapshot, now_ms)
    draft.ask(
        RolloutEvent.RESUME,
        "rollout.resumed",
        why or "Resumed.",
        by,
        hold_code="",
        wave_good_ms=None,
        answers_count=0,
    )
    for device in draft.all_devices():
        if device.is_excused:
            continue
        if device.failures_count > 0:
            draft.excuse(device, "It failed; it counts no more.", by)
        elif device.state is DeviceState.UNKNOWN and excuse_silent:
            draft.excuse(device, "It was silent; it counts no more.", by)
        elif device.state in (DeviceState.UNKNOWN, DeviceState.UPDATING, DeviceState.TARGETED):
            draft.renew_deadline(device)
    _align(draft)
    return draft.finish()


def undo(snapshot: Snapshot, *, now_ms: int, why: str, by: str) -> Plan:
    """Return the plan that sends back who was moved. Raises RefusedError `rollout.cannot_undo`."""
    draft = Draft(snapshot, now_ms)
    draft.ask(RolloutEvent.UNDO, "rollout.undoing", why or "Undone.", by, hold_code="")
    _align(draft)
    return draft.finish()


def cancel(snapshot: Snapshot, *, now_ms: int, why: str, by: str) -> Plan:
    """Return the plan that stops it where it stands: who proved the release keeps it.

    Raises RefusedError `rollout.cannot_cancel`.
    """
    draft = Draft(snapshot, now_ms)
    was_undoing = draft.rollout.state is RolloutState.UNDOING
    draft.ask(RolloutEvent.CANCEL, "rollout.cancelled", why or "Cancelled.", by, hold_code="")
    for device in draft.all_devices():
        if not was_undoing and device.state in MOVED - {DeviceState.UPDATED}:
            draft.send_back(device)
    return draft.finish()


def absorb(snapshot: Snapshot, joined: Iterable[DeviceId], *, now_ms: int) -> Plan:
    """Return the plan that gives a finished rollout's release to devices that joined later."""
    draft = Draft(snapshot, now_ms)
    position = max((device.position for device in snapshot.devices), default=-1) + 1
    wave = len(snapshot.rollout.wave_limits) - 1
    for offset, device_id in enumerate(joined):
        device = RolloutDevice(
            device_id=device_id, position=position + offset, wave=wave, since_ms=now_ms
        )
        draft.note("device.absorbed", "It joined later.", device_id=device_id)
        draft.target(device)
    return draft.finish()


def _observe(draft: Draft) -> None:
    snapshot, rollout = draft.snapshot, draft.rollout
    aim = Aim(rollout.rollout_id, rollout.release, rollout.order.wave_deadline_s)
    for device in draft.all_devices():
        if rollout.state not in UNFINISHED and not _is_still_ours(draft, device):
            continue
        observation = observe_device(
            device,
            snapshot.seen.get(device.device_id),
            aim,
            is_active=device.device_id in snapshot.active,
            has_taken_up=device.device_id in snapshot.taken_up,
            now_ms=draft.now_ms,
        )
        if observation is not None:
            draft.take(device, observation)


def _is_still_ours(draft: Draft, device: RolloutDevice) -> bool:
    """Whether a finished rollout still waits for this device, and no later one has taken it."""
    assigned = draft.snapshot.assigned.get(device.device_id)
    is_ours = assigned is not None and assigned.rollout_id == draft.rollout.rollout_id
    return is_ours and device.state in OPEN


def _judge(draft: Draft) -> None:
    rollout = draft.rollout
    so_far = [d for d in draft.all_devices() if d.wave <= rollout.wave]
    facts = WaveFacts(
        wave=count_devices(d for d in so_far if d.wave == rollout.wave),
        so_far=count_devices(so_far),
        waiting=sum(d.state is DeviceState.WAITING for d in draft.all_devices()),
        good_ms=rollout.wave_good_ms,
        items=draft.snapshot.items,
    )
    judgement = judge_wave(facts, rollout.order, now_ms=draft.now_ms)
    match judgement.verdict:
        case Verdict.FAIL:
            _fail(draft, judgement)
        case Verdict.HOLD:
            _hold(draft, judgement)
        case Verdict.WAIT:
            draft.change(wave_good_ms=None)
        case Verdict.REFILL:
            _refill(draft, judgement)
        case Verdict.BAKE | Verdict.PASS:
            _go_on(draft, judgement)


def _fail(draft: Draft, judgement: Judgement) -> None:
    if draft.rollout.order.undo_on_failure:
        draft.judged(RolloutEvent.WAVE_FAILED, judgement, hold_code="", wave_good_ms=None)
    elif draft.rollout.state is RolloutState.RUNNING:
        held = judgement.code
        draft.judged(RolloutEvent.WAVE_HELD, judgement, hold_code=held, wave_good_ms=None)


def _hold(draft: Draft, judgement: Judgement) -> None:
    rollout = draft.rollout
    if rollout.state is not RolloutState.RUNNING:
        return
    code, good_ms = judgement.code, None
    if code == "wave.low_traffic":
        good_ms = rollout.wave_good_ms  # It is good as far as it goes; items still count.
    if code in SELF_ENDING and rollout.answers_count >= ANSWERS_MAX:
        text = f"{judgement.text} It has been held and good again {ANSWERS_MAX} times."
        judgement = replace(judgement, code="wave.unsteady", text=text)
    draft.judged(RolloutEvent.WAVE_HELD, judgement, hold_code=judgement.code, wave_good_ms=good_ms)


def _refill(draft: Draft, judgement: Judgement) -> None:
    rollout = draft.rollout
    if rollout.state is not RolloutState.RUNNING:
        return
    limits = rollout.wave_limits
    size = limits[rollout.wave] - (limits[rollout.wave - 1] if rollout.wave else 0)
    waiting = [d for d in draft.all_devices() if d.state is DeviceState.WAITING]
    for device in sorted(waiting, key=lambda d: d.position)[:size]:
        draft.put(replace(device, wave=rollout.wave))
    draft.note(judgement.code, judgement.text)
    draft.change(wave_good_ms=None)


def _go_on(draft: Draft, judgement: Judgement) -> None:
    rollout = draft.rollout
    if rollout.wave_good_ms is None:
        draft.note(judgement.code, judgement.text)
        draft.change(wave_good_ms=draft.now_ms)
    if rollout.state is RolloutState.HELD:
        if rollout.hold_code in SELF_ENDING:
            answers = rollout.answers_count + 1
            text = f"What it was held for ({rollout.hold_code}) is over. {judgement.text}"
            answered = replace(judgement, code="wave.answered", text=text)
            draft.judged(RolloutEvent.WAVE_ANSWERED, answered, hold_code="", answers_count=answers)
        return
    if judgement.verdict is Verdict.BAKE:
        return
    if rollout.is_last_wave:
        draft.judged(RolloutEvent.LAST_WAVE_PASSED, replace(judgement, code="rollout.done"))
        return
    draft.judged(
        RolloutEvent.WAVE_PASSED,
        judgement,
        wave=rollout.wave + 1,
        wave_good_ms=None,
        answers_count=0,
    )


def _align(draft: Draft) -> None:
    """Bring devices in line with the rollout's state."""
    rollout = draft.rollout
    match rollout.state:
        case RolloutState.RUNNING:
            for device in draft.all_devices():
                if device.state is DeviceState.WAITING and device.wave <= rollout.wave:
                    draft.target(device)
        case RolloutState.UNDOING:
            for device in draft.all_devices():
                draft.send_back(device)
            if not any(d.state is DeviceState.UNDOING for d in draft.all_devices()):
                text = "Every device it had moved, and that still counts, is back."
                draft.move(RolloutEvent.ALL_BACK, "rollout.undone", text)
        case RolloutState.HELD | RolloutState.DONE | RolloutState.UNDONE | RolloutState.CANCELLED:
            pass
