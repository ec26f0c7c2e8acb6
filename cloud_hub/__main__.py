"""cloud-hub: the command line on a server. `serve` runs the hub; the rest asks its API.

The environment variable ISTHMUS_HUB_STATE names the state folder where `--state` does not.
"""

import argparse
import os
import signal
import sys
import threading
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from types import FrameType

import msgspec

from cloud_hub.command_line.commands import Command
from cloud_hub.command_line.parser import build_parser, parse, run
from cloud_hub.config import HubConfig, load_config, parse_broker, parse_listen
from cloud_hub.doctor import examine
from cloud_hub.hub import Hub
from shared.clock import SystemClock
from shared.exit_codes import DONE, NOT_REACHED
from shared.findings import is_good, told
from shared.logs import set_up_logging


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return its exit code."""
    state = Path(os.environ.get("ISTHMUS_HUB_STATE", Path.home() / ".isthmus" / "hub"))
    parser = build_parser((SERVE, DOCTOR), state=state, version=version("isthmus"))
    return run(parse(parser, sys.argv[1:] if arguments is None else arguments))


def _serve(args: argparse.Namespace) -> int:
    config = _configure(args)
    set_up_logging(level=config.log_level, stream=sys.stderr)
    stop = threading.Event()

    def end(_signal: int, _frame: FrameType | None) -> None:
        stop.set()

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, end)
    hub = Hub(config, args.state, SystemClock())
    try:
        hub.start()
        _greet(hub, is_json=args.json)
        hub.run(stop)
    finally:
        hub.stop()
    return DONE


def _doctor(args: argparse.Namespace) -> int:
    looks = examine(args.state, _configure(args), SystemClock())
    findings = list(told(looks, is_quiet=args.json))
    if args.json:
        print(msgspec.json.encode({"is_good": is_good(findings), "findings": findings}).decode())
    return DONE if is_good(findings) else NOT_REACHED


def _greet(hub: Hub, *, is_json: bool) -> None:
    if is_json:
        greeting = {
            "dashboard_url": hub.dashboard_url,
            "join_url": hub.join_url,
            "broker_url": hub.broker_url,
            "operator_token": hub.first_operator_token,
        }
        print(msgspec.json.encode(greeting).decode(), flush=True)
        return
    print(f"The hub is up. Dashboard: {hub.dashboard_url}")
    if hub.first_operator_token is not None:
        print(f"Operator token (shown this once, keep it safe): {hub.first_operator_token}")
    print("To join a device: cloud-hub token create", flush=True)


def _configure(args: argparse.Namespace) -> HubConfig:
    """Return the configuration file with what the command line names put over it."""
    config = load_config(args.config)
    changes: dict[str, object] = {}
    for name in ("http", "https", "mqtt"):
        text = getattr(args, name)
        if text is not None:
            changes[name] = parse_listen(text)
    if args.broker is not None:
        parse_broker(args.broker)
        changes["broker"] = args.broker
    if args.database is not None:
        changes["database"] = args.database
    if args.host_name:
        changes["host_names"] = tuple(args.host_name)
    if args.no_discovery:
        changes["announces_itself"] = False
    return msgspec.structs.replace(config, **changes)


def _add_serve_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", type=Path, metavar="FILE", help="the hub's settings, as TOML")
    parser.add_argument(
        "--http",
        metavar="HOST:PORT",
        help="dashboard and API in plain HTTP, for this machine (127.0.0.1:8080)",
    )
    parser.add_argument(
        "--https", metavar="HOST:PORT", help="the same over TLS, where devices join (0.0.0.0:8443)"
    )
    parser.add_argument(
        "--mqtt", metavar="HOST:PORT", help="the embedded broker, over TLS (0.0.0.0:8883)"
    )
    parser.add_argument(
        "--broker", metavar="URL", help="use this broker instead, such as mqtts://broker:8883"
    )
    parser.add_argument(
        "--database",
        metavar="URL",
        help="such as postgresql+psycopg://user@host/name (SQLite in the state folder)",
    )
    parser.add_argument(
        "--host-name",
        action="append",
        metavar="NAME",
        help="a name or address under which devices reach the hub; may be given several times",
    )
    parser.add_argument(
        "--no-discovery", action="store_true", help="do not announce the hub on the local network"
    )


SERVE = Command(
    ("serve",),
    "The hub",
    "run the hub: broker, API, dashboard, rollouts",
    _serve,
    _add_serve_arguments,
    examples=(
        "cloud-hub serve",
        "cloud-hub serve --host-name hub.example --database postgresql+psycopg://hub@db/hub",
        "cloud-hub serve --broker mqtts://broker.example:8883",
    ),
)

DOCTOR = Command(
    ("doctor",),
    "The hub",
    "say what is wrong with the hub on this machine, and how to fix it",
    _doctor,
    _add_serve_arguments,
    examples=("cloud-hub doctor", "cloud-hub doctor --config hub.toml --json"),
)


if __name__ == "__main__":
    sys.exit(main())
