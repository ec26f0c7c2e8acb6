"""join, doctor: the device and its hub."""

import argparse
import sys
from pathlib import Path

from edge_agent.command_line.doctor import examine
from edge_agent.command_line.program import HEADINGS, PROGRAM
from edge_agent.uplink.file_identity import FileIdentity
from edge_agent.uplink.joining import join
from edge_agent.uplink.procfs_machine import read_hardware
from edge_agent.uplink.zeroconf_discovery import find_hub
from shared.clock import SystemClock
from shared.command_line import (
    Command,
    print_json,
    tell_findings,
)
from shared.durable_file import make_private_folder
from shared.exit_codes import DONE
from shared.logs import set_up_logging


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


def _add_doctor(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help="also try the sources and sinks of this configuration",
    )


def _doctor(args: argparse.Namespace) -> int:
    set_up_logging(level="ERROR", stream=sys.stderr)
    return tell_findings(examine(args.state, args.config, SystemClock()), is_json=args.json)


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
        "with --config, at every source and sink. It changes nothing. Exit code 7 if\n"
        "something is bad.",
    ),
)
