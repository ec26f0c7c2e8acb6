"""One change of a Job: its row locked, changed, stored, and what happened appended. No rules."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import sqlalchemy as sa

from cloud_hub.sql_database import Database
from cloud_hub.training import sql_jobs, sql_progress
from cloud_hub.training.job import JobId
from cloud_hub.training.job_folder import JobEvent
from cloud_hub.training.record import JobRecord

Change = Callable[[JobRecord], tuple[JobRecord, Sequence[JobEvent]] | None]


def change_job(
    database: Database, job_id: JobId, change: Change, *, events_kept_max: int
) -> JobRecord:
    """Return a Job as `change` makes it, stored with its events; None from it leaves the Job.

    `change` sees the row as it is, held against everybody else. Raises RefusedError
    `job.unknown`, what `change` raises, TransientError: then nothing was stored.
    """
    with database.begin() as connection:
        record = sql_jobs.read_record(connection, job_id, locked=True)
        changed = change(record)
        if changed is None:
            return record
        after, events = changed
        return store_change(connection, after, events, events_kept_max=events_kept_max)


def store_change(
    connection: sa.Connection,
    record: JobRecord,
    events: Sequence[JobEvent],
    *,
    events_kept_max: int,
) -> JobRecord:
    """Store a changed Job whose row is held, and append what happened; return it as stored."""
    last = sql_progress.add_events(
        connection, record.job.job_id, events, last=record.events_count, kept_max=events_kept_max
    )
    stored = replace(record, events_count=last)
    sql_jobs.update_job(connection, stored)
    return stored


def take_events(
    database: Database, job_id: JobId, events: Sequence[JobEvent], *, events_kept_max: int
) -> JobRecord:
    """Store a ServerApp's events, those that are not known yet, and what they add up to.

    Raises TransientError: then nothing was stored.
    """
    with database.begin() as connection:
        record = sql_jobs.read_record(connection, job_id, locked=True)
        fresh = [event for event in events if event.number > record.events_read]
        if not fresh:
            return record
        tally = sql_progress.read_tally(connection, job_id, fresh)
        tally.add(fresh)
        sql_progress.put_tally(connection, job_id, tally)
        rounds_done = max(record.job.rounds_done, tally.rounds_done)
        job = replace(record.job, rounds_done=rounds_done)
        after = replace(record, job=job, events_read=fresh[-1].number)
        return store_change(connection, after, fresh, events_kept_max=events_kept_max)
