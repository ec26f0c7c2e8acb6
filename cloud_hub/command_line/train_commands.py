"""Commands about training in the cloud: order a Job, see how good it became, what it took."""

import argparse
from pathlib import Path

import msgspec

from cloud_hub.command_line.cloud_job_answers import (
    CloudJob,
    Compared,
    JobReport,
    Trials,
    Usage,
)
from cloud_hub.command_line.cloud_job_output import (
    show_compared,
    show_report,
    show_trials,
    show_usage,
)
from cloud_hub.command_line.cloud_job_watch import watch_cloud_job
from cloud_hub.command_line.commands import open_context
from cloud_hub.command_line.http_client import HubClient
from cloud_hub.command_line.train_arguments import add_cloud_order_arguments, read_cloud_order
from shared.command_line import Command
from shared.errors import ContractError
from shared.exit_codes import DONE
from shared.plural import counted

HEADING = "Training in the cloud"
BASE = "/api/v1/cloud-jobs"


class _Checkpoint(msgspec.Struct, frozen=True):
    checkpoint_id: str


class _Checkpoints(msgspec.Struct, frozen=True):
    checkpoints: tuple[_Checkpoint, ...]


def train(args: argparse.Namespace) -> int:
    """Order a Job."""
    context = open_context(args)
    with context.hub as hub:
        order = read_cloud_order(args, lambda model: _newest(hub, model))
        body = msgspec.json.encode(order)
        answer = hub.send_long("POST", BASE, CloudJob, body)
        job = answer.value
        context.output.say(f"Ordered {job.job_id}. {job.sentence}")
        if args.watch:
            return watch_cloud_job(context, job.job_id)
    context.output.say(f"Watch it with: cloud-hub jobs watch {job.job_id}")
    context.output.result(answer.json)
    return DONE


def list_trials(args: argparse.Namespace) -> int:
    """List a search's trials."""
    context = open_context(args)
    with context.hub as hub:
        answer = hub.get(f"{BASE}/{args.job}/trials", Trials)
    show_trials(context.output, answer.value)
    context.output.result(answer.json)
    return DONE


def report_job(args: argparse.Namespace) -> int:
    """Say how good what a Job made is."""
    context = open_context(args)
    with context.hub as hub:
        answer = hub.get(f"{BASE}/{args.job}/report", JobReport, query={"run": args.run})
    show_report(context.output, answer.value)
    if answer.value.plots:
        context.output.say("")
        context.output.say(f"Its pictures: cloud-hub jobs files {args.job} --to FOLDER")
    context.output.result(answer.json)
    return DONE


def compare_jobs(args: argparse.Namespace) -> int:
    """Put two Jobs or candidates beside each other."""
    context = open_context(args)
    with context.hub as hub:
        answer = hub.get(f"{BASE}/compare", Compared, query={"a": args.a, "b": args.b})
    show_compared(context.output, answer.value)
    context.output.result(answer.json)
    return DONE


def list_files(args: argparse.Namespace) -> int:
    """List a report's pictures, or write them into a folder."""
    context = open_context(args)
    path, query = f"{BASE}/{args.job}", {"run": args.run}
    with context.hub as hub:
        report = hub.get(f"{path}/report", JobReport, query=query).value
        titles = {plot.file: plot.title for plot in report.plots}
        for item in report.worst:
            titles |= dict.fromkeys(item.saliency, f"{item.name}: {item.label}")
        if args.to is not None:
            for name in titles:
                _write(args.to, name, hub.fetch(f"{path}/files/{name}", query=query))
    rows = list(titles.items())
    context.output.table(("file", "what it shows"), rows, empty="Its report has no pictures.")
    if args.to is not None:
        context.output.say(f"Written into {args.to}: {counted(len(titles), 'file')}.")
    told = {"files": [{"name": name, "title": title} for name, title in rows]}
    context.output.result(msgspec.json.encode(told))
    return DONE


def usage(args: argparse.Namespace) -> int:
    """Say what training took."""
    context = open_context(args)
    query = {"by": args.by, "month": args.month, "model": args.model, "owner": args.owner}
    with context.hub as hub:
        if args.csv and not context.output.is_json:
            table = hub.fetch("/api/v1/usage", query={**query, "format": "csv"})
            context.output.raw(table.decode().replace("\r\n", "\n"))
            return DONE
        answer = hub.get("/api/v1/usage", Usage, query=query)
    show_usage(context.output, answer.value)
    context.output.result(answer.json)
    return DONE


def _newest(hub: HubClient, model: str) -> str | None:
    """Return the newest checkpoint of a model, or None."""
    found = hub.get("/api/v1/checkpoints", _Checkpoints, query={"model": model}).value.checkpoints
    return found[0].checkpoint_id if found else None


def _write(folder: Path, name: str, data: bytes) -> None:
    """Write a picture; raises ContractError `file.unwritable`. The hub's names are no paths."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / Path(name).name).write_bytes(data)
    except OSError as error:
        raise ContractError(
            "file.unwritable",
            f"Cannot write {folder / name}: {error.strerror}.",
            remedy="Name another folder with --to.",
        ) from error


def _train_arguments(parser: argparse.ArgumentParser) -> None:
    add_cloud_order_arguments(parser)
    parser.add_argument("--watch", action="store_true", help="follow it to its end")


def _job_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("job", metavar="JOB", help="its id, as `jobs list` says it: cloud-…")


def _report_arguments(parser: argparse.ArgumentParser) -> None:
    _job_argument(parser)
    parser.add_argument(
        "--run", type=int, metavar="N", help="one run (default: the one that made the result)"
    )


def _files_arguments(parser: argparse.ArgumentParser) -> None:
    _report_arguments(parser)
    parser.add_argument("--to", type=Path, metavar="FOLDER", help="write them there")


def _compare_arguments(parser: argparse.ArgumentParser) -> None:
    for name in ("a", "b"):
        parser.add_argument(
            name, metavar=name.upper(), help="a Job in the cloud, or a candidate that one made"
        )


def _usage_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--by", choices=("model", "owner"), help="add up by this")
    parser.add_argument("--month", metavar="YYYY-MM", help="only this month (UTC)")
    parser.add_argument("--model", metavar="MODEL", help="only this model")
    parser.add_argument("--owner", metavar="NAME", help="only this owner")
    parser.add_argument("--csv", action="store_true", help="as a table of commas, to keep")


COMMANDS = (
    Command(
        ("train",),
        HEADING,
        "train a model in the cloud, on a dataset",
        train,
        _train_arguments,
        examples=(
            "cloud-hub train --model digits --dataset digits --epochs 20 --watch",
            "cloud-hub train --dataset digits --spec digits.toml --network lenet.toml",
            "cloud-hub train --model digits --dataset digits --method distillation --teacher ID",
            "cloud-hub train --model digits --dataset digits --trials 20 "
            "--vary recipe.learning_rate=0.001:0.1:log",
            "cloud-hub train --order job.toml --folds 5 --no-release",
        ),
        description="What comes out goes to the gate as any model does, unless --no-release.\n"
        "With --watch the exit code is 7 unless it completed.",
    ),
    Command(
        ("jobs", "trials"),
        HEADING,
        "list the trials of a search, the best one marked",
        list_trials,
        _job_argument,
        examples=("cloud-hub jobs trials cloud-7fk2mq9x",),
    ),
    Command(
        ("jobs", "report"),
        HEADING,
        "say how good what a Job made is: scores, classes, slices, worst items",
        report_job,
        _report_arguments,
        examples=("cloud-hub jobs report cloud-7fk2mq9x",),
    ),
    Command(
        ("jobs", "files"),
        HEADING,
        "list a report's pictures, or write them into a folder",
        list_files,
        _files_arguments,
        examples=("cloud-hub jobs files cloud-7fk2mq9x --to report/",),
    ),
    Command(
        ("jobs", "compare"),
        HEADING,
        "say which of two Jobs or candidates is better, item by item",
        compare_jobs,
        _compare_arguments,
        examples=("cloud-hub jobs compare cloud-7fk2mq9x cloud-1b3c5d7e",),
        description="A paired test over the same items; where it cannot tell, it says so.",
    ),
    Command(
        ("usage",),
        HEADING,
        "say what training took, by month, model and owner",
        usage,
        _usage_arguments,
        examples=("cloud-hub usage", "cloud-hub usage --by owner --month 2026-11 --csv"),
    ),
)
