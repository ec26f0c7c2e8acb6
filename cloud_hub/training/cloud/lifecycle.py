"""The lives of a cloud Job and of its runs: two tables. Pure; no other file decides a state.

1. A run is QUEUED until a hub claims it, RUNNING while its trainer works, FINISHED with
   an Outcome. A trainer that died without a word puts its run back in the queue; the next attempt
   goes on from the state in the run's folder.
2. A trainer that refused is not tried again: it said that this would not help.
3. A Job is RUNNING from its first claimed run to the end of its last one.
4. Every state has a row for RESTARTED: a hub reads the rows and goes on; every effect may be
   repeated. A pair that is not in its table is a bug.
"""

from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

from cloud_hub.training.cloud.cloud_job import CloudJobState, EndReason
from cloud_hub.training.job import Outcome
from shared.errors import RefusedError

RETRY_S_MIN = 1.0
RETRY_S_MAX = 300.0


class RunEvent(StrEnum):
    """What happens to a run."""

    CLAIMED = "claimed"  # A hub has it, and starts it
    DIED = "died"  # Its trainer ended without a word; it may try again
    GAVE_UP = "gave_up"  # ... for the last time that is allowed
    COMPLETED = "completed"  # The result says so
    REFUSED = "refused"  # The trainer said so, or its folder cannot be made
    TIMED_OUT = "timed_out"
    STOPPED = "stopped"  # By a person
    PRUNED = "pruned"  # By the search
    RESTARTED = "restarted"  # The hub's process has, or another hub took it over


class JobEvent(StrEnum):
    """What happens to a Job."""

    STARTED = "started"  # Its first run was claimed
    COMPLETED = "completed"
    FAILED = "failed"
    STOPPED = "stopped"
    RESTARTED = "restarted"


@dataclass(frozen=True, slots=True)
class Step:
    """Where an event leads."""

    state: CloudJobState
    outcome: Outcome | None = None
    is_retry: bool = False  # To be claimed again, after retry_delay_ms


_QUEUED, _RUNNING = CloudJobState.QUEUED, CloudJobState.RUNNING
_FINISHED = CloudJobState.FINISHED
_COMPLETED = Step(_FINISHED, Outcome.COMPLETED)
_FAILED = Step(_FINISHED, Outcome.FAILED)
_STOPPED = Step(_FINISHED, Outcome.STOPPED)

RUN_TRANSITIONS = MappingProxyType(
    {
        (_QUEUED, RunEvent.CLAIMED): Step(_RUNNING),
        (_QUEUED, RunEvent.REFUSED): _FAILED,
        (_QUEUED, RunEvent.STOPPED): _STOPPED,
        # Between two attempts
        (_QUEUED, RunEvent.PRUNED): _STOPPED,
        (_QUEUED, RunEvent.TIMED_OUT): _FAILED,
        (_QUEUED, RunEvent.RESTARTED): Step(_QUEUED),
        (_RUNNING, RunEvent.DIED): Step(_QUEUED, is_retry=True),
        (_RUNNING, RunEvent.GAVE_UP): _FAILED,
        (_RUNNING, RunEvent.COMPLETED): _COMPLETED,
        (_RUNNING, RunEvent.REFUSED): _FAILED,
        (_RUNNING, RunEvent.TIMED_OUT): _FAILED,
        (_RUNNING, RunEvent.STOPPED): _STOPPED,
        (_RUNNING, RunEvent.PRUNED): _STOPPED,
        # Its trainer is found again, or started again in the same folder.
        (_RUNNING, RunEvent.RESTARTED): Step(_RUNNING),
        (_FINISHED, RunEvent.RESTARTED): Step(_FINISHED),
    }
)

JOB_TRANSITIONS = MappingProxyType(
    {
        (_QUEUED, JobEvent.STARTED): Step(_RUNNING),
        (_QUEUED, JobEvent.FAILED): _FAILED,
        (_QUEUED, JobEvent.STOPPED): _STOPPED,
        (_QUEUED, JobEvent.RESTARTED): Step(_QUEUED),
        (_RUNNING, JobEvent.COMPLETED): _COMPLETED,
        (_RUNNING, JobEvent.FAILED): _FAILED,
        (_RUNNING, JobEvent.STOPPED): _STOPPED,
        (_RUNNING, JobEvent.RESTARTED): Step(_RUNNING),
        (_FINISHED, JobEvent.RESTARTED): Step(_FINISHED),
    }
)

# What a run's end means when it was asked to end.
ENDED_BY = MappingProxyType(
    {
        EndReason.STOP: RunEvent.STOPPED,
        EndReason.PRUNE: RunEvent.PRUNED,
        EndReason.TIMEOUT: RunEvent.TIMED_OUT,
    }
)


def next_run_step(state: CloudJobState, event: RunEvent) -> Step:
    """Return where `event` leads a run. The pair is in the table."""
    return RUN_TRANSITIONS[state, event]


def next_job_step(state: CloudJobState, event: JobEvent) -> Step:
    """Return where `event` leads a Job. The pair is in the table."""
    return JOB_TRANSITIONS[state, event]


def require_stoppable(state: CloudJobState, *, job_id: str) -> None:
    """Return if a person may stop a Job. Raises RefusedError `job.cannot_stop`."""
    if (state, JobEvent.STOPPED) not in JOB_TRANSITIONS:
        raise RefusedError(
            "job.cannot_stop",
            f"Job {job_id} is {state}; there is nothing to stop.",
            remedy="Look at the Job to see how it stands.",
        )


def death_event(deaths: int, *, retries_max: int) -> RunEvent:
    """Return what it means that a trainer died for the `deaths`th time."""
    return RunEvent.DIED if deaths <= retries_max else RunEvent.GAVE_UP


def retry_delay_ms(deaths: int) -> int:
    """Return how long to wait after so many deaths: doubling, with a ceiling."""
    # The exponent is bounded, so that the power is.
    return int(1000 * min(RETRY_S_MIN * 2 ** min(deaths - 1, 16), RETRY_S_MAX))
