"""Command: one row of the command line. The parser, the help and the dispatch are made from rows.

A row added here, or handed to `build_parser` by `__main__`, is all that a new command needs.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cloud_hub.command_line.http_client import HubClient
from cloud_hub.command_line.output import Output
from shared.clock import Clock, SystemClock
from shared.errors import ContractError

LOCAL_TOKEN_FILE = Path("run") / "local-token"
CA_FILE = Path("pki") / "ca.crt"
TOKEN_BYTES_MAX = 4096

Run = Callable[[argparse.Namespace], int]
AddArguments = Callable[[argparse.ArgumentParser], None]


def no_arguments(_parser: argparse.ArgumentParser) -> None:
    """Take nothing but the global options."""


@dataclass(frozen=True, slots=True)
class Command:
    """One command: `cloud-hub devices list` has the words ("devices", "list")."""

    words: tuple[str, ...]
    heading: str  # Under which it stands in the help
    summary: str  # One line, starting with a verb
    run: Run
    add_arguments: AddArguments = no_arguments
    examples: tuple[str, ...] = ()
    description: str = ""  # More than the summary, where there is more to know


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
    if ca is None and (args.state / CA_FILE).is_file():
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
            f"Cannot read the operator token from {path}: {error}.",
            remedy="Name a file that holds it with --operator-token-file.",
        ) from error
