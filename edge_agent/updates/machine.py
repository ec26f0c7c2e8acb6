"""One model's update on one device: states, events, and THE table.

1. The states are shared.wire.report.UpdateState; nothing but this table decides the next one.
2. A step is written to the journal before its effect is carried out; every effect may be repeated.
3. Every state has a row for RESTARTED and a row for LOST: power may go at any instant, and so may
   a file.
4. A pair that is not in the table is a bug of ours: `advance` raises and changes nothing.

What must not live here: files, sessions, time.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

from shared.errors import UnavailableError
from shared.wire.report import UpdateState

_S = UpdateState


class Event(StrEnum):
    """What can happen to one model's update."""

    TARGETED = "targeted"  # The Target names a release that does not run here
    RETARGETED = "retargeted"  # It names yet another one while the attempt has not begun to serve
    WITHDRAWN = "withdrawn"  # It names the settled release again, or no release of this model
    FETCHED = "fetched"  # Every file is on the disk and verified
    REJECTED = "rejected"  # The files are not what was signed, not understood, or do not fit
    PROVED = "proved"  # Loaded, and its golden outputs reproduced
    PROOF_FAILED = "proof_failed"
    UNCONFIRMED = "unconfirmed"  # What equal devices chose does not hold here: bring every variant
    SETTLED = "settled"  # The trial is over and the new release is no worse
    WORSE = "worse"  # The trial says no
    UNDONE = "undone"  # The settled release serves again and has proved itself again
    RESTARTED = "restarted"  # The process began again in this state
    RESTARTED_ALONE = "restarted_alone"  # Likewise, in a trial with nothing to go back to
    GAVE_UP = "gave_up"  # Restarted too often in one attempt
    REFITTED = "refitted"  # Changed limits ask for another variant of the settled release
    LOST = "lost"  # The settled slot does not hold what it held
    ASKED_AGAIN = "asked_again"  # A Target of another rollout names the settled release
    ATTESTED = "attested"  # The settled release has proved itself for that rollout


class Effect(StrEnum):
    """What the updater does in the new state; each may be done twice with the same result."""

    REST = "rest"  # Nothing
    FETCH = "fetch"  # Bring the release into the slot that is not settled
    PROVE = "prove"  # Measure its variants, load the chosen one and run its golden inputs
    TRY = "try"  # Put it on with the settled release beside it, and watch
    KEEP = "keep"  # Run nothing beside it any more
    GO_BACK = "go_back"  # Put the settled release on again and prove it again
    ATTEST = "attest"  # Prove the settled release for another rollout


@dataclass(frozen=True, slots=True)
class Step:
    """One arrow."""

    state: UpdateState
    effect: Effect


_FETCH = Step(_S.FETCHING, Effect.FETCH)
_PROVE = Step(_S.STAGED, Effect.PROVE)
_GO_BACK = Step(_S.UNDOING, Effect.GO_BACK)
_IDLE = Step(_S.IDLE, Effect.REST)
_REFUSED = Step(_S.REFUSED, Effect.REST)

TABLE: Mapping[tuple[UpdateState, Event], Step] = MappingProxyType(
    {
        (_S.IDLE, Event.TARGETED): _FETCH,
        (_S.IDLE, Event.REFITTED): _FETCH,
        (_S.IDLE, Event.ASKED_AGAIN): Step(_S.IDLE, Effect.ATTEST),
        (_S.IDLE, Event.ATTESTED): _IDLE,
        (_S.IDLE, Event.RESTARTED): _IDLE,
        (_S.IDLE, Event.LOST): _IDLE,
        #
        (_S.FETCHING, Event.FETCHED): _PROVE,
        (_S.FETCHING, Event.REJECTED): _REFUSED,
        (_S.FETCHING, Event.RETARGETED): _FETCH,
        (_S.FETCHING, Event.WITHDRAWN): _IDLE,
        (_S.FETCHING, Event.RESTARTED): _FETCH,  # What is there is not fetched again.
        (_S.FETCHING, Event.GAVE_UP): _REFUSED,
        (_S.FETCHING, Event.LOST): _FETCH,
        #
        (_S.STAGED, Event.PROVED): Step(_S.TRIAL, Effect.TRY),
        (_S.STAGED, Event.PROOF_FAILED): _REFUSED,
        (_S.STAGED, Event.UNCONFIRMED): _FETCH,
        (_S.STAGED, Event.RETARGETED): _FETCH,
        (_S.STAGED, Event.WITHDRAWN): _IDLE,
        (_S.STAGED, Event.RESTARTED): _PROVE,
        (_S.STAGED, Event.GAVE_UP): _REFUSED,  # Loading it may be what kills us.
        (_S.STAGED, Event.LOST): _PROVE,
        #
        (_S.TRIAL, Event.SETTLED): Step(_S.IDLE, Effect.KEEP),
        (_S.TRIAL, Event.WORSE): _GO_BACK,
        (_S.TRIAL, Event.WITHDRAWN): _GO_BACK,
        # A trial that dies is a failed trial: the new release may be what killed us.
        (_S.TRIAL, Event.RESTARTED): _GO_BACK,
        # With nothing to go back to, going back would leave the device blind: prove, try again.
        (_S.TRIAL, Event.RESTARTED_ALONE): _PROVE,
        (_S.TRIAL, Event.GAVE_UP): _GO_BACK,
        (_S.TRIAL, Event.LOST): Step(_S.TRIAL, Effect.TRY),
        #
        (_S.UNDOING, Event.UNDONE): _IDLE,
        (_S.UNDOING, Event.RESTARTED): _GO_BACK,
        (_S.UNDOING, Event.GAVE_UP): _IDLE,
        (_S.UNDOING, Event.LOST): _GO_BACK,
        #
        (_S.REFUSED, Event.TARGETED): _FETCH,
        (_S.REFUSED, Event.WITHDRAWN): _IDLE,
        (_S.REFUSED, Event.RESTARTED): _REFUSED,
        (_S.REFUSED, Event.LOST): _REFUSED,
    }
)


def advance(state: UpdateState, event: Event) -> Step:
    """Return the step for `event` in `state`. Raises UnavailableError `update.bug`."""
    step = TABLE.get((state, event))
    if step is None:
        raise UnavailableError("update.bug", f"No row for {event} in {state}: this is a bug.")
    return step


def draw() -> str:
    """Return the table as a Mermaid state diagram; the README's picture is exactly this."""
    lines = ["stateDiagram-v2", "    [*] --> idle"]
    for (state, event), step in TABLE.items():
        if event is not Event.LOST:  # Changes what is settled, never the state.
            lines.append(f"    {state} --> {step.state}: {event}")
    return "\n".join(lines) + "\n"
