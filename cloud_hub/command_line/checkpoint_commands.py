"""Commands about checkpoints: networks with weights, from which Jobs start."""

import argparse
from pathlib import Path

import msgspec

from cloud_hub.command_line.answers import Release
from cloud_hub.command_line.commands import open_context
from cloud_hub.command_line.output import Output, clock_text
from shared.command_line import Command
from shared.exit_codes import DONE

HEADING = "Learning together"


class Checkpoint(msgspec.Struct, frozen=True):
    """What commands read of a checkpoint."""

    checkpoint_id: str
    model: str
    weights_digest: str
    parameters_count: int
    lineage_id: str
    origin: str
    created_ms: int


class Checkpoints(msgspec.Struct, frozen=True):
    """Checkpoints, newest first."""

    checkpoints: tuple[Checkpoint, ...]


def add_checkpoint(args: argparse.Namespace) -> int:
    """Add a network with its weights."""
    context = open_context(args)
    files = [("spec", args.spec), ("network", args.network)]
    if args.weights is not None:
        files.append(("weights", args.weights))
    with context.hub as hub:
        answer = hub.upload("/api/v1/checkpoints", Checkpoint, files=files, fields={})
    found, output = answer.value, context.output
    output.say(f"Added {found.checkpoint_id}.")
    _show(output, found)
    output.say("")
    output.say(f"Next: cloud-hub jobs start --model {found.model} --rounds 5 --watch")
    output.result(answer.json)
    return DONE


def list_checkpoints(args: argparse.Namespace) -> int:
    """List checkpoints, newest first."""
    context = open_context(args)
    with context.hub as hub:
        answer = hub.get("/api/v1/checkpoints", Checkpoints, query={"model": args.model})
    rows = [
        (
            found.checkpoint_id,
            found.model,
            f"{found.parameters_count:,}",
            found.origin,
            clock_text(found.created_ms),
        )
        for found in answer.value.checkpoints
    ]
    empty = (
        "There is no checkpoint yet. "
        "Next: cloud-hub checkpoints add --spec spec.toml --network network.toml"
    )
    columns = ("checkpoint", "model", "parameters#", "from", "created")
    context.output.table(columns, rows, empty=empty)
    context.output.result(answer.json)
    return DONE


def export_checkpoint(args: argparse.Namespace) -> int:
    """Write a checkpoint's weights into a file."""
    context = open_context(args)
    path = f"/api/v1/checkpoints/{args.checkpoint}"
    out = args.out or Path(f"{args.checkpoint}.npz")
    with context.hub as hub:
        answer = hub.get(path, Checkpoint)
        count = hub.download(f"{path}/weights", out)
    context.output.say(f"Wrote {count:,} bytes to {out}.")
    context.output.result(answer.json)
    return DONE


def remove_checkpoint(args: argparse.Namespace) -> int:
    """Remove a checkpoint and its weights."""
    context = open_context(args)
    with context.hub as hub:
        answer = hub.send("DELETE", f"/api/v1/checkpoints/{args.checkpoint}", Checkpoint)
    context.output.say(f"Removed {answer.value.checkpoint_id} of {answer.value.model}.")
    context.output.result(answer.json)
    return DONE


def release_checkpoint(args: argparse.Namespace) -> int:
    """Export a checkpoint and have the gate judge it."""
    context = open_context(args)
    path = f"/api/v1/checkpoints/{args.checkpoint}/release"
    with context.hub as hub:
        answer = hub.upload(path, Release, files=(), fields={"notes": args.notes})
    release = answer.value
    context.output.say(f"Published {release.model} version {release.version}.")
    context.output.say(f"What the gate said: cloud-hub why {release.model}:{release.version}")
    context.output.say(
        f"Next: cloud-hub rollouts start --model {release.model} "
        f"--version {release.version} --watch"
    )
    context.output.result(answer.json)
    return DONE


def _show(output: Output, found: Checkpoint) -> None:
    output.facts(
        [
            ("model", found.model),
            ("parameters", f"{found.parameters_count:,}"),
            ("weights", f"{found.origin}, {found.weights_digest[:12]}"),
            ("lineage", found.lineage_id),
        ]
    )


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--spec", type=Path, required=True, metavar="SPEC.toml", help="its input, task and output"
    )
    parser.add_argument(
        "--network", type=Path, required=True, metavar="NETWORK.toml", help="its architecture"
    )
    parser.add_argument(
        "--weights",
        type=Path,
        metavar="WEIGHTS.npz",
        help="one array for each parameter, by name; drawn by the hub if not given",
    )


def _list_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", metavar="MODEL", help="only those of this model")


def _checkpoint_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "checkpoint", metavar="CHECKPOINT", help="its id, as `checkpoints list` says it"
    )


def _export_arguments(parser: argparse.ArgumentParser) -> None:
    _checkpoint_argument(parser)
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="where to (default: CHECKPOINT.npz here)"
    )


def _release_arguments(parser: argparse.ArgumentParser) -> None:
    _checkpoint_argument(parser)
    parser.add_argument("--notes", default="", help="a sentence for whoever reads this later")


COMMANDS = (
    Command(
        ("checkpoints", "add"),
        HEADING,
        "add a network with its weights, to learn from",
        add_checkpoint,
        _add_arguments,
        examples=(
            "cloud-hub checkpoints add --spec digits.toml --network cnn.toml",
            "cloud-hub checkpoints add --spec digits.toml --network cnn.toml --weights w.npz",
        ),
    ),
    Command(
        ("checkpoints", "list"),
        HEADING,
        "list checkpoints, newest first",
        list_checkpoints,
        _list_arguments,
        examples=("cloud-hub checkpoints list --model digits",),
    ),
    Command(
        ("checkpoints", "export"),
        HEADING,
        "write a checkpoint's weights into a file",
        export_checkpoint,
        _export_arguments,
        examples=("cloud-hub checkpoints export ckpt-7fk2mq9x --out weights.npz",),
    ),
    Command(
        ("checkpoints", "release"),
        HEADING,
        "have the gate judge a checkpoint; publish it if it passes",
        release_checkpoint,
        _release_arguments,
        examples=("cloud-hub checkpoints release ckpt-7fk2mq9x",),
        description="It is exported, its variants are made and measured; takes up to minutes.",
    ),
    Command(
        ("checkpoints", "remove"),
        HEADING,
        "remove a checkpoint and its weights",
        remove_checkpoint,
        _checkpoint_argument,
        examples=("cloud-hub checkpoints remove ckpt-7fk2mq9x",),
        description="Not while a Job needs it; what was released from it stays.",
    ),
)
