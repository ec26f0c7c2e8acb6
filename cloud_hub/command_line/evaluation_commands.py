"""Commands about evaluation sets: held-out data on which the gate measures candidates."""

import argparse
from pathlib import Path

import msgspec

from cloud_hub.command_line.commands import open_context
from cloud_hub.command_line.output import clock_text
from shared.command_line import Command
from shared.errors import RefusedError
from shared.exit_codes import DONE

HEADING = "Models and releases"


class EvaluationSet(msgspec.Struct, frozen=True):
    """What commands read of an evaluation set."""

    digest: str
    model: str
    items_count: int
    slices: dict[str, int]
    created_ms: int


class EvaluationSets(msgspec.Struct, frozen=True):
    """Sets of a model, newest first."""

    evaluation_sets: tuple[EvaluationSet, ...]


def add_set(args: argparse.Namespace) -> int:
    """Give the hub held-out data of a model."""
    context = open_context(args)
    with context.hub as hub:
        answer = hub.send_file("PUT", _path(args.model), EvaluationSet, args.data)
    added = answer.value
    context.output.say(
        f"Candidates of {added.model} are measured on {added.items_count:,} items from now on."
    )
    context.output.facts([("slices", _slices(added)), ("digest", added.digest)])
    context.output.result(answer.json)
    return DONE


def list_sets(args: argparse.Namespace) -> int:
    """List the evaluation sets of a model; the newest one is used."""
    context = open_context(args)
    with context.hub as hub:
        answer = hub.get(_path(args.model), EvaluationSets)
    rows = [
        (each.digest[:12], clock_text(each.created_ms), f"{each.items_count:,}", _slices(each))
        for each in answer.value.evaluation_sets
    ]
    empty = (
        f"Candidates of {args.model} are measured on no data. "
        f"Next: cloud-hub evaluation add {args.model} data.npz"
    )
    context.output.table(("digest", "added", "items#", "slices"), rows, empty=empty)
    context.output.result(answer.json)
    return DONE


def remove_set(args: argparse.Namespace) -> int:
    """Remove held-out data of a model; the newest that is left is used."""
    context = open_context(args)
    with context.hub as hub:
        known = hub.get(_path(args.model), EvaluationSets).value.evaluation_sets
        found = [each for each in known if each.digest.startswith(args.digest)]
        if len(found) != 1:
            what = "is none" if not found else "are several"
            raise RefusedError(
                "evaluation.unknown",
                f"There {what} of {args.model} whose digest begins with {args.digest!r}.",
                remedy=f"See which there are: cloud-hub evaluation list {args.model}.",
            )
        path = f"{_path(args.model)}/{found[0].digest}"
        answer = hub.send("DELETE", path, EvaluationSet)
    context.output.say(f"Removed {answer.value.digest[:12]} of {answer.value.model}.")
    context.output.result(answer.json)
    return DONE


def _path(model: str) -> str:
    return f"/api/v1/models/{model}/evaluation-set"


def _slices(found: EvaluationSet) -> str:
    return ", ".join(f"{name} {count}" for name, count in found.slices.items())


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    _list_arguments(parser)
    parser.add_argument(
        "data",
        type=Path,
        metavar="DATA.npz",
        help="items (N,H,W,3) uint8, (N,T,C) float32 or (N,M) uint8 texts; labels (N,), or for a "
        "detector boxes (M,5) float32 rows of class, left, top, right, bottom in 0..1 and "
        "box_starts (N+1,); optionally slices (N,) text",
    )


def _list_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="the model's name")


def _remove_arguments(parser: argparse.ArgumentParser) -> None:
    _list_arguments(parser)
    parser.add_argument("digest", metavar="DIGEST", help="as `evaluation list` says it")


COMMANDS = (
    Command(
        ("evaluation", "add"),
        HEADING,
        "give the gate held-out data to measure candidates on",
        add_set,
        _add_arguments,
        examples=("cloud-hub evaluation add digits held-out.npz",),
        description="From the next candidate on, the gate measures every form of the model on it,\n"
        "slice by slice, beside the release that it would replace.",
    ),
    Command(
        ("evaluation", "list"),
        HEADING,
        "list the held-out data of a model, newest first",
        list_sets,
        _list_arguments,
        examples=("cloud-hub evaluation list digits",),
    ),
    Command(
        ("evaluation", "remove"),
        HEADING,
        "remove held-out data that is not wanted any more",
        remove_set,
        _remove_arguments,
        examples=("cloud-hub evaluation remove digits 3f2a9c01d4e5",),
    ),
)
