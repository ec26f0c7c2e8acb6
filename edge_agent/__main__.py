"""edge-agent: the command line on a device. Parses, calls one function, prints, exits.

The environment variable ISTHMUS_AGENT_STATE names the state folder where `--state` does not.
"""

import argparse
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from types import FrameType

import msgspec

from edge_agent.agent import Agent
from edge_agent.config import load_config
from edge_agent.doctor import examine
from edge_agent.file_status import AgentStatus, StatusFile
from edge_agent.try_model import ITEMS_DEFAULT, run_try, summary_as_json, summary_as_text
from edge_agent.uplink.file_identity import FileIdentity
from edge_agent.uplink.joining import join
from edge_agent.uplink.procfs_machine import read_hardware
from edge_agent.uplink.zeroconf_discovery import find_hub
from shared.clock import SystemClock
from shared.errors import ContractError, IsthmusError, UnavailableError
from shared.exit_codes import (
    DONE,
    INTERRUPTED,
    NOT_REACHED,
    exit_code_of,
    exit_codes_text,
)
from shared.findings import is_good, told
from shared.logs import set_up_logging

PROGRAM = "edge-agent"
ABOUT = "Runs models on this device: on cameras, video and sensors, updated and watched by a hub."
FIRST_STEPS = """\
first steps:
  edge-agent try model.onnx --spec spec.toml --source clip.mp4 --snapshot seen.png
                                        try a model here, without a hub
  edge-agent join https://hub.example:8443 --token TOKEN
                                        belong to a hub; `cloud-hub token create` there prints this
  edge-agent run --config agent.toml    run the pipelines of agent.toml, for good
  edge-agent doctor --config agent.toml say what is wrong, and how to fix it

exit codes:
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return its exit code."""
    args = build_parser().parse_args(arguments)
    run: Callable[[argparse.Namespace], int] = args.run_command
    try:
        return run(args)
    except IsthmusError as error:
        _print_error(error, is_json=getattr(args, "json", False))
        return exit_code_of(error)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:  # `edge-agent ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of every command."""
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description=ABOUT,
        epilog=FIRST_STEPS + exit_codes_text(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"{PROGRAM} {version('isthmus')}")
    commands = parser.add_subparsers(title="commands", metavar="<command>", required=True)
    _add_join(commands.add_parser("join", help="make this device belong to a hub"))
    _add_run(commands.add_parser("run", help="run the pipelines, until stopped"))
    _add_status(commands.add_parser("status", help="what the running agent does"))
    _add_doctor(commands.add_parser("doctor", help="what is wrong, and how to fix it"))
    _add_why(commands.add_parser("why", help="why this device runs what it runs"))
    _add_try(commands.add_parser("try", help="run a model file on a source, without a hub"))
    return parser


def _add_state(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--state",
        type=Path,
        metavar="DIR",
        default=Path(os.environ.get("ISTHMUS_AGENT_STATE", Path.home() / ".isthmus" / "agent")),
        help="where the device keeps its identity, releases and outbox (default: %(default)s)",
    )


def _add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print one JSON object as last line")


# join


def _add_join(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "url",
        nargs="?",
        metavar="URL",
        help="the hub, such as https://hub.example:8443; left out: looked for on this network",
    )
    parser.add_argument("--token", required=True, help="what `cloud-hub token create` printed")
    parser.add_argument(
        "--again", action="store_true", help="give up the identity this device has, and join anew"
    )
    _add_state(parser)
    _add_json(parser)
    parser.set_defaults(run_command=_join)


def _join(args: argparse.Namespace) -> int:
    set_up_logging(level="WARNING", stream=sys.stderr)
    record = join(
        args.url,
        args.token,
        FileIdentity(args.state / "identity"),
        find_hub=find_hub,
        hardware=read_hardware(),
        again=args.again,
    )
    if args.json:
        print(msgspec.json.encode(record).decode())
        return DONE
    print(f"Joined {record.hub_name or 'the hub'} at {record.url} as {record.device_id}.")
    print(f"Its identity is in {args.state}/identity. Next: {PROGRAM} run --config agent.toml")
    return DONE


# run


def _add_run(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config", type=Path, required=True, metavar="FILE", help="the pipelines, as TOML"
    )
    _add_state(parser)
    parser.set_defaults(run_command=_run)


def _run(args: argparse.Namespace) -> int:
    config = load_config(args.config)
    set_up_logging(level=config.log_level)
    stop = threading.Event()

    def end(_signal: int, _frame: FrameType | None) -> None:
        stop.set()

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, end)
    Agent(config, args.state, SystemClock()).run(stop)
    return DONE


# status and why


def _add_status(parser: argparse.ArgumentParser) -> None:
    _add_state(parser)
    _add_json(parser)
    parser.set_defaults(run_command=_status)


def _status(args: argparse.Namespace) -> int:
    status = _read_status(args.state)
    if args.json:
        print(msgspec.json.encode(status).decode())
        return DONE
    link = "connected" if status.is_connected else "NOT connected"
    print(f"{status.device} of {status.hub_url}: {link}, process {status.pid}")
    for pipeline in status.report.pipelines:
        detail = f" ({pipeline.detail})" if pipeline.detail else ""
        print(f"  pipeline {pipeline.pipeline:20} {pipeline.model:16} {pipeline.state}{detail}")
    for model in status.report.models:
        runs = f"release {model.version} {model.precision}" if model.version else "nothing yet"
        print(f"  model    {model.model:20} {runs:16} {model.state}")
        if model.failure is not None:
            print(f"           release {model.failure.version}: {model.failure.text}")
    print(
        f"  outbox   {status.outbox_rows} records, {status.outbox_bytes >> 10} KiB wait for the "
        f"hub; {status.outbox_dropped} dropped for want of room"
    )
    return DONE


def _add_why(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", nargs="?", metavar="MODEL", help="only this model")
    _add_state(parser)
    _add_json(parser)
    parser.set_defaults(run_command=_why)


def _why(args: argparse.Namespace) -> int:
    models = _read_status(args.state).report.models
    chosen = [model for model in models if args.model in (None, model.model)]
    if not chosen:
        names = ", ".join(model.model for model in models) or "none"
        raise ContractError(
            "why.unknown_model", f"No model {args.model} here.", remedy=f"There is: {names}."
        )
    if args.json:
        print(msgspec.json.encode({"models": chosen}).decode())
        return DONE
    for model in chosen:
        print(f"{model.model}: {_sentence(model.version, model.rollout, model.state)}")
        if model.receipt is not None:
            receipt = msgspec.json.decode(model.receipt.payload)
            print(
                f"  It reproduced {receipt['golden_items']} golden items here (largest error "
                f"{receipt['golden_error_max']:.3g}) on {receipt['runtime']}; {receipt['outcome']}."
            )
        if model.failure is not None:
            failure = model.failure
            print(f"  Release {failure.version} was not kept: {failure.text} [{failure.code}]")
    return DONE


def _sentence(release: int, rollout: str, state: str) -> str:
    if not release:
        return f"no release runs yet ({state})."
    wish = f", as {rollout} asks" if rollout else ""
    return f"release {release} runs ({state}{wish})."


def _read_status(state: Path) -> AgentStatus:
    status = StatusFile(state / "run" / "status.json").read(now_s=SystemClock().now_s())
    if status is None:
        raise UnavailableError(
            "agent.not_running",
            f"No agent runs with the state folder {state}.",
            remedy=f"Start it with `{PROGRAM} run`, or name another folder with --state.",
        )
    return status


# doctor


def _add_doctor(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help="also try the sources of this configuration"
    )
    _add_state(parser)
    _add_json(parser)
    parser.set_defaults(run_command=_doctor)


def _doctor(args: argparse.Namespace) -> int:
    findings = list(told(examine(args.state, args.config, SystemClock()), is_quiet=args.json))
    if args.json:
        print(msgspec.json.encode({"is_good": is_good(findings), "findings": findings}).decode())
    return DONE if is_good(findings) else NOT_REACHED


# try


def _add_try(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", type=Path, metavar="MODEL", help="an ONNX file")
    parser.add_argument("--spec", type=Path, required=True, metavar="FILE", help="its ModelSpec")
    parser.add_argument(
        "--source",
        required=True,
        metavar="SOURCE",
        help="a video, an image folder, a CSV file, a stream's address, or a camera's number",
    )
    parser.add_argument(
        "--items",
        type=int,
        default=ITEMS_DEFAULT,
        metavar="N",
        help="how many items to look at (default: %(default)s; 0: all)",
    )
    parser.add_argument(
        "--snapshot", type=Path, metavar="PNG", help="write the frame it is surest of, with boxes"
    )
    _add_json(parser)
    parser.set_defaults(run_command=_try)


def _try(args: argparse.Namespace) -> int:
    set_up_logging(level="WARNING", stream=sys.stderr)
    summary = run_try(
        args.model, args.spec, args.source, items_max=args.items, snapshot=args.snapshot
    )
    print(summary_as_json(summary).decode() if args.json else summary_as_text(summary))
    return DONE


def _print_error(error: IsthmusError, *, is_json: bool) -> None:
    print(f"{PROGRAM}: {error.message}", file=sys.stderr)
    if error.remedy:
        print(f"  {error.remedy}", file=sys.stderr)
    if is_json:
        body = {"code": error.code, "message": error.message, "remedy": error.remedy}
        print(msgspec.json.encode(body).decode())


if __name__ == "__main__":
    sys.exit(main())
