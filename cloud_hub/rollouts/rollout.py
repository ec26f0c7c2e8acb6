"""Rollout: what one is, and the two state tables that say how it and its devices may change. Pure.

1. A rollout's state changes only by a row of TRANSITIONS, a device's only by a row of
   DEVICE_TRANSITIONS. A pair that is not there is a bug, except for what a person asks (hold,
   resume, undo, cancel): that is refused with the reason.
2. State lives in the database only. A hub that is killed and started again ticks on from the same
   rows; a restart is no event.
3. A device is UPDATED only with proof: its Report names the release, and a verified receipt of
   that release stands in it (receipts.py).
4. Silence is UNKNOWN: past its deadline a device is neither updated nor failed, and stays on the
   list until it answers or a person excuses it.
5. FAILED is what the device said last, but a device that failed once in a rollout counts as a
   failure of it (failures_count), even if it later proves the release.
6. An excused device (a person resumed over it) and a removed one (revoked) count nowhere.
7. Sending back never asks a device that the rollout did not move. A device that ran nothing before
   and has settled the release keeps it: a device without a model sees nothing at all.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

from cloud_hub.rollouts.order import RolloutOrder
from shared.errors import RefusedError
from shared.ids import DeviceId, ModelName, RolloutId


class RolloutState(StrEnum):
    """Where a rollout stands."""

    RUNNING = "running"
    HELD = "held"  # Nobody else is moved; what is under way goes on
    UNDOING = "undoing"  # Every device it moved is being sent back
    UNDONE = "undone"
    DONE = "done"
    CANCELLED = "cancelled"  # Stopped where it stood: who proved it keeps it, others go back


class RolloutEvent(StrEnum):
    """What moves a rollout."""

    WAVE_PASSED = "wave_passed"
    LAST_WAVE_PASSED = "last_wave_passed"
    WAVE_HELD = "wave_held"  # Silent, short of success, low traffic, or empty
    WAVE_ANSWERED = "wave_answered"  # What the wave was held for is over
    WAVE_FAILED = "wave_failed"
    ALL_BACK = "all_back"
    HOLD = "hold"  # These four a person asks
    RESUME = "resume"
    UNDO = "undo"
    CANCEL = "cancel"


_R, _E = RolloutState, RolloutEvent
TRANSITIONS: Mapping[tuple[RolloutState, RolloutEvent], RolloutState] = MappingProxyType(
    {
        (_R.RUNNING, _E.WAVE_PASSED): _R.RUNNING,
        (_R.RUNNING, _E.LAST_WAVE_PASSED): _R.DONE,
        (_R.RUNNING, _E.WAVE_HELD): _R.HELD,
        (_R.RUNNING, _E.WAVE_FAILED): _R.UNDOING,
        (_R.RUNNING, _E.HOLD): _R.HELD,
        (_R.RUNNING, _E.UNDO): _R.UNDOING,
        (_R.RUNNING, _E.CANCEL): _R.CANCELLED,
        # A person's hold takes the place of the judge's: it does not end by itself.
        (_R.HELD, _E.HOLD): _R.HELD,
        (_R.HELD, _E.WAVE_ANSWERED): _R.RUNNING,
        # A held rollout still guards those it has moved.
        (_R.HELD, _E.WAVE_FAILED): _R.UNDOING,
        (_R.HELD, _E.RESUME): _R.RUNNING,
        (_R.HELD, _E.UNDO): _R.UNDOING,
        (_R.HELD, _E.CANCEL): _R.CANCELLED,
        (_R.UNDOING, _E.ALL_BACK): _R.UNDONE,
        # Nobody waits for the last answers any more; the Targets stand.
        (_R.UNDOING, _E.CANCEL): _R.CANCELLED,
        # Second thoughts.
        (_R.DONE, _E.UNDO): _R.UNDOING,
        (_R.CANCELLED, _E.UNDO): _R.UNDOING,
    }
)
UNFINISHED = frozenset({_R.RUNNING, _R.HELD, _R.UNDOING})


class DeviceState(StrEnum):
    """Where one device stands in one rollout."""

    WAITING = "waiting"  # Its wave has not come
    TARGETED = "targeted"  # Its Target names the release; nothing heard yet
    UPDATING = "updating"
    UPDATED = "updated"  # Proved
    FAILED = "failed"
    UNKNOWN = "unknown"  # Silent past its deadline
    UNDOING = "undoing"  # Its Target names what it ran before; not heard back yet
    UNDONE = "undone"
    REMOVED = "removed"  # Revoked


class DeviceEvent(StrEnum):
    """What moves a device within a rollout."""

    TARGETED = "targeted"
    PROGRESSED = "progressed"
    PROVED = "proved"
    LOST = "lost"  # It does not run, or cannot prove, what it had proved
    FAILED = "failed"
    FELL_SILENT = "fell_silent"
    SENT_BACK = "sent_back"
    BACK = "back"
    KEPT = "kept"  # It had nothing to go back to, and settled the release meanwhile
    REMOVED = "removed"


_D, _V = DeviceState, DeviceEvent
DEVICE_TRANSITIONS: Mapping[tuple[DeviceState, DeviceEvent], DeviceState] = MappingProxyType(
    {
        (_D.WAITING, _V.TARGETED): _D.TARGETED,
        (_D.WAITING, _V.REMOVED): _D.REMOVED,
        (_D.TARGETED, _V.PROGRESSED): _D.UPDATING,
        (_D.TARGETED, _V.PROVED): _D.UPDATED,
        (_D.TARGETED, _V.FAILED): _D.FAILED,
        (_D.TARGETED, _V.FELL_SILENT): _D.UNKNOWN,
        (_D.TARGETED, _V.SENT_BACK): _D.UNDOING,
        (_D.TARGETED, _V.REMOVED): _D.REMOVED,
        (_D.UPDATING, _V.PROVED): _D.UPDATED,
        (_D.UPDATING, _V.FAILED): _D.FAILED,
        (_D.UPDATING, _V.FELL_SILENT): _D.UNKNOWN,
        (_D.UPDATING, _V.SENT_BACK): _D.UNDOING,
        (_D.UPDATING, _V.REMOVED): _D.REMOVED,
        (_D.UPDATED, _V.LOST): _D.TARGETED,
        (_D.UPDATED, _V.FAILED): _D.FAILED,
        (_D.UPDATED, _V.SENT_BACK): _D.UNDOING,
        (_D.UPDATED, _V.REMOVED): _D.REMOVED,
        (_D.FAILED, _V.PROVED): _D.UPDATED,
        (_D.FAILED, _V.SENT_BACK): _D.UNDOING,
        (_D.FAILED, _V.REMOVED): _D.REMOVED,
        # Resumed: it gets a new deadline.
        (_D.UNKNOWN, _V.TARGETED): _D.TARGETED,
        (_D.UNKNOWN, _V.PROVED): _D.UPDATED,
        (_D.UNKNOWN, _V.FAILED): _D.FAILED,
        (_D.UNKNOWN, _V.SENT_BACK): _D.UNDOING,
        (_D.UNKNOWN, _V.REMOVED): _D.REMOVED,
        # Written down once; a device that is being sent back stays so until it answers.
        (_D.UNDOING, _V.FELL_SILENT): _D.UNDOING,
        (_D.UNDOING, _V.BACK): _D.UNDONE,
        (_D.UNDOING, _V.KEPT): _D.UPDATED,
        (_D.UNDOING, _V.REMOVED): _D.REMOVED,
    }
)
PENDING = frozenset({_D.TARGETED, _D.UPDATING})  # Under way, and not past the deadline
MOVED = PENDING | {_D.UPDATED, _D.FAILED, _D.UNKNOWN}  # Its Target names the release
OPEN = PENDING | {_D.UNKNOWN, _D.UNDOING}  # Some answer is still awaited


@dataclass(frozen=True, slots=True)
class ReleaseRef:
    """One release, by name and by identity."""

    version: int
    manifest_digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceFailure:
    """What a device said of why it did not keep the release."""

    code: str
    text: str
    undo_ms: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutDevice:
    """One device's row in one rollout."""

    device_id: DeviceId
    position: int  # In the order of the whole rollout, from 0
    wave: int  # Index, from 0
    state: DeviceState = DeviceState.WAITING
    since_ms: int = 0  # When it entered the state
    targeted_ms: int | None = None  # When its Target was last made; its deadline counts from there
    previous: ReleaseRef | None = None  # What it ran before; None is nothing
    failure: DeviceFailure | None = None  # Kept when it is sent back: `why` needs it
    failures_count: int = 0
    is_excused: bool = False
    is_silence_noted: bool = False  # While being sent back


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollout:
    """One rollout's own row."""

    rollout_id: RolloutId
    order: RolloutOrder
    release: ReleaseRef
    state: RolloutState
    wave: int  # Index of the wave under way, from 0
    wave_limits: tuple[int, ...]  # How many devices may have the release by the end of each
    wave_good_ms: int | None = None  # Since when the wave has been good without a break
    hold_code: str = ""  # Why it is held: "wave.silent", …; "person" if one asked
    answers_count: int = 0  # How often a hold of this wave has ended by itself
    created_ms: int
    created_by: str
    updated_ms: int

    @property
    def model(self) -> ModelName:
        """Return the model whose release this is."""
        return self.order.model

    @property
    def is_last_wave(self) -> bool:
        """Whether no wave follows the one under way."""
        return self.wave >= len(self.wave_limits) - 1


def next_state(state: RolloutState, event: RolloutEvent) -> RolloutState:
    """Return where the rollout goes; a pair that is not in the table is our own bug."""
    assert (state, event) in TRANSITIONS, f"rollout: {event} in state {state}"
    return TRANSITIONS[state, event]


def next_device_state(state: DeviceState, event: DeviceEvent) -> DeviceState:
    """Return where the device goes; a pair that is not in the table is our own bug."""
    assert (state, event) in DEVICE_TRANSITIONS, f"device: {event} in state {state}"
    return DEVICE_TRANSITIONS[state, event]


def refuse_unless_possible(rollout: Rollout, event: RolloutEvent) -> None:
    """Raise RefusedError `rollout.cannot_<event>` if the state does not allow what is asked."""
    if (rollout.state, event) in TRANSITIONS:
        return
    possible = ", ".join(sorted(s for s, e in TRANSITIONS if e is event))
    raise RefusedError(
        f"rollout.cannot_{event}",
        f"Rollout {rollout.rollout_id} is {rollout.state}.",
        remedy=f"Only a rollout that is one of {possible} can take this: {event}.",
    )


def draw() -> str:
    """Return both tables as Mermaid state diagrams; the README's pictures are exactly these."""
    tables: tuple[Mapping[tuple[StrEnum, StrEnum], StrEnum], ...] = (
        {(state, event): after for (state, event), after in TRANSITIONS.items()},
        {(state, event): after for (state, event), after in DEVICE_TRANSITIONS.items()},
    )
    drawn = []
    for first, table in zip((RolloutState.RUNNING, DeviceState.WAITING), tables, strict=True):
        arrows = [f"    {state} --> {after}: {event}" for (state, event), after in table.items()]
        drawn.append("\n".join(["stateDiagram-v2", f"    [*] --> {first}", *arrows]))
    return "\n```\n\n```mermaid\n".join(drawn) + "\n"
