"""edge-agent: the command line on a device. Parses, calls one function, prints, exits.

The environment variable ISTHMUS_AGENT_STATE names the state folder where `--state` does not.
"""

import argparse
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from importlib.metadata import version
from pathlib import Path

from edge_agent.agent import Agent
from edge_agent.bench_model import run_bench
from edge_agent.bench_text import bench_as_json, print_bench
from edge_agent.config import load_config
from edge_agent.doctor import examine
from edge_agent.file_status import AgentStatus, StatusFile
from edge_agent.learning_view import learning_lines, owner_ledger, view_learning
from edge_agent.sharing_view import sharing_lines, view_sharing
from edge_agent.sinks.live_settings import LiveSettings
from edge_agent.status_text import status_lines, why_lines
from edge_agent.top_view import show_top
from edge_agent.try_live import TryLive
from edge_agent.try_model import ITEMS_DEFAULT, PORT_MAX, run_try
from edge_agent.try_summary import summary_as_json, summary_as_text
from edge_agent.uplink.file_identity import FileIdentity
from edge_agent.uplink.joining import join
from edge_agent.uplink.procfs_machine import read_hardware
from edge_agent.uplink.zeroconf_discovery import find_hub
from shared.clock import SystemClock
from shared.command_line import (
    Command,
    GlobalOption,
    add_command,
    count,
    default_state,
    end_with_code,
    make_parser,
    print_json,
    stop_on_signals,
    tell_findings,
)
from shared.durable_file import make_private_folder
from shared.errors import RefusedError, UnavailableError
from shared.exit_codes import DONE
from shared.logs import set_up_logging
from shared.quiet_libraries import keep_libraries_quiet

PROGRAM = "edge-agent"
ABOUT = "Run models on this device, on cameras, video and sensors; a hub updates and watches them."
FIRST_STEPS = (
    (
        "edge-agent try model.onnx --spec spec.toml --source clip.mp4 --live",
        "try a model here, without a hub, and watch it in a browser",
    ),
    (
        "edge-agent join https://hub.example:8443 --token TOKEN",
        "belong to a hub; `cloud-hub token create` there prints this line",
    ),
    ("edge-agent run --config agent.toml", "run the pipelines of agent.toml, until stopped"),
    ("edge-agent doctor --config agent.toml", "say what is wrong, and how to fix it"),
)
HEADINGS = ("The device and its hub", "Running", "Looking")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return its exit code."""
    keep_libraries_quiet()
    parser = build_parser()
    args = parser.parse_args(arguments)
    if args.command is None:
        parser.print_help()
        return DONE
    return end_with_code(PROGRAM, lambda: int(args.run_command(args)), is_json=args.json)


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of every command."""
    options = (
        GlobalOption(
            "--state",
            "where the device keeps its identity, releases and outbox (default: "
            f"{(state := default_state('ISTHMUS_AGENT_STATE', 'agent'))})",
            state,
            "DIR",
            is_path=True,
        ),
        GlobalOption("--json", "print one JSON object as the last line of stdout", default=False),
    )
    parser, tree = make_parser(
        PROGRAM,
        ABOUT,
        steps=FIRST_STEPS,
        commands=COMMANDS,
        headings=HEADINGS,
        options=options,
        version=version("isthmus"),
    )
    for command in COMMANDS:
        add_command(tree, command, options)
    return parser


# join


def _add_join(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "url",
        nargs="?",
        metavar="URL",
        help="the hub's address, such as https://hub.example:8443 (default: looked for on the "
        "local network)",
    )
    parser.add_argument("--token", required=True, help="what `cloud-hub token create` printed")
    parser.add_argument(
        "--again", action="store_true", help="give up the identity this device has, and join anew"
    )


def _join(args: argparse.Namespace) -> int:
    set_up_logging(level="WARNING", stream=sys.stderr)
    make_private_folder(args.state)
    record = join(
        args.url,
        args.token,
        FileIdentity(args.state / "identity"),
        find_hub=find_hub,
        hardware=read_hardware(),
        again=args.again,
    )
    if args.json:
        print_json(record)
        return DONE
    print(f"Joined {record.hub_name or 'the hub'} at {record.url} as {record.device_id}.")
    print(f"Its identity is in {args.state}/identity. Next: {PROGRAM} run --config agent.toml")
    return DONE


# run


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


# status and why


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


# top


def _add_top(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--once", action="store_true", help="print it once and end")


def _top(args: argparse.Namespace) -> int:
    if args.json:
        print_json(_read_status(args.state).numbers)
        return DONE
    show_top(lambda: _read_status(args.state), stop_on_signals(), SystemClock(), once=args.once)
    return DONE


# learning


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


# sharing


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


# doctor


def _add_doctor(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help="also try the sources of this configuration"
    )


def _doctor(args: argparse.Namespace) -> int:
    return tell_findings(examine(args.state, args.config, SystemClock()), is_json=args.json)


# try


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


# bench


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
        ("join",),
        HEADINGS[0],
        "make this device belong to a hub",
        _join,
        _add_join,
        examples=(
            "edge-agent join https://hub.example:8443 --token TOKEN",
            "edge-agent join --token TOKEN",
            "edge-agent join https://hub.example:8443 --token TOKEN --again",
        ),
        description="`cloud-hub token create` on the hub prints the whole line. The device makes\n"
        "its own key, which never leaves it, and gets a certificate. Interrupted, do it again.",
    ),
    Command(
        ("doctor",),
        HEADINGS[0],
        "say what is wrong with this device, and how to fix it",
        _doctor,
        _add_doctor,
        examples=("edge-agent doctor", "edge-agent doctor --config agent.toml --json"),
        description="Looks at the state folder, the identity, the clock, the way to the hub and,\n"
        "with --config, at every source. It changes nothing. Exit code 7 if something is bad.",
    ),
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


if __name__ == "__main__":
    sys.exit(main())
