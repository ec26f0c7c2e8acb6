"""What both command lines do alike: a command as one row, how it ends, what is said of an error.

1. An error of ours is told on stderr, the message and then the remedy, with `--json` also as one
   JSON object on stdout; it never shows a traceback. A traceback is a fault of the program.
2. The first SIGTERM or Ctrl-C asks a server to end; the second one ends it where it stands.
3. Global options may stand before the command's words or after them.

What must not live here: any command.
"""

import argparse
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TypeAlias

import msgspec

from shared.errors import IsthmusError
from shared.exit_codes import DONE, INTERRUPTED, NOT_REACHED, exit_code_of, exit_codes_text
from shared.findings import Finding, is_good, told

Run = Callable[[argparse.Namespace], int]
AddArguments = Callable[[argparse.ArgumentParser], None]
Subparsers: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"  # noqa: SLF001


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
    options: tuple[str, ...] | None = None  # The global options it takes; None: all of them


@dataclass(frozen=True, slots=True)
class GlobalOption:
    """An option that commands have in common."""

    flag: str
    help: str
    default: object = None
    metavar: str = ""  # Empty: it takes no value
    is_path: bool = False


def make_parser(
    program: str,
    about: str,
    *,
    steps: Sequence[tuple[str, str]],
    commands: Sequence[Command],
    headings: Sequence[str],
    options: Sequence[GlobalOption],
    version: str,
) -> tuple[argparse.ArgumentParser, Subparsers]:
    """Return the parser of a whole program, and where its commands go (`add_command`).

    Its help holds first steps, the commands under their headings, global options, exit codes.
    """
    parser = argparse.ArgumentParser(
        prog=program,
        usage=f"{program} [options] <command> ...",
        description="\n\n".join(
            (
                about,
                steps_text(steps),
                commands_text(commands, headings),
                f"`{program} <command> --help` says more, with examples.",
            )
        ),
        epilog=f"Exit codes:\n{exit_codes_text()}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"{program} {version}".strip())
    add_global_options(parser, options, is_top=True)
    # No help texts here: the overview says it grouped, argparse would say it in one heap.
    tree = parser.add_subparsers(
        prog=program, metavar="<command>", dest="command", help=argparse.SUPPRESS
    )
    return parser, tree


def add_command(
    place: Subparsers, command: Command, options: Sequence[GlobalOption]
) -> argparse.ArgumentParser:
    """Add the parser of one command; its help says what it does, its options, and examples."""
    leaf = place.add_parser(
        command.words[-1],
        help=command.summary,
        description=f"{sentence(command.summary)}\n\n{command.description}".strip(),
        epilog=examples_text(command.examples),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_arguments(leaf)
    # The usage says the command's own options only, not the global ones added after.
    leaf.usage = leaf.format_usage().removeprefix("usage: ").rstrip().replace("%", "%%")
    own = [o for o in options if command.options is None or o.flag in command.options]
    add_global_options(leaf, own, is_top=False)
    leaf.set_defaults(run_command=command.run)
    return leaf


def add_global_options(
    parser: argparse.ArgumentParser, options: Sequence[GlobalOption], *, is_top: bool
) -> None:
    """Add options that stand before or after a command's words.

    Below the top they have no default, or it would undo what was given before the words.
    """
    group = parser.add_argument_group("options that commands have in common")
    for option in options:
        default = option.default if is_top else argparse.SUPPRESS
        if option.metavar:
            group.add_argument(
                option.flag,
                metavar=option.metavar,
                type=Path if option.is_path else str,
                default=default,
                help=option.help,
            )
        else:
            group.add_argument(option.flag, action="store_true", default=default, help=option.help)


def commands_text(commands: Sequence[Command], headings: Sequence[str]) -> str:
    """Return the list of commands under their headings, as help text."""
    width = max(len(" ".join(command.words)) for command in commands)
    blocks = []
    for heading in dict.fromkeys((*headings, *(command.heading for command in commands))):
        own = [command for command in commands if command.heading == heading]
        lines = [f"  {' '.join(c.words).ljust(width)}  {c.summary}" for c in own]
        if own:
            blocks.append("\n".join((f"{heading}:", *lines)))
    return "\n\n".join(blocks)


def steps_text(steps: Sequence[tuple[str, str]]) -> str:
    """Return first steps as help text: what a person types, and under it what that does."""
    return "First steps:\n" + "\n".join(f"  {step}\n      {what}" for step, what in steps)


def examples_text(examples: Sequence[str]) -> str:
    """Return the examples of a command as help text."""
    return "Examples:\n" + "\n".join(f"  {example}" for example in examples) if examples else ""


def sentence(summary: str) -> str:
    """Return a summary as a sentence."""
    return f"{summary[0].upper()}{summary[1:]}."


def end_with_code(program: str, command: Callable[[], int], *, is_json: bool) -> int:
    """Return the exit code of `command`; what went wrong is told."""
    try:
        return command()
    except IsthmusError as error:
        print_error(program, error, is_json=is_json)
        return exit_code_of(error)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:  # `... | head`: the reader has seen enough.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # For the flush at the end
        return DONE


def print_error(program: str, error: IsthmusError, *, is_json: bool) -> None:
    """Say what went wrong, and what to do about it."""
    print(f"{program}: {error.message}", file=sys.stderr)
    if error.remedy:
        print(f"  {error.remedy}", file=sys.stderr)
    if is_json:
        print_json({"code": error.code, "message": error.message, "remedy": error.remedy})


def tell_findings(findings: Iterable[Finding], *, is_json: bool) -> int:
    """Tell a doctor's findings as they come; return the exit code."""
    seen = list(told(findings, is_quiet=is_json))
    if is_json:
        print_json({"is_good": is_good(seen), "findings": seen})
    return DONE if is_good(seen) else NOT_REACHED


def print_json(value: object) -> None:
    """Write the answer for programs: one line of JSON."""
    print(msgspec.json.encode(value).decode(), flush=True)


def stop_on_signals() -> threading.Event:
    """Return an event that is set when this process is asked to end. Call it in the main thread."""
    stop = threading.Event()

    def end(_signal: int, _frame: FrameType | None) -> None:
        stop.set()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
    return stop


def default_state(variable: str, part: str) -> Path:
    """Return the state folder where nobody names one: the variable's, else one of the user's.

    A user without a home (in a container) has it in the working directory.
    """
    named = os.environ.get(variable)
    if named:
        return Path(named)
    try:
        return Path.home() / ".isthmus" / part
    except RuntimeError:
        return Path(".isthmus") / part


def count(text: str) -> int:
    """Return a whole number that is not negative: the `type` of an argument."""
    if not (text.isascii() and text.isdecimal() and len(text) <= 18):
        raise argparse.ArgumentTypeError(f"{text!r} is no count: write 0 or a positive number")
    return int(text)
