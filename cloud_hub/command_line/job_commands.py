"""Commands about Jobs: devices learn together. Those of the cloud have ids that begin "cloud-".

What only devices have (Rounds, approval) is here; what only the cloud has (trials, reports) is in
train_commands.py. Commands that both have look at the id.
"""

import argparse
from functools import partial

import msgspec

from cloud_hub.command_line.cloud_job_answers import (
    CLOUD_START,
    CloudJob,
    CloudJobs,
    RunEvents,
    TrainingRuns,
)
from cloud_hub.command_line.cloud_job_output import RUN_COLUMNS, run_rows, show_job
from cloud_hub.command_line.cloud_job_watch import watch_cloud_job
from cloud_hub.command_line.commands import Context, open_context
from cloud_hub.command_line.finding import find_device
from cloud_hub.command_line.job_answers import (
    Accuracy,
    Job,
    JobDevices,
    JobEvents,
    Jobs,
    Rounds,
)
from cloud_hub.command_line.job_output import (
    JOB_COLUMNS,
    accuracy_table,
    cloud_job_row,
    devices_table,
    job_row,
    rounds_table,
    show_learning_job,
)
from cloud_hub.command_line.job_watch import watch
from cloud_hub.command_line.order_arguments import add_order_arguments, read_order
from cloud_hub.command_line.output import clock_text
from shared.command_line import Command, Run
from shared.errors import RefusedError
from shared.exit_codes import DONE

HEADING = "Learning together"


def start_job(args: argparse.Namespace) -> int:
    """Let devices learn together."""
    context = open_context(args)
    with context.hub as hub:
        order = read_order(args, partial(find_device, hub))
        answer = hub.send("POST", "/api/v1/jobs", Job, order)
        job = answer.value
        context.output.say(f"Started {job.job_id}. {job.sentence}")
        if args.watch:
            return watch(context, job.job_id)
    if job.state == "submitted":
        context.output.say(f"Next: cloud-hub jobs approve {job.job_id}")
    context.output.say(f"Watch it with: cloud-hub jobs watch {job.job_id}")
    context.output.result(answer.json)
    return DONE


class _RawJobs(msgspec.Struct, frozen=True):
    jobs: tuple[msgspec.Raw, ...]


def list_jobs(args: argparse.Namespace) -> int:
    """List Jobs of both kinds, newest first."""
    context = open_context(args)
    query = {"limit": args.limit, "model": args.model}
    with context.hub as hub:
        jobs = hub.get("/api/v1/jobs", Jobs, query=query)
        cloud = hub.get("/api/v1/cloud-jobs", CloudJobs, query=query)
    rows = [(job.created_ms, job_row(job)) for job in jobs.value.jobs]
    rows += [(job.created_ms, cloud_job_row(job)) for job in cloud.value.jobs]
    rows.sort(key=lambda pair: -pair[0])
    empty = (
        "No Job yet. Next: cloud-hub train --model MODEL --dataset DATASET --watch, or "
        "cloud-hub jobs start --model MODEL --rounds 5 --watch"
    )
    context.output.table(JOB_COLUMNS, [row for _, row in rows[: args.limit]], empty=empty)
    found = [msgspec.json.decode(answer.json, type=_RawJobs).jobs for answer in (jobs, cloud)]
    context.output.result(msgspec.json.encode({"jobs": found[0], "cloud_jobs": found[1]}))
    return DONE


def show_any_job(args: argparse.Namespace) -> int:
    """Show one Job: how it stands, and its Rounds and devices, or its runs."""
    return _show_cloud_job(args) if _is_cloud(args.job) else _show_job(args)


def _show_job(args: argparse.Namespace) -> int:
    context = open_context(args)
    path = f"/api/v1/jobs/{args.job}"
    with context.hub as hub:
        answer = hub.get(path, Job)
        rounds = hub.get(f"{path}/rounds", Rounds)
        devices = hub.get(f"{path}/devices", JobDevices)
        accuracy = hub.get(f"{path}/accuracy", Accuracy)
    show_learning_job(context.output, answer.value)
    context.output.say("")
    rounds_table(context.output, rounds.value)
    context.output.say("")
    devices_table(context.output, devices.value)
    context.output.say("")
    accuracy_table(context.output, accuracy.value)
    parts = (answer.json, rounds.json, devices.json, accuracy.json)
    context.output.result(b'{"job":%b,"rounds":%b,"devices":%b,"accuracy":%b}' % parts)
    return DONE


def _show_cloud_job(args: argparse.Namespace) -> int:
    context = open_context(args)
    path = f"/api/v1/cloud-jobs/{args.job}"
    with context.hub as hub:
        answer = hub.get(path, CloudJob)
        runs = hub.get(f"{path}/runs", TrainingRuns)
    show_job(context.output, answer.value)
    context.output.say("")
    context.output.table(RUN_COLUMNS, run_rows(runs.value), empty="It has no run yet.")
    context.output.result(b'{"job":%b,"runs":%b}' % (answer.json, runs.json))
    return DONE


def watch_job(args: argparse.Namespace) -> int:
    """Follow a Job until it ends; exit with 7 unless it completed."""
    context = open_context(args)
    with context.hub:
        if _is_cloud(args.job):
            return watch_cloud_job(context, args.job)
        return watch(context, args.job)


def show_log(args: argparse.Namespace) -> int:
    """Write what a run's processes printed; of devices, what happened."""
    if not _is_cloud(args.job):
        args.after = 0
        return list_events(args)
    context = open_context(args)
    path = f"/api/v1/cloud-jobs/{args.job}/runs/{args.run}/log"
    with context.hub as hub:
        text = hub.fetch(path, query={"tail": args.tail}).decode("utf-8", "replace")
    if text:
        context.output.raw(text if text.endswith("\n") else f"{text}\n")
    else:
        context.output.say("Nothing was printed, or it is gone.")
    context.output.result(msgspec.json.encode({"log": text}))
    return DONE


def list_devices(args: argparse.Namespace) -> int:
    """List the devices of a Job: what each does, or why it does not."""
    _require_devices(args.job)
    context = open_context(args)
    with context.hub as hub:
        answer = hub.get(f"/api/v1/jobs/{args.job}/devices", JobDevices)
    devices_table(context.output, answer.value)
    context.output.result(answer.json)
    return DONE


def list_rounds(args: argparse.Namespace) -> int:
    """List the Rounds of a Job."""
    _require_devices(args.job)
    context = open_context(args)
    with context.hub as hub:
        answer = hub.get(f"/api/v1/jobs/{args.job}/rounds", Rounds)
    rounds_table(context.output, answer.value)
    context.output.result(answer.json)
    return DONE


def list_events(args: argparse.Namespace) -> int:
    """List what happened in a Job, oldest first."""
    if _is_cloud(args.job):
        return _list_cloud_events(args)
    context = open_context(args)
    with context.hub as hub:
        path = f"/api/v1/jobs/{args.job}/events"
        answer = hub.get(path, JobEvents, query={"after": args.after})
    for event in answer.value.events:
        whose = f"{event.device}: " if event.device else ""
        context.output.say(f"{clock_text(event.at_ms)}  {whose}{event.sentence}")
    context.output.result(answer.json)
    return DONE


def _list_cloud_events(args: argparse.Namespace) -> int:
    context = open_context(args)
    query = {"after": args.after, "run": args.run}
    with context.hub as hub:
        answer = hub.get(f"/api/v1/cloud-jobs/{args.job}/events", RunEvents, query=query)
    for event in answer.value.events:
        context.output.say(f"{clock_text(event.at_ms)}  {event.sentence}")
    context.output.result(answer.json)
    return DONE


def stop_job(args: argparse.Namespace) -> int:
    """End a Job before its time."""
    if not _is_cloud(args.job):
        return _act("stop")(args)
    context = open_context(args)
    with context.hub as hub:
        path = f"/api/v1/cloud-jobs/{args.job}/stop"
        answer = hub.send("POST", path, CloudJob, {"why": args.because})
    context.output.say(f"{answer.value.job_id}: {answer.value.sentence}")
    context.output.result(answer.json)
    return DONE


def _act(act: str) -> Run:
    def run(args: argparse.Namespace) -> int:
        _require_devices(args.job, is_needed=act != "stop")
        context: Context = open_context(args)
        body = {"why": args.because} if act == "stop" else None
        with context.hub as hub:
            answer = hub.send("POST", f"/api/v1/jobs/{args.job}/{act}", Job, body)
        context.output.say(f"{answer.value.job_id}: {answer.value.sentence}")
        context.output.result(answer.json)
        return DONE

    return run


def _is_cloud(job: str) -> bool:
    return job.startswith(CLOUD_START)


def _require_devices(job: str, *, is_needed: bool = True) -> None:
    """Return unless a Job in the cloud is asked for what only devices have."""
    if is_needed and _is_cloud(job):
        raise RefusedError(
            "job.other_kind",
            f"{job} trains in the cloud: it has no devices, Rounds or approval.",
            remedy=f"See cloud-hub jobs show {job}.",
        )


def _start_arguments(parser: argparse.ArgumentParser) -> None:
    add_order_arguments(parser)
    parser.add_argument("--watch", action="store_true", help="follow it to its end")


def _list_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--limit", type=int, default=20, metavar="N", help="(default: 20)")
    parser.add_argument("--model", metavar="MODEL", help="only those of this model")


def _job_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("job", metavar="JOB", help="its id, as `jobs list` says it")


def _events_arguments(parser: argparse.ArgumentParser) -> None:
    _job_argument(parser)
    parser.add_argument("--after", type=int, default=0, metavar="NUMBER", help="only later ones")
    _run_argument(parser)


def _run_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--run", type=int, default=0, metavar="N", help="in the cloud: which run (default: 0)"
    )


def _log_arguments(parser: argparse.ArgumentParser) -> None:
    _job_argument(parser)
    _run_argument(parser)
    parser.add_argument(
        "--tail", type=int, default=65_536, metavar="BYTES", help="at most (default: 65536)"
    )


def _stop_arguments(parser: argparse.ArgumentParser) -> None:
    _job_argument(parser)
    parser.add_argument("--because", default="", metavar="TEXT", help="why; it is kept")


COMMANDS = (
    Command(
        ("jobs", "start"),
        HEADING,
        "let devices learn together, on their own samples",
        start_job,
        _start_arguments,
        examples=(
            "cloud-hub jobs start --model digits --group north --rounds 5 --watch",
            "cloud-hub jobs start --file job.toml --rounds 10 --encoding int8",
            "cloud-hub jobs start --model digits --strategy fedyogi --set strategy.eta=0.03",
            "cloud-hub jobs start --model digits --clip-norm 1 --noise-multiplier 2",
        ),
        description="No sample leaves a device. What comes out goes to the gate as any model\n"
        "does, unless --no-release. With --watch the exit code is 7 unless it completed.",
    ),
    Command(
        ("jobs", "list"),
        HEADING,
        "list Jobs of devices and in the cloud, newest first",
        list_jobs,
        _list_arguments,
        examples=("cloud-hub jobs list", "cloud-hub jobs list --model digits"),
    ),
    Command(
        ("jobs", "show"),
        HEADING,
        "show one Job with its Rounds and devices, or its runs",
        show_any_job,
        _job_argument,
        examples=("cloud-hub jobs show job-7fk2mq9x", "cloud-hub jobs show cloud-7fk2mq9x"),
    ),
    Command(
        ("jobs", "watch"),
        HEADING,
        "follow a Job until it ends",
        watch_job,
        _job_argument,
        examples=("cloud-hub jobs watch job-7fk2mq9x", "cloud-hub jobs watch cloud-7fk2mq9x"),
        description="Exit code 0 if it completed, 7 if it was stopped or failed.",
    ),
    Command(
        ("jobs", "logs"),
        HEADING,
        "write what a run's processes printed; of devices, what happened",
        show_log,
        _log_arguments,
        examples=("cloud-hub jobs logs cloud-7fk2mq9x --tail 4000",),
    ),
    Command(
        ("jobs", "rounds"),
        HEADING,
        "list the Rounds of a Job",
        list_rounds,
        _job_argument,
        examples=("cloud-hub jobs rounds job-7fk2mq9x",),
    ),
    Command(
        ("jobs", "devices"),
        HEADING,
        "list who takes part in a Job, and why others do not",
        list_devices,
        _job_argument,
        examples=("cloud-hub jobs devices job-7fk2mq9x",),
    ),
    Command(
        ("jobs", "events"),
        HEADING,
        "list what happened in a Job",
        list_events,
        _events_arguments,
        examples=("cloud-hub jobs events job-7fk2mq9x --after 20",),
    ),
    Command(
        ("jobs", "approve"),
        HEADING,
        "let a Job begin that waits for a person",
        _act("approve"),
        _job_argument,
        examples=("cloud-hub jobs approve job-7fk2mq9x",),
    ),
    Command(
        ("jobs", "stop"),
        HEADING,
        "end a Job for good; what it learned so far is kept",
        stop_job,
        _stop_arguments,
        examples=("cloud-hub jobs stop job-7fk2mq9x --because 'wrong group'",),
    ),
)
