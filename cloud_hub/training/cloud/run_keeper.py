"""RunKeeper: the runs that this hub holds: claimed, started, read, ended. One thread.

1. A run is claimed in the database before its trainer is started, and its end is written down when
   its process is gone. Killed between any two of these, whoever holds the run next goes on from the
   row and the folder: a result that is there counts, a trainer that runs is found again, and one
   that is gone is started again in the same folder.
2. A trainer that this hub saw die counts as a death; one that was gone when a hub came back does
   not, up to ATTEMPTS_MAX starts.
3. Every change of a run's row is made while it is held by this hub, and only then.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from cloud_hub.sql_database import Database
from cloud_hub.training.cloud import sql_cloud_jobs, sql_runs, sql_usage
from cloud_hub.training.cloud.cloud_job import CloudJobId, EndReason, Run
from cloud_hub.training.cloud.event_summary import summarise
from cloud_hub.training.cloud.file_runs import RunFolders
from cloud_hub.training.cloud.lifecycle import ENDED_BY, RunEvent, death_event
from cloud_hub.training.cloud.order import ExecutorName
from cloud_hub.training.cloud.planner import Planner
from cloud_hub.training.cloud.record import JobRecord, RunRecord, advance_run, ask_end
from cloud_hub.training.cloud.run_commands import command_of
from cloud_hub.training.cloud.settings import CloudTrainingSettings
from cloud_hub.training.executors.executor import Executor, Stage, Standing, Work
from cloud_hub.training.trainer.run_files import RunResult
from shared.clock import Clock, now_ms
from shared.errors import ContractError, IntegrityError, RefusedError, TransientError

log = logging.getLogger(__name__)

ATTEMPTS_MAX = 50  # Starts of one run, whatever they died of
LAST_WORDS_CHARS_MAX = 600
LOOKS_MAX = 100  # Pieces of events that are read at a run's end
_HOPELESS = (RefusedError, ContractError, IntegrityError)
_TEXTS = {
    EndReason.STOP: "It was stopped.",
    EndReason.PRUNE: "The search saw no hope in it.",
    EndReason.TIMEOUT: "It took longer than it may. Order it with a longer timeout_s, or less to "
    "train.",
}
_CODES = {
    EndReason.STOP: "run.stopped",
    EndReason.PRUNE: "trial.pruned",
    EndReason.TIMEOUT: "run.timeout",
}


class RunKeeper:
    """See the rules above."""

    def __init__(
        self,
        database: Database,
        folders: RunFolders,
        planner: Planner,
        executors: Mapping[ExecutorName, Executor],
        clock: Clock,
        settings: CloudTrainingSettings,
        *,
        holder: str,
        trainer: Sequence[str],
    ) -> None:
        self._database = database
        self._folders = folders
        self._planner = planner
        self._executors = executors
        self._clock = clock
        self._settings = settings
        self._holder = holder
        self._trainer = trainer
        self._jobs: dict[CloudJobId, JobRecord] = {}  # Of held runs: for what never changes
        self._is_adopted = False
        self._renewed_ms = 0

    def tick(self) -> None:
        """Do what time brings. Raises TransientError `database.…`."""
        self._adopt()
        if self._is_anything_claimable():
            self._take_over()
        held = self._held()
        if held:
            self._renew()
        for record in held:
            self._careful(self._look, record)
        if self._is_anything_claimable():
            for name in self._executors:
                self._claim(name)
        for executor in self._executors.values():
            try:
                executor.tick()
            except TransientError as error:
                log.warning("executor.put_off", extra={"code": error.code, "text": error.message})

    def close(self) -> None:
        """Give back what is held; what runs goes on, and whoever comes next finds it."""
        for executor in self._executors.values():
            executor.close()
        with self._database.begin() as connection:
            sql_runs.let_go(connection, holder=self._holder)

    def _adopt(self) -> None:
        if not self._is_adopted:
            for executor in self._executors.values():
                executor.adopt()
            self._is_adopted = True

    def _held(self) -> tuple[RunRecord, ...]:
        with self._database.read() as connection:
            held = sql_runs.read_held(connection, self._holder)
        job_ids = {record.run.job_id for record in held}
        self._jobs = {known: self._jobs[known] for known in self._jobs if known in job_ids}
        return held

    def _job(self, run: Run) -> JobRecord:
        found = self._jobs.get(run.job_id)
        if found is None:
            with self._database.read() as connection:
                found = sql_cloud_jobs.read_job(connection, run.job_id)
            self._jobs[run.job_id] = found
        return found

    def _renew(self) -> None:
        now = now_ms(self._clock)
        if abs(now - self._renewed_ms) > self._settings.lease_s * 1000 / 4:
            with self._database.begin() as connection:
                sql_runs.renew(connection, holder=self._holder, until_ms=self._until_ms())
            self._renewed_ms = now

    def _is_anything_claimable(self) -> bool:
        with self._database.read() as connection:
            return sql_runs.has_claimable(
                connection, place_id=self._folders.place_id, now_ms=now_ms(self._clock)
            )

    def _careful(self, work: Callable[[RunRecord], None], record: RunRecord) -> None:
        """Do something for one run; what may work later is left for the next tick."""
        try:
            work(record)
        except TransientError as error:
            if error.code.startswith("database."):
                raise
            extra = {"run": record.run.key, "code": error.code, "text": error.message}
            log.warning("run.put_off", extra=extra)

    # The queue

    def _take_over(self) -> None:
        """Take the runs of hubs that have not been heard of."""
        while True:
            now = now_ms(self._clock)
            with self._database.begin() as connection:
                record = sql_runs.claim_lapsed(
                    connection,
                    place_id=self._folders.place_id,
                    now_ms=now,
                    except_holder=self._holder,
                )
                if record is None:
                    return
                taken = advance_run(
                    record, RunEvent.RESTARTED, code=record.run.code, text="", now_ms=now
                )
                taken = replace(taken, holder=self._holder, lease_until_ms=self._until_ms())
                sql_runs.update_run(connection, taken)
            for executor in self._executors.values():
                executor.adopt()  # What its last holder started since we looked
            log.info("run.taken_over", extra={"run": record.run.key, "from": record.holder})

    def _claim(self, name: ExecutorName) -> None:
        """Claim and start runs while there is room."""
        while True:
            room = self._room(name)
            now = now_ms(self._clock)
            with self._database.begin() as connection:
                record = sql_runs.claim_queued(
                    connection, place_id=self._folders.place_id, executor=name, now_ms=now
                )
                if record is None:
                    return
                reason = record.run.end_reason
                if reason is not None:
                    done = advance_run(
                        record,
                        ENDED_BY[reason],
                        code=_CODES[reason],
                        text=_TEXTS[reason],
                        now_ms=now,
                    )
                    sql_runs.update_run(connection, done)
                    continue
                if self._need(record) > room:
                    return  # The next in line waits until it fits: larger ones do not starve
                claimed = advance_run(record, RunEvent.CLAIMED, code="", text="", now_ms=now)
                claimed = replace(claimed, holder=self._holder, lease_until_ms=self._until_ms())
                sql_runs.update_run(connection, claimed)
            self._start(claimed)

    def _room(self, name: ExecutorName) -> int:
        held = [record for record in self._held() if record.executor is name]
        if name is ExecutorName.RAY:
            return self._settings.ray_runs_max - len(held)
        return self._settings.slots - sum(self._need(record) for record in held)

    def _need(self, record: RunRecord) -> int:
        if record.executor is ExecutorName.RAY:
            return 1
        return min(record.processes, self._settings.slots)  # A larger one takes all there is

    def _start(self, record: RunRecord) -> None:
        run = record.run
        try:
            self._planner.prepare_run(self._job(run), run)
            if run.end_reason is None:
                self._folders.forget_stop(run.key)
            folder = self._folders.run(run.key).resolve()
            self._executors[record.executor].start(
                Work(
                    key=run.key,
                    folder=folder,
                    command=command_of(
                        run.kind, folder, processes=record.processes, trainer=self._trainer
                    ),
                    processes=record.processes,
                    attempt=run.attempt,
                )
            )
        except _HOPELESS as error:
            text = f"It cannot be started: {error.message} {error.remedy}"
            self._finish(record, RunEvent.REFUSED, code=error.code, text=text)
        except TransientError as error:
            if error.code.startswith("database."):
                raise
            if error.code == "run.busy":
                return  # Somebody works in its folder: `look` says so until it is over
            text = f"It cannot be started: {error.message} {error.remedy}"
            self._died(record, code=error.code, text=text)

    # One held run

    def _look(self, record: RunRecord) -> None:
        taken = self._take_events(record)
        if taken is None:
            return
        executor = self._executors.get(record.executor)
        if executor is None:
            text = f"This hub has no executor {record.executor}."
            self._finish(taken, RunEvent.REFUSED, code="training.no_ray", text=text)
            return
        standing = executor.look(taken.run.key)
        if standing.stage is Stage.RUNNING:
            self._watch(taken, executor)
        else:
            self._conclude(taken, standing)

    def _watch(self, record: RunRecord, executor: Executor) -> None:
        """See to it that a run ends when it should."""
        now = now_ms(self._clock)
        run = record.run
        timeout_ms = self._job(run).job.order.timeout_s * 1000
        if run.end_reason is None and record.wall_ms(now) > timeout_ms:
            changed = self._change(record, lambda r: ask_end(r, EndReason.TIMEOUT, now_ms=now))
            if changed is None:
                return
            record, run = changed, changed.run
        if run.end_reason is not None:
            self._folders.ask_stop(run.key)
            asked_ms = record.end_asked_ms if record.end_asked_ms is not None else now
            if now - asked_ms > self._settings.stop_s_max * 1000:
                executor.end(run.key)

    def _conclude(self, record: RunRecord, standing: Standing) -> None:
        """Write down how a run ended, or have it tried again."""
        for _ in range(LOOKS_MAX):
            taken = self._take_events(record)
            if taken is None:
                return
            if taken.events_read == record.events_read:
                break
            record = taken
        try:
            result = self._folders.read_result(record.run.key)
            error = self._folders.read_error(record.run.key)
        except ContractError as strange:
            self._finish(record, RunEvent.REFUSED, code=strange.code, text=strange.message)
            return
        reason = record.run.end_reason
        if result is not None:
            self._take_result(record, result)
        elif error is not None and reason is not EndReason.STOP:
            text = f"{error.text} {error.remedy}".strip()
            self._finish(record, RunEvent.REFUSED, code=error.code, text=text)
        elif reason is not None:
            self._finish(record, ENDED_BY[reason], code=_CODES[reason], text=_TEXTS[reason])
        elif standing.stage is Stage.MISSING and record.run.attempt < ATTEMPTS_MAX:
            self._start_again(record)
        else:
            self._died(record, code="run.died", text=self._last_words(record.run, standing))

    def _start_again(self, record: RunRecord) -> None:
        """Start a run that was gone when this hub came to it."""
        now = now_ms(self._clock)

        def change(found: RunRecord) -> RunRecord:
            begun = advance_run(found, RunEvent.RESTARTED, code="", text="", now_ms=now)
            return replace(begun, run=replace(begun.run, attempt=begun.run.attempt + 1))

        changed = self._change(record, change)
        if changed is not None:
            log.warning("run.restarted", extra={"run": record.run.key})
            self._start(changed)

    def _take_result(self, record: RunRecord, result: RunResult) -> None:
        run = record.run
        event, code, text = RunEvent.COMPLETED, "run.completed", " ".join(result.notes)
        reason = run.end_reason or (EndReason.STOP if result.is_stopped else None)
        if result.is_stopped and reason is not None:
            event, code, text = ENDED_BY[reason], _CODES[reason], _TEXTS[reason]
        spent = result.device_seconds - run.progress.device_seconds
        now = now_ms(self._clock)
        with self._database.begin() as connection:
            found = sql_runs.read_run(connection, run.job_id, run.index, locked=True)
            if found.holder != self._holder:
                return
            done = advance_run(found, event, code=code, text=text, now_ms=now)
            progress = replace(
                done.run.progress,
                step=result.steps,
                epoch=result.epochs,
                items_per_s=result.items_per_s,
                memory_bytes=max(done.run.progress.memory_bytes, result.memory_bytes),
                best_value=result.value,
                device_seconds_now=done.run.progress.device_seconds_now + max(0.0, spent),
            )
            done = replace(
                done,
                run=replace(
                    done.run, value=result.value, best_epoch=result.best_epoch, progress=progress
                ),
            )
            sql_runs.update_run(connection, done)
            job = self._job(run).job
            sql_usage.add_usage(
                connection, job, done.run, device_seconds=max(0.0, spent), now_ms=now
            )
        log.info(code, extra={"run": run.key, "value": result.value})

    def _died(self, record: RunRecord, *, code: str, text: str) -> None:
        retries_max = self._job(record.run).job.order.retries_max
        event = death_event(record.run.deaths + 1, retries_max=retries_max)
        if event is RunEvent.GAVE_UP and retries_max:
            text = f"{text} It was tried {record.run.attempt} times."
        self._finish(record, event, code=code, text=text)

    def _finish(self, record: RunRecord, event: RunEvent, *, code: str, text: str) -> None:
        now = now_ms(self._clock)
        changed = self._change(
            record, lambda found: advance_run(found, event, code=code, text=text, now_ms=now)
        )
        if changed is not None:
            log.info(f"run.{event}", extra={"run": record.run.key, "code": code, "text": text})

    def _take_events(self, record: RunRecord) -> RunRecord | None:
        """Store what a run has said since; None: it is not held any more."""
        read = self._folders.read_events(record.run.key, record.events_read)
        if read.end == record.events_read:
            return record
        with self._database.begin() as connection:
            run = record.run
            found = sql_runs.read_run(connection, run.job_id, run.index, locked=True)
            if found.holder != self._holder:
                return None
            if found.events_read != record.events_read:
                return found
            summary = summarise(found.run.progress, read.lines)
            spent = summary.progress.device_seconds - found.run.progress.device_seconds
            after = replace(
                found, run=replace(found.run, progress=summary.progress), events_read=read.end
            )
            sql_runs.update_run(connection, after)
            sql_runs.put_values(connection, run.job_id, run.index, summary.values)
            job = self._job(run).job
            now = now_ms(self._clock)
            sql_usage.add_usage(connection, job, after.run, device_seconds=spent, now_ms=now)
        if summary.strange_count:
            extra = {"run": run.key, "lines": summary.strange_count}
            log.warning("run.strange_events", extra=extra)
        return after

    def _change(
        self, record: RunRecord, change: Callable[[RunRecord], RunRecord]
    ) -> RunRecord | None:
        """Return a run as `change` makes it, stored; None: it is not held any more."""
        run = record.run
        with self._database.begin() as connection:
            found = sql_runs.read_run(connection, run.job_id, run.index, locked=True)
            if found.holder != self._holder:
                return None
            changed = change(found)
            sql_runs.update_run(connection, changed)
            return changed

    def _last_words(self, run: Run, standing: Standing) -> str:
        text = f"Its trainer died: {standing.text or 'nobody saw how'}."
        if standing.text == "SIGKILL":
            text += " The system may have run out of memory: order a smaller batch or network."
        lines = self._folders.read_tail(run.key, 4 * LAST_WORDS_CHARS_MAX).strip().splitlines()
        words = " | ".join(lines[-3:])[-LAST_WORDS_CHARS_MAX:]
        return f"{text} Its last words: {words}" if words else text

    def _until_ms(self) -> int:
        return now_ms(self._clock) + int(self._settings.lease_s * 1000)
