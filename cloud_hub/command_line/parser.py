"""The parser and its help, made from the table of commands; from arguments to the exit code."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from cloud_hub.command_line import (
    ask_commands,
    checkpoint_commands,
    collection_commands,
    dataset_commands,
    device_commands,
    evaluation_commands,
    explain_commands,
    fit_commands,
    hub_commands,
    job_commands,
    label_commands,
    model_commands,
    pipeline_commands,
    rollout_commands,
    token_commands,
    train_commands,
    why_commands,
)
from shared.command_line import (
    Command,
    GlobalOption,
    Subparsers,
    add_command,
    end_with_code,
    examples_text,
    make_parser,
)

PROGRAM = "cloud-hub"
HUB_URL = "http://127.0.0.1:8080"
STATE = Path("hub-state")
ABOUT = "Run a hub for a fleet of devices: enrol them, release models, roll out, take back."
FIRST_STEPS = (
    ("cloud-hub serve", "start a hub; it prints the dashboard's address and an operator token"),
    ("cloud-hub token create --name gate-camera", "print the one command that joins a device"),
    ("cloud-hub models add model.onnx --spec spec.toml", "check, sign and publish a model"),
    (
        "cloud-hub rollouts start --model digits --version 1 --watch",
        "bring it to the devices, wave by wave",
    ),
    ("cloud-hub why gate-camera", "say what a device runs, and how it came to that"),
)
COMMANDS: tuple[Command, ...] = (
    *hub_commands.COMMANDS,
    *token_commands.COMMANDS,
    *device_commands.COMMANDS,
    *pipeline_commands.COMMANDS,
    *model_commands.COMMANDS,
    *fit_commands.COMMANDS,
    *ask_commands.COMMANDS,
    *dataset_commands.COMMANDS,
    *label_commands.COMMANDS,
    *collection_commands.COMMANDS,
    *checkpoint_commands.COMMANDS,
    *evaluation_commands.COMMANDS,
    *job_commands.COMMANDS,
    *train_commands.COMMANDS,
    *explain_commands.COMMANDS,
    *rollout_commands.COMMANDS,
    *why_commands.COMMANDS,
)
HEADINGS = (
    "The hub",
    "Devices",
    "Pipelines",
    "Models and releases",
    "Datasets",
    "Training in the cloud",
    "Learning together",
    "Rollouts",
)


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
    options = _global_options(state)
    parser, tree = make_parser(
        PROGRAM,
        ABOUT,
        steps=FIRST_STEPS,
        commands=commands,
        headings=HEADINGS,
        options=options,
        version=version,
    )
    branches: dict[str, Subparsers] = {}
    for command in commands:
        head, *rest = command.words
        if rest and head not in branches:
            branches[head] = _add_branch(tree, head, commands)
        add_command(branches[head] if rest else tree, command, options)
    return parser


def run(args: argparse.Namespace) -> int:
    """Carry out what was parsed; return the exit code. Errors are written to stderr."""
    return end_with_code(PROGRAM, lambda: int(args.run_command(args)), is_json=args.json)


def parse(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> argparse.Namespace:
    """Return the parsed arguments; without a command, print the help and exit."""
    args = parser.parse_args(arguments)
    if args.command is None:
        parser.print_help()
        parser.exit(0)
    return args


def _add_branch(tree: Subparsers, head: str, commands: Sequence[Command]) -> Subparsers:
    own = [command for command in commands if command.words[0] == head]
    branch = tree.add_parser(
        head,
        description=f"{own[0].heading}.",
        epilog=examples_text([example for command in own for example in command.examples[:1]]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    return branch.add_subparsers(
        prog=f"{PROGRAM} {head}", title="commands", metavar="<command>", required=True
    )


def _global_options(state: Path) -> tuple[GlobalOption, ...]:
    return (
        GlobalOption("--hub", f"the hub's address (default: {HUB_URL})", HUB_URL, "URL"),
        GlobalOption(
            "--operator-token-file",
            "a file that holds an operator token; on the hub's own machine none is needed",
            metavar="FILE",
            is_path=True,
        ),
        GlobalOption(
            "--state",
            f"the hub's state folder, where its clients on this machine find their token "
            f"(default: {state})",
            state,
            "DIR",
            is_path=True,
        ),
        GlobalOption(
            "--ca", "the hub's pki/ca.crt, for an https address", metavar="FILE", is_path=True
        ),
        GlobalOption("--json", "print one JSON object as the last line of stdout", default=False),
    )
