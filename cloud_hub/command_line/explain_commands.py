"""The command that has a model explained: how good it is on a dataset, and why."""

import argparse

from cloud_hub.command_line.cloud_job_answers import COMPLETED, CloudJob, JobReport
from cloud_hub.command_line.cloud_job_output import show_report
from cloud_hub.command_line.cloud_job_watch import watch_cloud_job
from cloud_hub.command_line.commands import open_context
from cloud_hub.command_line.train_commands import BASE, HEADING
from shared.command_line import Command
from shared.errors import ContractError
from shared.exit_codes import DONE


def explain(args: argparse.Namespace) -> int:
    """Have a model explained; with --watch, to its report."""
    context = open_context(args)
    name, _, version = args.dataset.partition(":")
    if version and not (version.isascii() and version.isdecimal()):
        raise ContractError(
            "order.dataset",
            f"{args.dataset!r} is no dataset: {version!r} is no version.",
            remedy="Write NAME or NAME:VERSION.",
        )
    wanted = {"what": args.what, "dataset": name, "device": args.device, "owner": args.owner}
    body = {key: value for key, value in wanted.items() if value is not None}
    if version:
        body["dataset_version"] = int(version)
    with context.hub as hub:
        answer = hub.send("POST", "/api/v1/explanations", CloudJob, body)
        job = answer.value.job_id
        context.output.say(f"Ordered {job}. {answer.value.sentence}")
        if args.watch:
            code = watch_cloud_job(context, job)
            if hub.get(f"{BASE}/{job}", CloudJob).value.outcome == COMPLETED:
                context.output.say("")
                show_report(context.output, hub.get(f"{BASE}/{job}/report", JobReport).value)
                context.output.say(f"Its pictures: cloud-hub jobs files {job} --to FOLDER")
            return code
    context.output.say(f"Its report, when it is done: cloud-hub jobs report {job}")
    context.output.result(answer.json)
    return DONE


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "what",
        metavar="WHAT",
        help="a checkpoint, a Job, a candidate, or a release as MODEL:VERSION",
    )
    parser.add_argument(
        "--dataset", required=True, metavar="NAME[:VERSION]", help="on what (newest version)"
    )
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), help="(default: auto)")
    parser.add_argument("--owner", metavar="NAME", help="whom its cost is counted for")
    parser.add_argument("--watch", action="store_true", help="wait for its report, and show it")


COMMANDS = (
    Command(
        ("explain",),
        HEADING,
        "say how good a model is on a dataset, and why: scores, slices, worst items, saliency",
        explain,
        _arguments,
        examples=(
            "cloud-hub explain ckpt-7fk2mq9x --dataset digits --watch",
            "cloud-hub explain digits:3 --dataset night-shift:2",
        ),
        description="Nothing is trained. Two explanations on one dataset can be compared:\n"
        "cloud-hub jobs compare.",
    ),
)
