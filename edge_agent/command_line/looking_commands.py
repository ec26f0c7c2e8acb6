"""status, top, why, learning, sharing: what the device does, and why."""

import argparse
from pathlib import Path

from edge_agent.command_line.learning_view import learning_lines, owner_ledger, view_learning
from edge_agent.command_line.program import HEADINGS, PROGRAM
from edge_agent.command_line.sharing_view import sharing_lines, view_sharing
from edge_agent.command_line.status_text import status_lines, why_lines
from edge_agent.command_line.top_view import show_top
from edge_agent.config import load_config
from edge_agent.file_status import AgentStatus, StatusFile
from shared.clock import SystemClock
from shared.command_line import (
    Command,
    count,
    print_json,
    stop_on_signals,
)
from shared.errors import RefusedError, UnavailableError
from shared.exit_codes import DONE


def _status(args: argparse.Namespace) -> int:
    status = _read_status(args.state)
    if args.json:
        print_json(status)
    else:
        print("\n".join(status_lines(status)))
    return DONE


def _add_why(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", nargs="?", metavar="MODEL", help="only this model")


def _why(args: argparse.Namespace) -> int:
    models = _read_status(args.state).report.models
    chosen = [model for model in models if args.model in (None, model.model)]
    if not chosen:
        names = ", ".join(model.model for model in models) or "none"
        raise RefusedError(
            "why.unknown_model",
            f"No pipeline of this device uses a model {args.model}.",
            remedy=f"There is: {names}.",
        )
    if args.json:
        print_json({"models": chosen})
    else:
        print("\n".join(line for model in chosen for line in why_lines(model)))
    return DONE


def _read_status(state: Path) -> AgentStatus:
    status = StatusFile(state / "run").read(now_s=SystemClock().now_s())
    if status is None:
        raise UnavailableError(
            "agent.not_running",
            f"No agent runs with the state folder {state}.",
            remedy=f"Start it with `{PROGRAM} run --config agent.toml`, or name the folder of one "
            "that runs with --state.",
        )
    return status


def _add_top(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--once", action="store_true", help="print it once and end")


def _top(args: argparse.Namespace) -> int:
    if args.json:
        print_json(_read_status(args.state).numbers)
        return DONE
    show_top(lambda: _read_status(args.state), stop_on_signals(), SystemClock(), once=args.once)
    return DONE


def _add_learning(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config", type=Path, required=True, metavar="FILE", help="the file with [learning]"
    )
    parser.add_argument(
        "--adopt-ledger",
        action="store_true",
        help="sign the privacy ledger as it stands with this device's key of now",
    )


def _learning(args: argparse.Namespace) -> int:
    config = load_config(args.config)
    if args.adopt_ledger:
        owner_ledger(config, args.state).adopt()
    view = view_learning(config, args.state, SystemClock())
    if args.json:
        print_json(view)
    else:
        print("\n".join(learning_lines(view)))
    return DONE


def _add_sharing(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config", type=Path, required=True, metavar="FILE", help="the file with [sharing]"
    )
    parser.add_argument(
        "--last",
        type=count,
        default=0,
        metavar="N",
        help="also list the last N samples that left (default: %(default)s)",
    )


def _sharing(args: argparse.Namespace) -> int:
    view = view_sharing(load_config(args.config), args.state, SystemClock(), last=args.last)
    if args.json:
        print_json(view)
    else:
        print("\n".join(sharing_lines(view)))
    return DONE


COMMANDS = (
    Command(
        ("status",),
        HEADINGS[2],
        "say what the running agent does",
        _status,
        examples=("edge-agent status", "edge-agent status --json | jq .report.models"),
        description="Exit code 6 if none runs with this state folder.",
    ),
    Command(
        ("top",),
        HEADINGS[2],
        "watch pipelines: items, stages, memory, once a second",
        _top,
        _add_top,
        examples=("edge-agent top", "edge-agent top --once", "edge-agent top --json"),
        description="Frames in, gated, dropped, decided; p50, p95 and p99 of each stage; the\n"
        "processes that run models. Ctrl-C ends it. Exit code 6 if no agent runs.",
    ),
    Command(
        ("why",),
        HEADINGS[2],
        "say why this device runs what it runs",
        _why,
        _add_why,
        examples=("edge-agent why", "edge-agent why digits"),
    ),
    Command(
        ("learning",),
        HEADINGS[2],
        "say what this device may learn, and what its privacy has cost",
        _learning,
        _add_learning,
        examples=(
            "edge-agent learning --config agent.toml",
            "edge-agent learning --config agent.toml --adopt-ledger",
        ),
        description="The owner's policy in words, what stands in the way now, samples, and the\n"
        "privacy ledger. --adopt-ledger is for a device that joined a hub again and so has\n"
        "another key: what was spent stays spent.",
    ),
    Command(
        ("sharing",),
        HEADINGS[2],
        "say which samples may leave this device, and which have",
        _sharing,
        _add_sharing,
        examples=(
            "edge-agent sharing --config agent.toml",
            "edge-agent sharing --config agent.toml --last 20",
        ),
        description="The owner's policy in words, what stands in the way now, what is left of the\n"
        "day, and what the hub has asked for. Without [sharing] in the file nothing ever leaves.",
    ),
)
