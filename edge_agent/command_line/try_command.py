"""try: a model file on a source, or in the pipelines of an agent's file, without a hub."""

import argparse
import sys
from contextlib import nullcontext
from pathlib import Path

from edge_agent.command_line.program import HEADINGS
from edge_agent.command_line.try_live import TryLive
from edge_agent.command_line.try_model import ITEMS_DEFAULT, PORT_MAX, run_try
from edge_agent.command_line.try_pipelines import pipelines_as_text, try_pipelines
from edge_agent.command_line.try_summary import summary_as_json, summary_as_text
from edge_agent.config import AgentConfig, load_config
from edge_agent.sinks.live_settings import LiveSettings
from edge_agent.sources.capture import CaptureState
from shared.clock import Clock, SystemClock
from shared.command_line import Command, count, print_json, stop_on_signals
from shared.errors import ContractError
from shared.exit_codes import DONE, NOT_REACHED
from shared.logs import set_up_logging


def _add_try(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", type=Path, metavar="MODEL", help="an ONNX file")
    parser.add_argument(
        "--spec",
        type=Path,
        required=True,
        metavar="FILE",
        help="its input, task and output, as TOML",
    )
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument(
        "--source",
        metavar="SOURCE",
        help="a video, an image folder, a CSV file, a stream's address, or a camera's number; for "
        "a model of texts a file with one text a line",
    )
    where.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help="an agent's file: its pipelines of this model run as `run` would run them, with "
        "tracks, lines and sinks; what a hub would be told goes nowhere",
    )
    parser.add_argument(
        "--items",
        type=count,
        metavar="N",
        help=f"how many items to look at; 0: all (default: {ITEMS_DEFAULT}; with --live or "
        "--config all)",
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
    add_tokenizer(parser)


def _port(text: str) -> int:
    port = count(text)
    if port > PORT_MAX:
        raise argparse.ArgumentTypeError(f"a port is at most {PORT_MAX}, not {port}")
    return port


def _try(args: argparse.Namespace) -> int:
    set_up_logging(level="WARNING", stream=sys.stderr)
    config = None if args.config is None else load_config(args.config)
    if config is not None and args.snapshot is not None:
        raise ContractError(
            "try.snapshot",
            "--snapshot is of a --source; the pipelines of a file have sinks.",
            remedy='Give the pipeline a sink with kind = "snapshots".',
        )
    clock = SystemClock()
    live = None if args.live is None else TryLive(args.live, clock=clock)
    if live is not None:
        print(f"Live: {live.address} (Ctrl-C ends it)", file=sys.stderr)
    with live or nullcontext():
        if config is not None:
            return _try_pipelines(args, config, live, clock)
        return _try_source(args, live, clock)


def _try_pipelines(
    args: argparse.Namespace, config: AgentConfig, live: TryLive | None, clock: Clock
) -> int:
    summary = try_pipelines(
        config,
        args.model,
        args.spec,
        items_max=args.items or 0,
        tokenizer=args.tokenizer,
        live=live,
        clock=clock,
        stop=stop_on_signals(),
        tell=lambda text: print(text, file=sys.stderr),
    )
    if args.json:
        print_json(summary)
    else:
        print(pipelines_as_text(summary))
    has_failed = any(one.numbers.state == CaptureState.FAILED for one in summary.pipelines)
    return NOT_REACHED if has_failed else DONE


def _try_source(args: argparse.Namespace, live: TryLive | None, clock: Clock) -> int:
    items_default = ITEMS_DEFAULT if live is None else 0
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
    return NOT_REACHED if 0 < summary.items == summary.items_failed else DONE


def add_tokenizer(parser: argparse.ArgumentParser) -> None:
    """Add --tokenizer."""
    parser.add_argument(
        "--tokenizer",
        type=Path,
        metavar="FILE",
        help="the tokenizer.json of a model of texts (default: the one beside the model)",
    )


TRY = Command(
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
        "edge-agent try best.onnx --spec spec.toml --config agent.toml --live",
    ),
    description="Says what the model found, how fast it is here and how much memory it takes.\n"
    "With --config also what was counted and what each stage took. Exit code 7 if a source failed\n"
    "or every item did.",
    options=("--json",),
)
