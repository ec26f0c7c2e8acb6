"""The life of a Job, and of its result: two tables. Pure; no other file decides a state.

1. SUBMITTED waits for a person, APPROVED for room. DISPATCHED: its folder is whole, its run is
   wanted. RUNNING: the SuperLink has the run. FINISHED is the end, with an Outcome.
2. A run that ended without a result is wanted again, as a new attempt, after a delay.
3. A person's stop ends a Job at once, in every state but FINISHED; what its run still does is
   looked at no more, but for the weights of its last closed Round.
4. The result has a life of its own, because it takes tens of seconds and can be refused: weights
   to a checkpoint (KEEPING), checkpoint to the gate (RELEASING), SETTLED.
5. Every state has a row for RESTARTED: the hub reads the row and goes on; every effect may be
   repeated. A pair that is not in its table is a bug.
"""

from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

from cloud_hub.training.job import ATTEMPTS_MAX, JobState, Outcome
from shared.errors import RefusedError

RETRY_S_MIN = 2.0
RETRY_S_MAX = 60.0


class Event(StrEnum):
    """What happens to a Job."""

    APPROVED = "approved"  # A person said yes
    DISPATCHED = "dispatched"  # There is room, and its folder is whole
    RUN_SEEN = "run_seen"  # The SuperLink has its run
    RUN_LOST = "run_lost"  # The run ended, and there is no result
    GAVE_UP = "gave_up"  # ... for the last time that is allowed
    COMPLETED = "completed"  # The result says so
    FAILED = "failed"  # The result says so, or nothing can come of the Job
    STOPPED = "stopped"  # A person said so
    RESTARTED = "restarted"  # The hub's process has


class Effect(StrEnum):
    """What is to be done besides; written into the same row, carried out from it."""

    WANT_RUN = "want_run"
    WANT_NEXT_ATTEMPT = "want_next_attempt"  # After retry_delay_ms
    LET_GO = "let_go"  # Of devices and of the run; its result is looked at


@dataclass(frozen=True, slots=True)
class Step:
    """Where an event leads."""

    state: JobState
    effect: Effect | None = None
    outcome: Outcome | None = None


_SUBMITTED, _APPROVED = JobState.SUBMITTED, JobState.APPROVED
_DISPATCHED, _RUNNING, _FINISHED = JobState.DISPATCHED, JobState.RUNNING, JobState.FINISHED
_COMPLETED = Step(_FINISHED, Effect.LET_GO, Outcome.COMPLETED)
_FAILED = Step(_FINISHED, Effect.LET_GO, Outcome.FAILED)
_STOPPED = Step(_FINISHED, Effect.LET_GO, Outcome.STOPPED)

TRANSITIONS = MappingProxyType(
    {
        (_SUBMITTED, Event.APPROVED): Step(_APPROVED),
        (_SUBMITTED, Event.STOPPED): _STOPPED,
        (_SUBMITTED, Event.RESTARTED): Step(_SUBMITTED),
        (_APPROVED, Event.DISPATCHED): Step(_DISPATCHED, Effect.WANT_RUN),
        # Its checkpoint or all of its devices went away while it waited.
        (_APPROVED, Event.FAILED): _FAILED,
        (_APPROVED, Event.STOPPED): _STOPPED,
        (_APPROVED, Event.RESTARTED): Step(_APPROVED),
        (_DISPATCHED, Event.RUN_SEEN): Step(_RUNNING),
        # A short run begins and ends between two looks.
        (_DISPATCHED, Event.RUN_LOST): Step(_DISPATCHED, Effect.WANT_NEXT_ATTEMPT),
        (_DISPATCHED, Event.GAVE_UP): _FAILED,
        (_DISPATCHED, Event.COMPLETED): _COMPLETED,
        (_DISPATCHED, Event.FAILED): _FAILED,
        (_DISPATCHED, Event.STOPPED): _STOPPED,
        (_DISPATCHED, Event.RESTARTED): Step(_DISPATCHED),
        (_RUNNING, Event.RUN_LOST): Step(_DISPATCHED, Effect.WANT_NEXT_ATTEMPT),
        (_RUNNING, Event.GAVE_UP): _FAILED,
        (_RUNNING, Event.COMPLETED): _COMPLETED,
        (_RUNNING, Event.FAILED): _FAILED,
        (_RUNNING, Event.STOPPED): _STOPPED,
        (_RUNNING, Event.RESTARTED): Step(_RUNNING),
        (_FINISHED, Event.RESTARTED): Step(_FINISHED),
    }
)


class ResultState(StrEnum):
    """Where what came of a Job stands."""

    AWAITED = "awaited"
    KEEPING = "keeping"
    RELEASING = "releasing"
    SETTLED = "settled"


class ResultEvent(StrEnum):
    """What happens to a result."""

    JOB_ENDED = "job_ended"
    KEPT = "kept"  # The weights are a checkpoint, and that is all that was asked
    KEPT_FOR_RELEASE = "kept_for_release"
    NOTHING = "nothing"  # No Round was closed
    RELEASED = "released"
    REFUSED = "refused"  # By the gate
    UNUSABLE = "unusable"  # The weights or what was made of them cannot be used; trying is no use
    RESTARTED = "restarted"


_R = ResultState
RESULT_TRANSITIONS = MappingProxyType(
    {
        (_R.AWAITED, ResultEvent.JOB_ENDED): _R.KEEPING,
        (_R.AWAITED, ResultEvent.RESTARTED): _R.AWAITED,
        (_R.KEEPING, ResultEvent.KEPT): _R.SETTLED,
        (_R.KEEPING, ResultEvent.KEPT_FOR_RELEASE): _R.RELEASING,
        (_R.KEEPING, ResultEvent.NOTHING): _R.SETTLED,
        (_R.KEEPING, ResultEvent.UNUSABLE): _R.SETTLED,
        (_R.KEEPING, ResultEvent.RESTARTED): _R.KEEPING,
        (_R.RELEASING, ResultEvent.RELEASED): _R.SETTLED,
        (_R.RELEASING, ResultEvent.REFUSED): _R.SETTLED,
        (_R.RELEASING, ResultEvent.UNUSABLE): _R.SETTLED,
        (_R.RELEASING, ResultEvent.RESTARTED): _R.RELEASING,
        (_R.SETTLED, ResultEvent.RESTARTED): _R.SETTLED,
    }
)

LIVE = (JobState.DISPATCHED, JobState.RUNNING)  # Devices and the SuperLink work on it


def next_step(state: JobState, event: Event) -> Step:
    """Return where `event` leads. The pair is in the table."""
    return TRANSITIONS[state, event]


def next_result(state: ResultState, event: ResultEvent) -> ResultState:
    """Return where `event` leads a result. The pair is in the table."""
    return RESULT_TRANSITIONS[state, event]


def require_step(state: JobState, event: Event, *, job_id: str) -> Step:
    """Return where a person's wish leads.

    Raises RefusedError `job.cannot_approve`, `job.cannot_stop` where the table has no row for it.
    """
    step = TRANSITIONS.get((state, event))
    if step is None:
        verb = {Event.APPROVED: "approve", Event.STOPPED: "stop"}[event]
        raise RefusedError(
            f"job.cannot_{verb}",
            f"Job {job_id} is {state}; there is nothing to {verb}.",
            remedy="Look at the Job to see how it stands.",
        )
    return step


def lost_event(attempt: int) -> Event:
    """Return what a run that ended without a result means, after so many attempts."""
    return Event.RUN_LOST if attempt < ATTEMPTS_MAX else Event.GAVE_UP


def retry_delay_ms(attempt: int) -> int:
    """Return how long to wait before `attempt` (from 2 on): doubling, with a ceiling."""
    # The exponent is bounded, so that the power is.
    return int(1000 * min(RETRY_S_MIN * 2 ** min(attempt - 2, 16), RETRY_S_MAX))
