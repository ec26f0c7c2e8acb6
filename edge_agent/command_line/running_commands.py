"""run, spec, try, bench: models on this device."""

import argparse
import sys
from contextlib import nullcontext
from pathlib import Path

from edge_agent.agent import Agent
from edge_agent.command_line.bench_model import run_bench
from edge_agent.command_line.bench_text import bench_as_json, print_bench
from edge_agent.command_line.program import HEADINGS
from edge_agent.command_line.spec_draft import check, to_toml
from edge_agent.command_line.spec_reading import draft_spec
from edge_agent.command_line.try_live import TryLive
from edge_agent.command_line.try_model import ITEMS_DEFAULT, PORT_MAX, run_try
from edge_agent.command_line.try_summary import summary_as_json, summary_as_text
from edge_agent.config import load_config
from edge_agent.inference.onnx_facts import read_facts
from edge_agent.sinks.live_settings import LiveSettings
from shared.clock import SystemClock
from shared.command_line import (
    Command,
    count,
    print_json,
    stop_on_signals,
)
from shared.errors import RefusedError
from shared.exit_codes import DONE
from shared.logs import set_up_logging


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
    draft = draft_spec(read_facts(args.model), args.name or args.model.stem)
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


def _add_try(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", type=Path, metavar="MODEL", help="an ONNX file")
    parser.add_argument(
        "--spec",
        type=Path,
        required=True,
        metavar="FILE",
        help="its input, task and output, as TOML",
    )
    parser.add_argument(
        "--source",
        required=True,
        metavar="SOURCE",
        help="a video, an image folder, a CSV file, a stream's address, or a camera's number; for "
        "a model of texts a file with one text a line",
    )
    parser.add_argument(
        "--items",
        type=count,
        metavar="N",
        help=f"how many items to look at; 0: all (default: {ITEMS_DEFAULT}; with --live all)",
    )
    parser.add_argument(
        "--snapshot", type=Path, metavar="PNG", help="write the frame it is surest of, with boxes"
    )
    parser.add_argument(
        "--live",
        type=_port,
        nargs="?",
        const=LiveSettings().port,
        metavar="PORT",
        help="show it in a browser on this machine, with boxes, until Ctrl-C; a video plays at its "
        "own pace, over and over (port: %(const)s)",
    )
    _add_tokenizer(parser)


def _port(text: str) -> int:
    port = count(text)
    if port > PORT_MAX:
        raise argparse.ArgumentTypeError(f"a port is at most {PORT_MAX}, not {port}")
    return port


def _try(args: argparse.Namespace) -> int:
    set_up_logging(level="WARNING", stream=sys.stderr)
    clock = SystemClock()
    live = None if args.live is None else TryLive(args.live, clock=clock)
    items_default = ITEMS_DEFAULT if live is None else 0
    if live is not None:
        print(f"Live: {live.address} (Ctrl-C ends it)", file=sys.stderr)
    with live or nullcontext():
        summary = run_try(
            args.model,
            args.spec,
            args.source,
            items_max=items_default if args.items is None else args.items,
            snapshot=args.snapshot,
            tokenizer=args.tokenizer,
            live=live,
            clock=clock,
            stop=stop_on_signals(),
        )
    print(summary_as_json(summary).decode() if args.json else summary_as_text(summary))
    return DONE


def _add_tokenizer(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--tokenizer",
        type=Path,
        metavar="FILE",
        help="the tokenizer.json of a model of texts (default: the one beside the model)",
    )


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
    _add_tokenizer(parser)


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
    Command(
        ("try",),
        HEADINGS[1],
        "run a model file on a source, without a hub",
        _try,
        _add_try,
        examples=(
            "edge-agent try model.onnx --spec spec.toml --source clip.mp4 --snapshot seen.png",
            "edge-agent try model.onnx --spec spec.toml --source rtsp://camera.local/stream --live",
            "edge-agent try bearing.onnx --spec spec.toml --source vibration.csv --items 0",
            "edge-agent try mood.onnx --spec spec.toml --source messages.txt",
        ),
        description="Says what the model found, how fast it is here and how much memory it takes.",
        options=("--json",),
    ),
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
