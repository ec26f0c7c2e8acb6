"""What a command needs that talks to a hub: the client, and where it writes."""

import argparse
import os
from dataclasses import dataclass
from pathlib import Path

from cloud_hub.command_line.http_client import HubClient
from cloud_hub.command_line.output import Output
from shared.clock import Clock, SystemClock
from shared.errors import ContractError

LOCAL_TOKEN_FILE = Path("run") / "local-token"
CA_FILE = Path("pki") / "ca.crt"
TOKEN_BYTES_MAX = 4096


@dataclass(frozen=True, slots=True)
class Context:
    """What a command that talks to a hub needs."""

    hub: HubClient
    output: Output
    clock: Clock


def open_context(args: argparse.Namespace) -> Context:
    """Return the hub's client and the output that the global options ask for.

    Raises ContractError `operator.token_unreadable`, `hub.url` or `hub.ca`.
    """
    ca: Path | None = args.ca
    if ca is None and os.access(args.state / CA_FILE, os.R_OK):
        ca = args.state / CA_FILE
    return Context(
        hub=HubClient(args.hub, token=_read_token(args), ca=ca),
        output=Output(is_json=args.json),
        clock=SystemClock(),
    )


def _read_token(args: argparse.Namespace) -> str:
    """Return the operator token: the file named, else the local one; none is left to the hub."""
    named: Path | None = args.operator_token_file
    path = named or args.state / LOCAL_TOKEN_FILE
    try:
        with path.open("rb") as file:
            return file.read(TOKEN_BYTES_MAX).decode("ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        if named is None and isinstance(error, FileNotFoundError):
            return ""
        raise ContractError(
            "operator.token_unreadable",
            f"Cannot read the operator token from {path}: {_reason(error)}.",
            remedy="Run as the user that runs the hub, or name a file that holds an operator token "
            "with --operator-token-file.",
        ) from error


def _reason(error: OSError | UnicodeDecodeError) -> str:
    return (error.strerror or str(error)) if isinstance(error, OSError) else "it is not text"
