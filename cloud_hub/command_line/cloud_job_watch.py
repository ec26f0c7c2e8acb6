"""Watching a Job in the cloud: what happens as lines; on a terminal a live table stands below.

1. Of single runs, folds and the last run every evaluation is a line; a trial is one, at its end.
2. Where there is no terminal, progress is a line at most every PLAIN_PROGRESS_S.
"""

import threading

from cloud_hub.command_line.cloud_job_answers import (
    COMPLETED,
    FINISHED,
    CloudJob,
    RunEvents,
    TrainingRun,
    TrainingRuns,
)
from cloud_hub.command_line.cloud_job_output import RUN_COLUMNS, run_rows
from cloud_hub.command_line.commands import Context
from cloud_hub.command_line.output import clock_text
from shared.exit_codes import DONE, NOT_REACHED

WATCH_S = 1.0
PLAIN_PROGRESS_S = 10.0
SETTLE_PASSES_MAX = 600  # How long what came of a finished Job is waited for
BAR_WIDTH = 20
ROWS_MAX = 12  # Of the live table: the newest runs
TRIAL, PROGRESSED, SAVED = "trial", "progressed", "saved"


class Watcher:
    """What has been told of a Job already."""

    def __init__(self, context: Context, job_id: str, *, has_table: bool) -> None:
        self._context = context
        self._path = f"/api/v1/cloud-jobs/{job_id}"
        self._has_table = has_table
        self._seen: dict[int, int] = {}  # Number of the last event told, by run
        self._ended: set[int] = set()
        self._progress_ms = 0

    def tell(self, runs: TrainingRuns) -> None:
        """Write what is new."""
        for run in runs.runs:
            if run.index in self._ended:
                continue
            if run.kind != TRIAL:
                self._tell_events(run, is_named=len(runs.runs) > 1)
            if run.state == FINISHED:
                self._ended.add(run.index)
                self._context.output.say(f"{run.name}: {run.sentence}")

    def _tell_events(self, run: TrainingRun, *, is_named: bool) -> None:
        query = {"run": run.index, "after": self._seen.get(run.index, 0)}
        events = self._context.hub.get(f"{self._path}/events", RunEvents, query=query).value
        for told in events.events:
            self._seen[run.index] = told.number
            kind = told.event.get("event")
            if kind == SAVED or (kind == PROGRESSED and not self._is_due(told.at_ms)):
                continue
            name = f"{run.name}: " if is_named else ""
            self._context.output.say(f"{clock_text(told.at_ms)}  {name}{told.sentence}")

    def _is_due(self, at_ms: int) -> bool:
        """Whether a line of progress is to be written now."""
        if self._has_table or at_ms - self._progress_ms < PLAIN_PROGRESS_S * 1000:
            return False
        self._progress_ms = at_ms
        return True


def bar_text(runs: TrainingRuns) -> str:
    """Return how far the newest run that trains is, "[=====     ]  25 % "; "" where none does."""
    for run in reversed(runs.runs):
        if run.state != FINISHED and run.progress.steps_total:
            share = min(1.0, run.progress.step / run.progress.steps_total)
            return f"[{('=' * round(BAR_WIDTH * share)).ljust(BAR_WIDTH)}] {share:4.0%} "
    return ""


def watch_cloud_job(context: Context, job_id: str) -> int:
    """Tell a Job until it has ended and what came of it is settled; return the exit code."""
    path, never, settling = f"/api/v1/cloud-jobs/{job_id}", threading.Event(), 0
    with context.output.live_table(RUN_COLUMNS) as show:
        watcher = Watcher(context, job_id, has_table=show is not None)
        while True:  # Ends with the Job; how long that takes is the person's to bear, or Ctrl-C.
            answer = context.hub.get(path, CloudJob)
            runs = context.hub.get(f"{path}/runs", TrainingRuns).value
            watcher.tell(runs)
            job = answer.value
            settling += job.state == FINISHED
            if job.state == FINISHED and (job.is_settled or settling > SETTLE_PASSES_MAX):
                break
            if show is not None:
                newest = TrainingRuns(runs=runs.runs[-ROWS_MAX:])
                show(run_rows(newest), f"{bar_text(newest)}{job_id}: {job.sentence}")
            context.clock.wait(never, WATCH_S)
    context.output.say(f"{job_id}: {job.sentence}")
    context.output.result(answer.json)
    return DONE if job.outcome == COMPLETED else NOT_REACHED
