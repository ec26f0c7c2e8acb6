"""cloud-hub: the command line on a server. `serve` runs the hub; the rest asks its API.

The environment variable ISTHMUS_HUB_STATE names the state folder where `--state` does not.
"""

import argparse
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import msgspec

from cloud_hub.command_line.parser import build_parser, parse, run
from cloud_hub.config import HubConfig, load_config, parse_listen
from cloud_hub.doctor import examine
from cloud_hub.hub import Hub
from shared.clock import SystemClock
from shared.command_line import Command, default_state, print_json, stop_on_signals, tell_findings
from shared.exit_codes import DONE
from shared.logs import set_up_logging
from shared.quiet_libraries import keep_libraries_quiet

OWN_OPTIONS = ("--state", "--json")  # What a command takes that is no client of the API


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return its exit code."""
    keep_libraries_quiet()
    state = default_state("ISTHMUS_HUB_STATE", "hub")
    parser = build_parser((SERVE, DOCTOR), state=state, version=version("isthmus"))
    return run(parse(parser, sys.argv[1:] if arguments is None else arguments))


def _serve(args: argparse.Namespace) -> int:
    config = _configure(args)
    set_up_logging(level=config.log_level, stream=sys.stderr)
    stop = stop_on_signals()
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
    return tell_findings(looks, is_json=args.json)


def _greet(hub: Hub, *, is_json: bool) -> None:
    if is_json:
        print_json(
            {
                "dashboard_url": hub.dashboard_url,
                "join_url": hub.join_url,
                "broker_url": hub.broker_url,
                "operator_token": hub.first_operator_token,
            }
        )
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
    if args.learning is not None:
        listen = parse_listen(args.learning)
        changes["learning"] = msgspec.structs.replace(
            config.learning, host=listen.host, port=listen.port
        )
    if args.broker is not None:
        changes["broker"] = args.broker
    if args.database is not None:
        changes["database"] = args.database
    if args.host_name:
        changes["host_names"] = tuple(args.host_name)
    if args.no_discovery:
        changes["announces_itself"] = False
    return msgspec.structs.replace(config, **changes)


def _add_serve_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help="the hub's settings, as TOML; options win"
    )
    parser.add_argument(
        "--http",
        metavar="HOST:PORT",
        help="dashboard and API in plain HTTP, for this machine (default: 127.0.0.1:8080)",
    )
    parser.add_argument(
        "--https",
        metavar="HOST:PORT",
        help="the same over TLS, where devices join (default: 0.0.0.0:8443)",
    )
    parser.add_argument(
        "--mqtt",
        metavar="HOST:PORT",
        help="the broker inside the hub, over TLS (default: 0.0.0.0:8883)",
    )
    parser.add_argument(
        "--learning",
        metavar="HOST:PORT",
        help="where devices learn together, over TLS, while Jobs run (default: 0.0.0.0:9092)",
    )
    parser.add_argument(
        "--broker", metavar="URL", help="a broker to use instead, such as mqtts://broker:8883"
    )
    parser.add_argument(
        "--database",
        metavar="URL",
        help="such as postgresql+psycopg://user@host/name (default: SQLite in the state folder)",
    )
    parser.add_argument(
        "--host-name",
        action="append",
        metavar="NAME",
        help="a name or address under which devices reach the hub, the first one is told to them; "
        "repeat (default: all that this machine knows of itself)",
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
    description="It goes on until SIGTERM or Ctrl-C. Port 0 takes any free one. With --json its\n"
    "first line says the addresses; its log goes to stderr.",
    options=OWN_OPTIONS,
)

DOCTOR = Command(
    ("doctor",),
    "The hub",
    "say what is wrong with the hub on this machine, and how to fix it",
    _doctor,
    _add_serve_arguments,
    examples=("cloud-hub doctor", "cloud-hub doctor --config hub.toml --json"),
    description="Give it the options that `serve` gets. It changes nothing. Exit code 7 if\n"
    "something is bad.",
    options=OWN_OPTIONS,
)


if __name__ == "__main__":
    sys.exit(main())
