"""run, spec, try, bench: models on this device."""

import argparse
import sys
from pathlib import Path

from edge_agent.agent import Agent
from edge_agent.command_line.bench_model import run_bench
from edge_agent.command_line.bench_text import bench_as_json, print_bench
from edge_agent.command_line.program import HEADINGS
from edge_agent.command_line.spec_draft import check, to_toml
from edge_agent.command_line.spec_reading import draft_spec
from edge_agent.command_line.try_command import TRY, add_tokenizer
from edge_agent.config import load_config
from edge_agent.inference.onnx_facts import read_facts
from shared.clock import SystemClock
from shared.command_line import (
    Command,
    print_json,
    stop_on_signals,
)
from shared.errors import RefusedError
from shared.exit_codes import DONE
from shared.logs import set_up_logging

OPEN_SIZES = (
    "The file leaves sizes open. It can be tried, but a hub takes only one whose sizes are fixed: "
    "export it without dynamic axes."
)


def _add_run(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config", type=Path, required=True, metavar="FILE", help="the pipelines, as TOML"
    )


def _run(args: argparse.Namespace) -> int:
    config = load_config(args.config)
    set_up_logging(level=config.log_level)
    stop = stop_on_signals()
    Agent(config, args.state, SystemClock()).run(stop)
    return DONE


def _add_spec(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", type=Path, metavar="MODEL", help="an ONNX file")
    parser.add_argument(
        "--name", metavar="NAME", help="what pipelines and rollouts call it (default: the file's)"
    )
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="write it there, if there is no such file yet"
    )


def _spec(args: argparse.Namespace) -> int:
    facts = read_facts(args.model)
    draft = draft_spec(facts, args.name or args.model.stem)
    spec = check(draft)
    text = to_toml(draft)
    if args.out is not None:
        _write_new(args.out, text)
    if args.json:
        print_json({"spec": spec, "guessed": sorted(draft.guessed)})
        return DONE
    if args.out is None:
        print(text, end="")
    if draft.guessed:
        print(f"Guessed, look at it: {', '.join(draft.guessed)}.", file=sys.stderr)
    if any(not isinstance(size, int) for size in facts.inputs[0].shape[1:]):
        print(OPEN_SIZES, file=sys.stderr)
    return DONE


def _write_new(path: Path, text: str) -> None:
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise RefusedError(
            "spec.not_written",
            f"{path} was not written: {error.strerror}.",
            remedy="Name another file with --out.",
        ) from error


def _add_bench(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", type=Path, nargs="?", metavar="MODEL", help="an ONNX file")
    parser.add_argument(
        "--spec", type=Path, metavar="FILE", help="its input, task and output, as TOML"
    )
    parser.add_argument(
        "--variants", type=Path, metavar="DIR", help="time every .onnx in this folder too"
    )
    parser.add_argument(
        "--release",
        default="",
        metavar="MODEL:VERSION",
        help="a release that has settled on this device, instead of a file",
    )
    add_tokenizer(parser)


def _bench(args: argparse.Namespace) -> int:
    set_up_logging(level="ERROR", stream=sys.stderr)
    summary = run_bench(
        args.model,
        args.spec,
        variants=args.variants,
        tokenizer=args.tokenizer,
        release=args.release,
        state=args.state,
    )
    if args.json:
        print_json(bench_as_json(summary))
    else:
        print_bench(summary)
    return DONE


COMMANDS = (
    Command(
        ("run",),
        HEADINGS[1],
        "run the pipelines, until stopped",
        _run,
        _add_run,
        examples=(
            "edge-agent run --config agent.toml",
            "edge-agent run --config /etc/isthmus/agent.toml --state /var/lib/isthmus-agent",
        ),
        description="It goes on until SIGTERM or Ctrl-C, with or without a connection to the hub.\n"
        "The device must have joined one. Its log goes to stdout.",
    ),
    Command(
        ("spec",),
        HEADINGS[1],
        "draft the spec of a model from its file",
        _spec,
        _add_spec,
        examples=(
            "edge-agent spec best.onnx --out spec.toml",
            "edge-agent spec best.onnx --name forklifts --json",
        ),
        description="Files of ultralytics say their classes and size; of others the shapes are\n"
        "read, and what they do not say is marked as guessed.",
    ),
    TRY,
    Command(
        ("bench",),
        HEADINGS[1],
        "time a model here in every way it could be run, and say which is chosen",
        _bench,
        _add_bench,
        examples=(
            "edge-agent bench model.onnx --spec spec.toml",
            "edge-agent bench --variants exported --spec spec.toml --json",
            "edge-agent bench --release digits:2",
        ),
        description="The same measurement that every release goes through before it is tried:\n"
        "variants, backends and threads by turns, in a process of their own.",
    ),
)
