"""JobRecord: a Job with what only the hub needs to know of it, and how events change it. Pure.

What must not live here: which state an event leads to (lifecycle.py).
"""

from dataclasses import dataclass, replace

from cloud_hub.training.job import Job
from cloud_hub.training.job_folder import JobEvent
from cloud_hub.training.lifecycle import (
    Effect,
    Event,
    ResultEvent,
    ResultState,
    Step,
    next_result,
    next_step,
    retry_delay_ms,
)

TEXT_CHARS_MAX = 2000  # What a JobEvent holds

# code of the hub's own events: what their text says
HUB_EVENTS = {
    "job.submitted": "who asked, for what; a person must approve it",
    "job.approved": "who approved; or who asked, where no approval is needed",
    "job.dispatched": "how many devices it was planned with",
    "job.running": "which attempt",
    "job.run_lost": "why a run ended without a result",
    "job.finished": "the outcome and why",
    "job.kept": "which checkpoint its weights became",
    "job.released": "which release it became",
    "gate.refused": "why the gate refused what came of it",
    "job.result_unusable": "why nothing can be made of what came of it",
}


@dataclass(frozen=True, slots=True)
class JobRecord:
    """One row of the table of Jobs."""

    job: Job
    hub_id: str  # The hub on whose disk its folder lies
    result_state: ResultState = ResultState.AWAITED
    fleet_host: str = ""  # Empty: the host by which a device joined
    fleet_port: int | None = None  # None: devices are not told yet
    until_ms: int = 0  # Until when devices may take part, unless it is put off
    retry_ms: int = 0  # No run is wanted before
    events_read: int = 0  # The ServerApp's number of the last event that was taken
    events_count: int = 0  # Ever, the hub's own included
    is_cleaned: bool = False  # Nothing of its folder is needed any more


def advance(
    record: JobRecord,
    event: Event,
    *,
    code: str,
    text: str,
    now_ms: int,
    rounds_done: int | None = None,
) -> JobRecord:
    """Return a Job after an event of its life. The pair is in the table."""
    step = next_step(record.job.state, event)
    job = replace(
        record.job,
        state=step.state,
        outcome=step.outcome,
        code=code,
        text=text[:TEXT_CHARS_MAX],
        changed_ms=now_ms,
        rounds_done=record.job.rounds_done if rounds_done is None else rounds_done,
    )
    return _carry_out(replace(record, job=job), step, now_ms=now_ms)


def advance_result(
    record: JobRecord, event: ResultEvent, *, code: str, text: str, now_ms: int
) -> JobRecord:
    """Return a Job after an event of its result; `text` is added to why the Job ended."""
    told = f"{record.job.text} {text}".strip()[:TEXT_CHARS_MAX]
    job = replace(record.job, code=code or record.job.code, text=told, changed_ms=now_ms)
    return replace(record, job=job, result_state=next_result(record.result_state, event))


def hub_event(code: str, text: str, *, now_ms: int, round_number: int = 0) -> JobEvent:
    """Return an event of the hub itself; its number is given when it is stored."""
    assert code in HUB_EVENTS
    return JobEvent(
        number=1, at_ms=now_ms, code=code, round=round_number, text=text[:TEXT_CHARS_MAX]
    )


def _carry_out(record: JobRecord, step: Step, *, now_ms: int) -> JobRecord:
    match step.effect:
        case Effect.WANT_RUN:
            return replace(record, job=replace(record.job, attempt=1), retry_ms=0)
        case Effect.WANT_NEXT_ATTEMPT:
            attempt = record.job.attempt + 1
            job = replace(record.job, attempt=attempt)
            return replace(record, job=job, retry_ms=now_ms + retry_delay_ms(attempt))
        case Effect.LET_GO:
            state = next_result(record.result_state, ResultEvent.JOB_ENDED)
            return replace(record, result_state=state, fleet_port=None)
        case None:
            return record
