"""edge-agent: the command line on a device. Parses, calls one function, prints, exits.

The environment variable ISTHMUS_AGENT_STATE names the state folder where `--state` does not.
"""

import argparse
import sys
from collections.abc import Sequence
from importlib.metadata import version

from edge_agent.command_line import device_commands, looking_commands, running_commands
from edge_agent.command_line.program import HEADINGS, PROGRAM
from shared.command_line import (
    GlobalOption,
    add_command,
    default_state,
    end_with_code,
    make_parser,
)
from shared.exit_codes import DONE
from shared.quiet_libraries import keep_libraries_quiet

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
COMMANDS = (
    *device_commands.COMMANDS,
    *running_commands.COMMANDS,
    *looking_commands.COMMANDS,
)


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


if __name__ == "__main__":
    sys.exit(main())
