"""Jobs of devices as a person reads them: rows, facts, tables of Rounds, devices and accuracy."""

from cloud_hub.command_line.cloud_job_answers import CloudJob
from cloud_hub.command_line.cloud_job_output import came_of
from cloud_hub.command_line.job_answers import Accuracy, Job, JobDevices, Rounds
from cloud_hub.command_line.output import Output, clock_text

BYTES_OF_MEGABYTE = 1e6
JOB_COLUMNS = ("job", "model", "state", "where", "result", "started")


def job_row(job: Job) -> tuple[str, ...]:
    """Return a Job of devices as a row of the list of all."""
    return (
        job.job_id,
        job.model,
        job.outcome or job.state,
        f"devices, Round {job.rounds_done}/{job.rounds}",
        _came_of(job),
        clock_text(job.created_ms),
    )


def cloud_job_row(job: CloudJob) -> tuple[str, ...]:
    """Return a Job in the cloud as a row of the list of all."""
    return (
        job.job_id,
        job.model,
        job.outcome or job.state,
        f"cloud, {job.dataset}:{job.dataset_version}",
        came_of(job),
        clock_text(job.created_ms),
    )


def show_learning_job(output: Output, job: Job) -> None:
    """Show how a Job of devices stands."""
    output.facts(
        [
            ("job", job.job_id),
            ("model", f"{job.model}, from {job.checkpoint_id}"),
            ("state", f"{job.outcome or job.state} {job.code}".strip()),
            ("rounds", f"{job.rounds_done} of {job.rounds}"),
            ("result", _came_of(job)),
            ("started", f"{clock_text(job.created_ms)} by {job.created_by}"),
        ]
    )
    output.say(job.sentence)


def _came_of(job: Job) -> str:
    if job.release_version is not None:
        return f"release {job.model}:{job.release_version}"
    if job.candidate_id is not None:
        return f"refused: {job.candidate_id}"
    return job.result_checkpoint_id or ""


def rounds_table(output: Output, rounds: Rounds) -> None:
    """Show what came of each Round."""
    rows = [
        (
            str(each.round),
            f"{each.devices_counted}/{each.devices_asked}",
            str(each.devices_refused),
            str(each.devices_silent),
            "–" if each.loss is None else f"{each.loss:.3f}",
            _percent(each.accuracy),
            f"{each.bytes_up / BYTES_OF_MEGABYTE:.2f}",
            "" if each.epsilon is None else f"{each.epsilon:.2f}",
        )
        for each in rounds.rounds
    ]
    columns = ("round#", "counted", "refused#", "silent#", "loss#", "accuracy#", "MB up#", "eps#")
    output.table(columns, rows, empty="No Round has begun yet.")


def devices_table(output: Output, devices: JobDevices) -> None:
    """Show what each device does, or why it does not."""
    rows = [
        (
            each.device_id,
            each.state or "silent",
            str(each.rounds_answered),
            str(each.updates_refused),
            f"{each.bytes_up / BYTES_OF_MEGABYTE:.2f}",
            f"{_percent(each.accuracy_before)} > {_percent(each.accuracy_after)}",
            each.sentence,
        )
        for each in devices.devices
    ]
    columns = ("device", "state", "answered#", "refused#", "MB up#", "accuracy", "what it says")
    output.table(columns, rows, empty="It has not been given to devices yet.")


def accuracy_table(output: Output, accuracy: Accuracy) -> None:
    """Show how accuracy is spread over devices, each on its own held-out samples."""
    named = (("before", accuracy.before), ("after", accuracy.after), ("change", accuracy.change))
    rows = [
        (
            name,
            f"{found.count}/{accuracy.devices_count}",
            _percent(found.minimum),
            _percent(found.quartile_1),
            _percent(found.median),
            _percent(found.quartile_3),
            _percent(found.maximum),
        )
        for name, found in named
        if found is not None
    ]
    columns = ("accuracy", "told#", "lowest#", "25 %#", "median#", "75 %#", "highest#")
    output.table(columns, rows, empty="No device has told its accuracy yet.")
    if accuracy.change is not None:
        output.say(f"It fell on {accuracy.worse_count} of {accuracy.change.count}.")


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{value * 100:.1f} %"
