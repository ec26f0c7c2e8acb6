"""Commands that bring a dataset's labels to a label tool and back."""

import argparse
import re
from pathlib import Path

import msgspec

from cloud_hub.command_line.commands import open_context
from cloud_hub.command_line.dataset_answers import Version
from cloud_hub.command_line.dataset_arguments import PARTS, dataset_argument
from shared.command_line import Command
from shared.errors import ContractError
from shared.exit_codes import DONE

HEADING = "Datasets"
TOOLS = ("label-studio", "cvat", "coco", "yolo")
PROBLEMS_SHOWN_MAX = 20
_ODD = re.compile(r"[^A-Za-z0-9_.-]+")


class Problem(msgspec.Struct, frozen=True):
    """Something in the file that changed nothing."""

    name: str
    reason: str


class Returned(msgspec.Struct, frozen=True):
    """What came of labels that came back."""

    version: Version
    changed_count: int
    unchanged_count: int
    problems: tuple[Problem, ...]
    problems_count: int


def export_labels(args: argparse.Namespace) -> int:
    """Write a .zip for a label tool."""
    context = open_context(args)
    path = f"/api/v1/datasets/{args.dataset}/labels"
    query: dict[str, str | int | None] = {
        "tool": args.tool,
        "version": args.version,
        "part": args.part,
        "is_labelled": "false" if args.unlabelled else None,
    }
    file = args.to or Path(f"{args.dataset}-{args.tool}.zip")
    if file.exists():
        raise ContractError(
            "file.exists", f"{file} is there already.", remedy="Name another file with --to."
        )
    with context.hub as hub:
        size = hub.download(path, file, query=query)
    context.output.say(f"Written: {file}, {size:,} bytes.")
    context.output.say(
        f"Next: cloud-hub datasets import-labels {args.dataset} FILE --tool {args.tool}"
    )
    told = {"file": str(file), "bytes_count": size, "tool": args.tool}
    context.output.result(msgspec.json.encode(told))
    return DONE


def import_labels(args: argparse.Namespace) -> int:
    """Bring labels back from a tool's file."""
    context = open_context(args)
    name = _ODD.sub("-", args.file.name).lstrip("-._")[-100:] or "labels"
    query = {"tool": args.tool, "file_name": name}
    with context.hub as hub:
        path = f"/api/v1/datasets/{args.dataset}/labels"
        answer = hub.stream_file("PUT", path, Returned, args.file, query=query)
    returned, output = answer.value, context.output
    version = returned.version
    if returned.changed_count:
        output.say(
            f"Version {version.version} of {version.dataset}: {returned.changed_count:,} labels "
            f"changed, {returned.unchanged_count:,} are as they were."
        )
    else:
        output.say(f"Nothing changed: version {version.version} of {version.dataset} stays.")
    rows = [(one.name, one.reason) for one in returned.problems[:PROBLEMS_SHOWN_MAX]]
    if rows:
        output.table(("not used", "why"), rows, empty="")
        left = returned.problems_count - len(rows)
        if left > 0:
            output.say(f"{left:,} more are left out here.")
    output.result(answer.json)
    return DONE


def _tool_argument(parser: argparse.ArgumentParser) -> None:
    dataset_argument(parser)
    parser.add_argument("--tool", choices=TOOLS, required=True, help="whose format")


def _export_arguments(parser: argparse.ArgumentParser) -> None:
    _tool_argument(parser)
    parser.add_argument("--version", type=int, metavar="N", help="(default: the newest)")
    parser.add_argument("--part", choices=PARTS, help="only this part")
    parser.add_argument("--unlabelled", action="store_true", help="only what nobody has labelled")
    parser.add_argument("--to", type=Path, metavar="FILE.zip", help="(default: DATASET-TOOL.zip)")


def _import_arguments(parser: argparse.ArgumentParser) -> None:
    _tool_argument(parser)
    parser.add_argument(
        "file", type=Path, metavar="FILE", help="the tool's .json or .xml, or a .zip of its folder"
    )


COMMANDS = (
    Command(
        ("datasets", "export"),
        HEADING,
        "write a dataset as a label tool takes it",
        export_labels,
        _export_arguments,
        examples=("cloud-hub datasets export cats --tool cvat --to cats.zip --unlabelled",),
        description="Items and what is known of their labels. COCO and YOLO hold boxes only.",
    ),
    Command(
        ("datasets", "import-labels"),
        HEADING,
        "bring labels back from a label tool, as a dataset's next version",
        import_labels,
        _import_arguments,
        examples=("cloud-hub datasets import-labels cats annotations.xml --tool cvat",),
        description="Items are found again by their names; only what differs is changed.",
    ),
)
