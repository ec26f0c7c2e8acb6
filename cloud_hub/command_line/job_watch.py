"""Watching a Job: what happens is told as it happens; on a terminal a live line stands below it."""

import threading

from cloud_hub.command_line.commands import Context
from cloud_hub.command_line.job_answers import Job, JobDevices, JobEvents
from cloud_hub.command_line.output import clock_text
from shared.exit_codes import DONE, NOT_REACHED
from shared.plural import counted

WATCH_S = 1.0
SETTLE_PASSES_MAX = 600  # How long what came of a finished Job is waited for
UNUSABLE = "job.result_unusable"
FINISHED, COMPLETED = "finished", "completed"


def watch(context: Context, job_id: str) -> int:
    """Tell a Job until it has ended and what came of it is settled; return the exit code."""
    path, never = f"/api/v1/jobs/{job_id}", threading.Event()
    seen = settling = 0
    with context.output.live() as live:
        while True:  # Ends with the Job; how long that takes is the person's to bear, or Ctrl-C.
            answer = context.hub.get(path, Job)
            events = context.hub.get(f"{path}/events", JobEvents, query={"after": seen}).value
            for event in events.events:
                whose = f"{event.device}: " if event.device else ""
                context.output.say(f"{clock_text(event.at_ms)}  {whose}{event.sentence}")
                seen = event.number
            job = answer.value
            if not events.events:
                settling += job.state == FINISHED
                if job.state == FINISHED and (_is_settled(job) or settling > SETTLE_PASSES_MAX):
                    break
                if live is not None:
                    live(_standing(context, job))
                context.clock.wait(never, WATCH_S)
    context.output.say(f"{job_id}: {job.sentence}")
    context.output.result(answer.json)
    return DONE if job.outcome == COMPLETED else NOT_REACHED


def _is_settled(job: Job) -> bool:
    """Whether it is known what came of a finished Job: the gate takes its time."""
    if job.outcome != COMPLETED or not job.rounds_done or job.code == UNUSABLE:
        return True
    if job.order.is_released:
        return job.release_version is not None or job.candidate_id is not None
    return job.result_checkpoint_id is not None


def _standing(context: Context, job: Job) -> str:
    devices = context.hub.get(f"/api/v1/jobs/{job.job_id}/devices", JobDevices).value.devices
    ready = sum(device.state == "ready" for device in devices)
    done = "=" * round(20 * job.rounds_done / job.rounds)
    return (
        f"[{done.ljust(20)}] Round {job.rounds_done} of {job.rounds} done, "
        f"{ready} of {counted(len(devices), 'device')} ready. {job.sentence}"
    )
