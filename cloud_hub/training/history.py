"""A Job in sentences: who asked, who took part, what came of it. Pure."""

from collections.abc import Sequence
from datetime import UTC, datetime

from cloud_hub.training.job import Job, JobDevice, JobState
from shared.plural import counted


def explain_job(job: Job, devices: Sequence[JobDevice]) -> tuple[str, ...]:
    """Return the sentences of one Job, in the order in which it happened."""
    answered = [device for device in devices if device.rounds_answered]
    refused_count = sum(device.updates_refused for device in devices)
    at = datetime.fromtimestamp(job.created_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    told = [
        f"Job {job.job_id} was started by {job.created_by} at {at}, for "
        f"{counted(len(devices), 'device')} to learn {job.model} together "
        f"from checkpoint {job.checkpoint_id}.",
        f"{counted(len(answered), 'device')} answered; {job.rounds_done} of "
        f"{counted(job.order.rounds, 'Round')} came to their end; the checks refused "
        f"{counted(refused_count, 'update')}.",
    ]
    if job.state is not JobState.FINISHED:
        told.append(f"It is {job.state}.")
    else:
        told.append(f"It ended {job.outcome}: {job.text} [{job.code}]")
    if job.candidate_id is not None:
        what = f"release {job.model}:{job.release_version}" if job.release_version else "nothing"
        told.append(
            f"Checkpoint {job.result_checkpoint_id} went to the gate as {job.candidate_id} and "
            f"became {what}."
        )
    return tuple(told)
