"""JobDriver: what time brings to the Jobs of this hub, once a second.

1. A tick looks at the SuperLink's standing first and then at each Job's files: a run that is said
   to have ended has written all it will. What happened is written into the Job's row; only then
   the SuperLink is told what to have.
2. Nothing is kept in memory that a new process would miss. A Job whose files fail does not stop
   the others.
3. Every change is made under the Job's row and only if the Job still is what was looked at: a
   person may have stopped it meanwhile.
"""

import logging
from collections.abc import Sequence
from dataclasses import replace

import sqlalchemy as sa

from cloud_hub.sql_database import Database
from cloud_hub.training import sql_jobs, sql_progress
from cloud_hub.training import standing_rules as rules
from cloud_hub.training.file_job_folders import JobFolders
from cloud_hub.training.job import JobState, Outcome
from cloud_hub.training.job_folder import RUNS_MAX, JobEvent, Standing
from cloud_hub.training.lifecycle import LIVE, Event, ResultState
from cloud_hub.training.membership import Membership
from cloud_hub.training.planner import Planner
from cloud_hub.training.record import JobRecord, advance, hub_event
from cloud_hub.training.settings import LearningHubSettings
from cloud_hub.training.sql_changes import Change, change_job, store_change, take_events
from cloud_hub.training.standing_rules import Finding
from cloud_hub.training.superlink import SuperLink
from shared.clock import Clock, now_ms
from shared.errors import ContractError, IntegrityError, RefusedError, TransientError
from shared.ids import DeviceId
from shared.plural import counted

log = logging.getLogger(__name__)

_EVENT_CODES = {Event.RUN_SEEN: "job.running", Event.RUN_LOST: "job.run_lost"}


class JobDriver:
    """See the rules above. One thread at a time."""

    def __init__(
        self,
        database: Database,
        folders: JobFolders,
        planner: Planner,
        membership: Membership,
        superlink: SuperLink,
        clock: Clock,
        settings: LearningHubSettings,
    ) -> None:
        self._database = database
        self._folders = folders
        self._planner = planner
        self._membership = membership
        self._superlink = superlink
        self._clock = clock
        self._settings = settings

    def tick(self) -> None:
        """Look, write down, tell the SuperLink. Raises TransientError when even reading fails."""
        standing = self._superlink.standing()
        with self._database.read() as connection:
            watched = sql_jobs.read_watched(connection, self._folders.hub_id)
        for record in watched:
            self._guarded(record, standing)
        self._tell_superlink()

    def _guarded(self, record: JobRecord, standing: Standing | None) -> None:
        try:
            self._look_at(record, standing)
        except (TransientError, ContractError) as error:
            self._folders.forget_look(record.job.job_id)
            extra = {"job": record.job.job_id, "code": error.code, "text": error.message}
            log.warning("job.delayed", extra=extra)

    def _look_at(self, record: JobRecord, standing: Standing | None) -> None:
        match record.job.state:
            case JobState.SUBMITTED:
                pass
            case JobState.APPROVED:
                self._dispatch(record)
            case JobState.DISPATCHED | JobState.RUNNING:
                self._follow(self._take_events(record), standing)
            case JobState.FINISHED:
                self._wind_up(self._take_events(record), standing)

    def _dispatch(self, record: JobRecord) -> None:
        with self._database.read() as connection:
            if not self._has_room(connection, record):
                return
        try:
            count = self._planner.prepare(record)
        except (RefusedError, IntegrityError) as error:
            self._change(record, Finding(Event.FAILED, error.code, error.message))
            return
        at_ms = now_ms(self._clock)
        with self._database.begin() as connection:
            sql_jobs.lock_model(connection, record.job.model, now_ms=at_ms)
            found = sql_jobs.read_record(connection, record.job.job_id, locked=True)
            if found.job.state is not JobState.APPROVED or not self._has_room(connection, found):
                return
            after = advance(found, Event.DISPATCHED, code="", text="", now_ms=at_ms)
            told = hub_event("job.dispatched", f"It has {counted(count, 'device')}.", now_ms=at_ms)
            store_change(connection, after, [told], events_kept_max=self._settings.events_kept_max)
        log.info("job.dispatched", extra={"job": record.job.job_id, "devices_count": count})

    def _has_room(self, connection: sa.Connection, record: JobRecord) -> bool:
        return sql_jobs.has_room(
            connection,
            record.job.model,
            hub_id=self._folders.hub_id,
            jobs_max=self._settings.jobs_max,
        )

    def _take_events(self, record: JobRecord) -> JobRecord:
        job_id = record.job.job_id
        events = self._folders.read_events(job_id, after=record.events_read)
        if not events:
            return record
        return take_events(
            self._database, job_id, events, events_kept_max=self._settings.events_kept_max
        )

    def _follow(self, record: JobRecord, standing: Standing | None) -> None:
        if record.job.state not in LIVE:
            return  # Stopped since it was looked at.
        result = self._folders.read_result(record.job.job_id)
        finding = rules.judge_run(record, standing, result)
        if finding is not None:
            self._change(record, finding)
        elif standing is not None:
            self._note_standing(record, standing)

    def _note_standing(self, record: JobRecord, standing: Standing) -> None:
        """Write down where devices find the SuperLink, until when, and how it sees them."""
        port = standing.device_port or record.fleet_port
        until_ms = rules.next_until_ms(record, now_ms=now_ms(self._clock))
        host = self._settings.public_host
        told = (host, port, until_ms)
        if told != (record.fleet_host, record.fleet_port, record.until_ms):
            self._change_job(
                record,
                lambda found: (
                    replace(found, fleet_host=host, fleet_port=port, until_ms=until_ms),
                    (),
                ),
            )
        job_id = record.job.job_id
        statuses = {DeviceId(node.device): str(node.status) for node in standing.nodes}
        with self._database.read() as connection:
            known = sql_progress.read_node_statuses(connection, job_id)
        if any(statuses.get(device_id, "") != status for device_id, status in known.items()):
            with self._database.begin() as connection:
                sql_progress.put_node_statuses(connection, job_id, statuses)

    def _wind_up(self, record: JobRecord, standing: Standing | None) -> None:
        """See to it that a finished Job's run ends, and that its folder is cleaned after."""
        job_id = record.job.job_id
        is_held = self._folders.is_held(job_id)
        has_let_go = not is_held and rules.has_let_go(record, standing)
        if record.job.outcome is Outcome.STOPPED or not has_let_go:
            self._folders.ask_end(job_id)
        if record.result_state is ResultState.SETTLED and has_let_go:
            self._take_events(record)
            self._folders.clean(job_id)
            self._change_job(record, lambda found: (replace(found, is_cleaned=True), ()))

    def _change(self, record: JobRecord, finding: Finding) -> None:
        at_ms = now_ms(self._clock)
        code = _EVENT_CODES.get(finding.event, "job.finished")

        def change(found: JobRecord) -> tuple[JobRecord, Sequence[JobEvent]]:
            after = advance(
                found,
                finding.event,
                code=finding.code,
                text=finding.text,
                now_ms=at_ms,
                rounds_done=finding.rounds_done,
            )
            text = finding.text or f"Attempt {after.job.attempt} runs."
            if after.job.outcome is not None:
                text = f"{after.job.outcome.capitalize()}. {finding.text} [{finding.code}]"
            return after, [hub_event(code, text, now_ms=at_ms)]

        after = self._change_job(record, change)
        extra = {"job": after.job.job_id, "code": finding.code, "text": finding.text}
        log.info(f"job.{finding.event}", extra=extra)

    def _change_job(self, record: JobRecord, change: Change) -> JobRecord:
        """Change a Job, if it still is in the state it was looked at in (rule 3)."""
        state = record.job.state
        return change_job(
            self._database,
            record.job.job_id,
            lambda found: change(found) if found.job.state is state else None,
            events_kept_max=self._settings.events_kept_max,
        )

    def _tell_superlink(self) -> None:
        """State what the SuperLink should have: of this hub's live Jobs, and nothing else."""
        with self._database.read() as connection:
            watched = sql_jobs.read_watched(connection, self._folders.hub_id)
        live = [record for record in watched if record.job.state in LIVE]
        members = self._membership.members(live)
        everyone = [device_id for found in members.values() for device_id in found]
        nodes = rules.wanted_nodes(everyone, self._membership.keys(everyone))
        at_ms = now_ms(self._clock)
        runs = [
            rules.wanted_run(record, self._folders.folder(record.job.job_id), now_ms=at_ms)
            for record in live[:RUNS_MAX]
        ]
        self._superlink.want(nodes, [run for run in runs if run is not None])
