"""Commands about Jobs: devices learn together."""

import argparse
from functools import partial

from cloud_hub.command_line.commands import Context, open_context
from cloud_hub.command_line.finding import find_device
from cloud_hub.command_line.job_answers import Job, JobDevices, JobEvents, Jobs, Rounds
from cloud_hub.command_line.job_watch import watch
from cloud_hub.command_line.order_arguments import add_order_arguments, read_order
from cloud_hub.command_line.output import Output, clock_text
from shared.command_line import Command, Run
from shared.exit_codes import DONE

HEADING = "Learning together"
EVENTS_SHOWN = 20
BYTES_OF_MEGABYTE = 1e6


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


def list_jobs(args: argparse.Namespace) -> int:
    """List Jobs, newest first."""
    context = open_context(args)
    query = {"limit": args.limit, "model": args.model}
    with context.hub as hub:
        answer = hub.get("/api/v1/jobs", Jobs, query=query)
    rows = [
        (
            job.job_id,
            job.model,
            job.outcome or job.state,
            f"{job.rounds_done}/{job.rounds}",
            _came_of(job),
            clock_text(job.created_ms),
        )
        for job in answer.value.jobs
    ]
    empty = "No Job yet. Next: cloud-hub jobs start --model MODEL --rounds 5 --watch"
    columns = ("job", "model", "state", "rounds", "result", "started")
    context.output.table(columns, rows, empty=empty)
    context.output.result(answer.json)
    return DONE


def show_job(args: argparse.Namespace) -> int:
    """Show one Job: how it stands, its Rounds, its devices."""
    context = open_context(args)
    path = f"/api/v1/jobs/{args.job}"
    with context.hub as hub:
        answer = hub.get(path, Job)
        rounds = hub.get(f"{path}/rounds", Rounds)
        devices = hub.get(f"{path}/devices", JobDevices)
    _show(context.output, answer.value)
    context.output.say("")
    _rounds_table(context.output, rounds.value)
    context.output.say("")
    _devices_table(context.output, devices.value)
    parts = (answer.json, rounds.json, devices.json)
    context.output.result(b'{"job":%b,"rounds":%b,"devices":%b}' % parts)
    return DONE


def watch_job(args: argparse.Namespace) -> int:
    """Follow a Job until it ends; exit with 7 unless it completed."""
    context = open_context(args)
    with context.hub:
        return watch(context, args.job)


def list_devices(args: argparse.Namespace) -> int:
    """List the devices of a Job: what each does, or why it does not."""
    context = open_context(args)
    with context.hub as hub:
        answer = hub.get(f"/api/v1/jobs/{args.job}/devices", JobDevices)
    _devices_table(context.output, answer.value)
    context.output.result(answer.json)
    return DONE


def list_rounds(args: argparse.Namespace) -> int:
    """List the Rounds of a Job."""
    context = open_context(args)
    with context.hub as hub:
        answer = hub.get(f"/api/v1/jobs/{args.job}/rounds", Rounds)
    _rounds_table(context.output, answer.value)
    context.output.result(answer.json)
    return DONE


def list_events(args: argparse.Namespace) -> int:
    """List what happened in a Job, oldest first."""
    context = open_context(args)
    with context.hub as hub:
        path = f"/api/v1/jobs/{args.job}/events"
        answer = hub.get(path, JobEvents, query={"after": args.after})
    for event in answer.value.events:
        whose = f"{event.device}: " if event.device else ""
        context.output.say(f"{clock_text(event.at_ms)}  {whose}{event.sentence}")
    context.output.result(answer.json)
    return DONE


def _act(act: str) -> Run:
    def run(args: argparse.Namespace) -> int:
        context: Context = open_context(args)
        body = {"why": args.because} if act == "stop" else None
        with context.hub as hub:
            answer = hub.send("POST", f"/api/v1/jobs/{args.job}/{act}", Job, body)
        context.output.say(f"{answer.value.job_id}: {answer.value.sentence}")
        context.output.result(answer.json)
        return DONE

    return run


def _show(output: Output, job: Job) -> None:
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


def _rounds_table(output: Output, rounds: Rounds) -> None:
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


def _devices_table(output: Output, devices: JobDevices) -> None:
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


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{value * 100:.1f} %"


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
        "list Jobs, newest first",
        list_jobs,
        _list_arguments,
        examples=("cloud-hub jobs list", "cloud-hub jobs list --model digits"),
    ),
    Command(
        ("jobs", "show"),
        HEADING,
        "show one Job with its Rounds and devices",
        show_job,
        _job_argument,
        examples=("cloud-hub jobs show job-7fk2mq9x",),
    ),
    Command(
        ("jobs", "watch"),
        HEADING,
        "follow a Job until it ends",
        watch_job,
        _job_argument,
        examples=("cloud-hub jobs watch job-7fk2mq9x",),
        description="Exit code 0 if it completed, 7 if it was stopped or failed.",
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
        _act("stop"),
        _stop_arguments,
        examples=("cloud-hub jobs stop job-7fk2mq9x --because 'wrong group'",),
    ),
)
