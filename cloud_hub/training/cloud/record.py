"""JobRecord and RunRecord: a Job, a run, with what only hubs need to know of them. Pure.

What must not live here: which state an event leads to (lifecycle.py).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from cloud_hub.training.cloud.cloud_job import TEXT_CHARS_MAX, CloudJob, EndReason, Run
from cloud_hub.training.cloud.lifecycle import (
    JobEvent,
    RunEvent,
    next_job_step,
    next_run_step,
    retry_delay_ms,
)
from cloud_hub.training.cloud.order import ExecutorName
from cloud_hub.training.lifecycle import ResultEvent, next_result
from shared.model.network import NetworkSpec
from shared.model.spec import ModelSpec

_WAITS = " Its result waits: "


@dataclass(frozen=True, slots=True)
class JobRecord:
    """One row of the table of Jobs, but for who settles its result."""

    job: CloudJob
    spec: ModelSpec
    network: NetworkSpec
    place_id: str
    is_cleaned: bool = False


@dataclass(frozen=True, slots=True)
class RunRecord:
    """One row of the table of runs."""

    run: Run
    executor: ExecutorName
    processes: int
    place_id: str
    end_asked_ms: int | None = None
    events_read: int = 0
    spent_ms: int = 0
    attempt_ms: int | None = None
    retry_ms: int = 0
    holder: str | None = None
    lease_until_ms: int = 0
    advice: Mapping[str, float | str] = field(default_factory=dict)

    def wall_ms(self, now_ms: int) -> int:
        """Return how long all its attempts have taken until now."""
        running = now_ms - self.attempt_ms if self.attempt_ms is not None else 0
        return self.spent_ms + max(0, running)


def advance_job(
    record: JobRecord, event: JobEvent, *, code: str, text: str, now_ms: int
) -> JobRecord:
    """Return a Job after an event of its life. The pair is in the table."""
    step = next_job_step(record.job.state, event)
    job = replace(
        record.job,
        state=step.state,
        outcome=step.outcome,
        code=code,
        text=text[:TEXT_CHARS_MAX],
        changed_ms=now_ms,
    )
    if event is JobEvent.STARTED:
        job = replace(job, started_ms=now_ms)
    if step.outcome is not None:
        job = replace(job, finished_ms=now_ms, is_stopping=False)
        state = next_result(job.result_state, ResultEvent.JOB_ENDED)
        job = replace(job, result_state=state)
    return replace(record, job=job)


def advance_result(
    record: JobRecord, event: ResultEvent, *, code: str, text: str, now_ms: int
) -> JobRecord:
    """Return a Job after an event of its result; `text` is added to why the Job ended."""
    told = f"{_without_delay(record.job.text)} {text}".strip()[:TEXT_CHARS_MAX]
    state = next_result(record.job.result_state, event)
    job = replace(
        record.job,
        code=code or record.job.code,
        text=told,
        changed_ms=now_ms,
        result_state=state,
    )
    return replace(record, job=job)


def delay_result(record: JobRecord, text: str, *, now_ms: int) -> JobRecord:
    """Return a Job that says what its result waits for; the next event takes it back."""
    told = f"{_without_delay(record.job.text)}{_WAITS}{text}".strip()[:TEXT_CHARS_MAX]
    if told == record.job.text:
        return record
    return replace(record, job=replace(record.job, text=told, changed_ms=now_ms))


def advance_run(
    record: RunRecord, event: RunEvent, *, code: str, text: str, now_ms: int
) -> RunRecord:
    """Return a run after an event of its life. The pair is in the table."""
    step = next_run_step(record.run.state, event)
    run = replace(
        record.run,
        state=step.state,
        outcome=step.outcome,
        code=code,
        text=text[:TEXT_CHARS_MAX],
    )
    if event is RunEvent.CLAIMED:
        started_ms = run.started_ms if run.started_ms is not None else now_ms
        run = replace(run, attempt=run.attempt + 1, started_ms=started_ms)
        return replace(record, run=run, attempt_ms=now_ms)
    if event is RunEvent.RESTARTED:
        return replace(record, run=run)
    # Its attempt is over
    deaths = run.deaths + (event in (RunEvent.DIED, RunEvent.GAVE_UP))
    run = replace(run, deaths=deaths)
    record = replace(
        record, spent_ms=record.wall_ms(now_ms), attempt_ms=None, holder=None, lease_until_ms=0
    )
    if step.is_retry:
        return replace(record, run=run, retry_ms=now_ms + retry_delay_ms(deaths))
    return replace(record, run=replace(run, finished_ms=now_ms))


def ask_end(record: RunRecord, reason: EndReason, *, now_ms: int) -> RunRecord:
    """Return a run that is to end; the first reason stays, but a person's wish beats them all."""
    known = record.run.end_reason
    if known is not None and (reason is not EndReason.STOP or known is EndReason.STOP):
        return record
    asked_ms = record.end_asked_ms if record.end_asked_ms is not None else now_ms
    return replace(record, run=replace(record.run, end_reason=reason), end_asked_ms=asked_ms)


def _without_delay(text: str) -> str:
    return text.partition(_WAITS)[0]
