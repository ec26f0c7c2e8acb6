"""The parser and its help, made from the table of commands; from arguments to the exit code."""

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from cloud_hub.command_line import device_commands, hub_commands, model_commands, rollout_commands
from cloud_hub.command_line.commands import Command
from cloud_hub.command_line.output import Output
from shared.errors import IsthmusError
from shared.exit_codes import DONE, INTERRUPTED, exit_code_of, exit_codes_text

PROGRAM = "cloud-hub"
HUB_URL = "http://127.0.0.1:8080"
STATE = Path("hub-state")
ABOUT = "Run a hub for a fleet of devices: enrol them, release models, roll out, take back."
FIRST_STEPS = (
    ("cloud-hub serve", "start a hub; it prints the dashboard's address and a token"),
    ("cloud-hub token create", "print the one command that joins a device"),
    ("cloud-hub models add model.onnx --spec spec.toml", "check, sign and publish a model"),
    ("cloud-hub rollouts start --model M --version 1 --watch", "bring it to the devices"),
    ("cloud-hub why DEVICE", "say what a device runs, and how it came to that"),
)
COMMANDS: tuple[Command, ...] = (
    *hub_commands.COMMANDS,
    *device_commands.COMMANDS,
    *model_commands.COMMANDS,
    *rollout_commands.COMMANDS,
)
HEADINGS = ("The hub", "Devices", "Models and releases", "Rollouts")


def build_parser(
    extra: Sequence[Command] = (), *, state: Path = STATE, version: str = ""
) -> argparse.ArgumentParser:
    """Return the parser of every command, `extra` ones of the process itself first.

    Args:
        extra: commands that are not clients of the API (`serve`, `doctor`).
        state: the hub's state folder unless `--state` names another.
        version: what `--version` prints.
    """
    commands = (*extra, *COMMANDS)
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        usage=f"{PROGRAM} [options] <command> ...",
        description=_overview(commands),
        epilog=f"Exit codes:\n{exit_codes_text()}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"{PROGRAM} {version}".strip())
    _add_global_options(parser, state=state, is_top=True)
    # No help texts here: the overview above says it grouped, argparse would say it in one heap.
    tree = parser.add_subparsers(
        prog=PROGRAM, metavar="<command>", dest="command", help=argparse.SUPPRESS
    )
    branches: dict[str, argparse._SubParsersAction[argparse.ArgumentParser]] = {}
    for command in commands:
        head, *rest = command.words
        place = tree
        if rest:
            if head not in branches:
                branches[head] = _add_branch(tree, head, commands)
            place = branches[head]
        leaf = place.add_parser(
            command.words[-1],
            help=command.summary,
            description=f"{_sentence(command.summary)}\n\n{command.description}".strip(),
            epilog=_examples(command.examples),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.add_arguments(leaf)
        _keep_usage(leaf)
        _add_global_options(leaf, state=state, is_top=False)
        leaf.set_defaults(run_command=command.run)
    return parser


def run(args: argparse.Namespace) -> int:
    """Carry out what was parsed; return the exit code. Errors are written to stderr."""
    output = Output(is_json=args.json)
    try:
        return int(args.run_command(args))
    except IsthmusError as error:
        output.error(error)
        return exit_code_of(error)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:  # `cloud-hub audit | head`: the reader has seen enough.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # For the flush at the end
        return DONE


def parse(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> argparse.Namespace:
    """Return the parsed arguments; without a command, print the help and exit."""
    args = parser.parse_args(arguments)
    if args.command is None:
        parser.print_help()
        parser.exit(0)
    return args


def _add_branch(
    tree: "argparse._SubParsersAction[argparse.ArgumentParser]",
    head: str,
    commands: Sequence[Command],
) -> "argparse._SubParsersAction[argparse.ArgumentParser]":
    own = [command for command in commands if command.words[0] == head]
    branch = tree.add_parser(
        head,
        description=f"{own[0].heading}.",
        epilog=_examples(tuple(example for command in own for example in command.examples[:1])),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    return branch.add_subparsers(
        prog=f"{PROGRAM} {head}", title="commands", metavar="<command>", required=True
    )


def _keep_usage(leaf: argparse.ArgumentParser) -> None:
    """Let the usage say only the command's own options, not the global ones added after."""
    usage = leaf.format_usage().removeprefix("usage: ").rstrip()
    leaf.usage = usage.replace("%", "%%")


def _sentence(summary: str) -> str:
    return f"{summary[0].upper()}{summary[1:]}."


def _add_global_options(parser: argparse.ArgumentParser, *, state: Path, is_top: bool) -> None:
    """Add the options every command takes, before or after its words.

    Below the top they have no default, or it would undo what was given before the words.
    """
    group = parser.add_argument_group("options for every command")
    defaults: Mapping[str, object] = (
        {"hub": HUB_URL, "operator_token_file": None, "state": state, "ca": None, "json": False}
        if is_top
        else dict.fromkeys(("hub", "operator_token_file", "state", "ca", "json"), argparse.SUPPRESS)
    )
    group.add_argument(
        "--hub", metavar="URL", default=defaults["hub"], help=f"the hub's address ({HUB_URL})"
    )
    group.add_argument(
        "--operator-token-file",
        metavar="FILE",
        type=Path,
        default=defaults["operator_token_file"],
        help="a file holding an operator token; on the hub's own machine none is needed",
    )
    group.add_argument(
        "--state",
        metavar="DIR",
        type=Path,
        default=defaults["state"],
        help=f"the hub's state folder ({state}): clients find its local token there",
    )
    group.add_argument(
        "--ca",
        metavar="FILE",
        type=Path,
        default=defaults["ca"],
        help="the hub's ca.crt, for an https address",
    )
    group.add_argument(
        "--json",
        action="store_true",
        default=defaults["json"],
        help="print one JSON object as the last line of stdout",
    )


def _overview(commands: Sequence[Command]) -> str:
    width = max(len(" ".join(command.words)) for command in commands)
    lines = [ABOUT, "", "First steps:"]
    steps_width = max(len(step) for step, _ in FIRST_STEPS)
    lines += [f"  {step.ljust(steps_width)}  {what}" for step, what in FIRST_STEPS]
    headings = dict.fromkeys((*HEADINGS, *(command.heading for command in commands)))
    for heading in headings:
        own = [command for command in commands if command.heading == heading]
        if own:
            lines += ["", f"{heading}:"]
            lines += [f"  {' '.join(c.words).ljust(width)}  {c.summary}" for c in own]
    lines += ["", f"`{PROGRAM} <command> --help` says more, with examples."]
    return "\n".join(lines)


def _examples(examples: Sequence[str]) -> str:
    return "Examples:\n" + "\n".join(f"  {example}" for example in examples) if examples else ""
