"""JobDriver: what is to be done about Jobs, tick by tick. Rules: job_rules.py. One thread.

1. A move is decided and stored while the Job's row is held, on the runs as they are then: two hubs
   that drive the same Job make the same move once.
2. The search's advisor is asked outside of that; what it says is taken only if no trial has been
   made meanwhile.
"""

import logging
from dataclasses import replace

import sqlalchemy as sa

from cloud_hub.sql_database import Database
from cloud_hub.training.cloud import sql_cloud_jobs, sql_runs
from cloud_hub.training.cloud.advice import Advice
from cloud_hub.training.cloud.cloud_job import CloudJobId, EndReason, Run, RunKind
from cloud_hub.training.cloud.file_runs import RunFolders
from cloud_hub.training.cloud.job_rules import (
    AskAdvisor,
    Begin,
    EndRuns,
    Finish,
    MakeRefit,
    Move,
    next_move,
)
from cloud_hub.training.cloud.lifecycle import JobEvent
from cloud_hub.training.cloud.order import ExecutorName
from cloud_hub.training.cloud.process_advisor import ask
from cloud_hub.training.cloud.record import JobRecord, RunRecord, advance_job, ask_end
from cloud_hub.training.cloud.run_plan import new_run
from cloud_hub.training.cloud.search import (
    Mark,
    advise_simply,
    has_room,
    make_question,
    mark_of,
    needs_advice,
)
from cloud_hub.training.cloud.settings import CloudTrainingSettings
from shared.clock import Clock, now_ms
from shared.errors import TransientError

log = logging.getLogger(__name__)


class JobDriver:
    """See the rules above."""

    def __init__(
        self,
        database: Database,
        folders: RunFolders,
        clock: Clock,
        settings: CloudTrainingSettings,
    ) -> None:
        self._database = database
        self._folders = folders
        self._clock = clock
        self._settings = settings
        self._asked: dict[CloudJobId, tuple[Mark, bool]] = {}

    def tick(self) -> None:
        """Do what is to be done about every Job. Raises TransientError `database.…`."""
        with self._database.read() as connection:
            opened = sql_cloud_jobs.read_open(connection, self._folders.place_id)
        self._asked = {
            record.job.job_id: self._asked[record.job.job_id]
            for record in opened
            if record.job.job_id in self._asked
        }
        for record in opened:
            with self._database.read() as connection:
                runs = sql_runs.read_runs(connection, record.job.job_id)
            move = next_move(record.job, [run.run for run in runs])
            if move is not None and not isinstance(move, AskAdvisor):
                move = self._move(record.job.job_id)
            if isinstance(move, AskAdvisor):
                try:
                    self._search(record, move.trials)
                except TransientError as error:
                    if error.code.startswith("database."):
                        raise
                    extra = {"job": record.job.job_id, "code": error.code, "text": error.message}
                    log.warning("search.put_off", extra=extra)

    def _move(self, job_id: CloudJobId) -> Move:
        """Make the next move of a Job, and return it; an AskAdvisor is left to the caller."""
        now = now_ms(self._clock)
        with self._database.begin() as connection:
            record = sql_cloud_jobs.read_job(connection, job_id, locked=True)
            if record.job.outcome is not None:
                return None  # Another hub was faster
            runs = sql_runs.read_runs(connection, job_id, locked=True)
            move = next_move(record.job, [run.run for run in runs])
            match move:
                case Begin():
                    begun = advance_job(record, JobEvent.STARTED, code="", text="", now_ms=now)
                    sql_cloud_jobs.update_job(connection, begun)
                case EndRuns():
                    self._end_runs(connection, runs, now_ms=now)
                case MakeRefit(params=params):
                    made = new_run(record, len(runs), RunKind.REFIT, now_ms=now, params=params)
                    sql_runs.insert_runs(connection, [made])
                case Finish():
                    sql_cloud_jobs.update_job(connection, _finished(record, move, now_ms=now))
                case AskAdvisor() | None:
                    return move
        log.info("job.moved", extra={"job": job_id, "move": type(move).__name__.lower()})
        return move

    def _end_runs(
        self, connection: sa.Connection, runs: tuple[RunRecord, ...], *, now_ms: int
    ) -> None:
        for run in runs:
            if not run.run.is_finished and run.run.end_reason is not EndReason.STOP:
                ending = ask_end(run, EndReason.STOP, now_ms=now_ms)
                # One that waits for its next attempt is looked at now, to be ended.
                sql_runs.update_run(connection, replace(ending, retry_ms=0))

    def _search(self, record: JobRecord, trials: tuple[Run, ...]) -> None:
        """Ask the advisor, if it can have anything new to say, and do what it says."""
        job = record.job
        is_room = has_room(job, trials, parallel=self._parallel(record))
        if not needs_advice(job, trials, is_room=is_room):
            return
        with self._database.read() as connection:
            values = sql_runs.read_values(connection, job.job_id)
            known = sql_runs.read_runs(connection, job.job_id)
        mark = (mark_of(trials, values), is_room)
        if self._asked.get(job.job_id) == mark:
            return
        memory = {run.run.index: run.advice for run in known}
        question = make_question(job, trials, values, memory, is_room=is_room)
        advice = advise_simply(question) or ask(question)
        self._take(record, trials, advice)
        self._asked[job.job_id] = mark

    def _take(self, record: JobRecord, trials: tuple[Run, ...], advice: Advice) -> None:
        now = now_ms(self._clock)
        job_id = record.job.job_id
        with self._database.begin() as connection:
            found = sql_cloud_jobs.read_job(connection, job_id, locked=True)
            runs = sql_runs.read_runs(connection, job_id, locked=True)
            is_old = len(runs) != len(trials)
            if is_old or found.job.outcome is not None or found.job.is_stopping:
                return
            for number, run in enumerate(runs):
                after = replace(run, advice=dict(advice.memory.get(str(number), run.advice)))
                if number in advice.pruned and not run.run.is_finished:
                    after = ask_end(after, EndReason.PRUNE, now_ms=now)
                if after != run:
                    sql_runs.update_run(connection, after)
            if advice.params is not None:
                kind = RunKind.TRIAL
                made = new_run(found, len(runs), kind, now_ms=now, params=advice.params)
                sql_runs.insert_runs(connection, [made])
        extra = {"job": job_id, "trials": len(trials), "pruned": len(advice.pruned)}
        log.info("search.advised", extra=extra)

    def _parallel(self, record: JobRecord) -> int:
        order = record.job.order
        if order.executor is ExecutorName.RAY:
            return self._settings.ray_runs_max
        return max(1, self._settings.slots // min(order.processes, self._settings.slots))


def _finished(record: JobRecord, move: Finish, *, now_ms: int) -> JobRecord:
    done = advance_job(record, move.event, code=move.code, text=move.text, now_ms=now_ms)
    job = replace(
        done.job,
        result_run=move.result_run,
        value=move.value,
        value_low=move.value_low,
        value_high=move.value_high,
    )
    return replace(done, job=job)
