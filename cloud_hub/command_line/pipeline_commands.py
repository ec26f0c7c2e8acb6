"""Commands about pipelines: what runs on a device, and what the hub orders beside it.

A file of several is looked at whole before any of it is ordered.
"""

import argparse
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from cloud_hub.command_line.answers import Models, OrderedPipelines, Pipelines
from cloud_hub.command_line.commands import open_context
from cloud_hub.command_line.finding import find_device
from cloud_hub.command_line.output import Output, ago_text
from shared.clock import now_ms
from shared.command_line import Command
from shared.errors import ContractError
from shared.exit_codes import DONE
from shared.pipeline.pipeline import EXAMPLE, pipelines_in
from shared.plural import counted
from shared.settings import CONFIG_BYTES_MAX

HEADING = "Pipelines"
WAITING = "waiting for a model"  # As a device reports it
NAMED_MAX = 4  # Of more, only how many there are


def list_pipelines(args: argparse.Namespace) -> int:
    """List a device's pipelines."""
    context = open_context(args)
    with context.hub as hub:
        device_id = find_device(hub, args.device)
        answer = hub.get(f"/api/v1/devices/{device_id}/pipelines", Pipelines)
    _show(context.output, answer.value, at_ms=now_ms(context.clock))
    context.output.result(answer.json)
    return DONE


def set_pipelines(args: argparse.Namespace) -> int:
    """Order the pipelines of a file, of devices or of a group."""
    pipelines, left_out = _read(args.file)
    context = open_context(args)
    answers = []
    with context.hub as hub:
        asked: dict[str, object] = {"group": args.group}
        if args.group is None:
            asked = {"devices": [find_device(hub, device) for device in args.device]}
        for settings in pipelines:
            path = f"/api/v1/pipelines/{settings['name']}"
            answers.append(hub.send("PUT", path, OrderedPipelines, {**asked, "settings": settings}))
        known = hub.get("/api/v1/models", Models).value
    for answer in answers:
        devices = answer.value.devices
        whom = ", ".join(devices) if len(devices) <= NAMED_MAX else counted(len(devices), "device")
        context.output.say(f"{answer.value.name} is ordered of {whom}.")
    if left_out:
        context.output.say(f"Left out, because only the device's owner says it: {left_out}.")
    for line in _without_release({str(one["model"]) for one in pipelines}, known):
        context.output.say(line)
    example = next((device for answer in answers for device in answer.value.devices), "DEVICE")
    context.output.say(f"What becomes of it: cloud-hub pipelines list {example}")
    context.output.result(b'{"ordered":[%b]}' % b",".join(answer.json for answer in answers))
    return DONE


def remove_pipeline(args: argparse.Namespace) -> int:
    """Take an ordered pipeline back."""
    context = open_context(args)
    with context.hub as hub:
        device_id = find_device(hub, args.device)
        path = f"/api/v1/devices/{device_id}/pipelines/{args.name}"
        answer = hub.send("DELETE", path, Pipelines)
    context.output.say(f"{args.name} is not ordered of {device_id} any more.")
    context.output.result(answer.json)
    return DONE


def _show(output: Output, found: Pipelines, *, at_ms: int) -> None:
    rows = [
        (
            one.name,
            one.model,
            f"{one.changed_by}, {ago_text(one.changed_ms, now_ms=at_ms)}"
            if one.is_ordered
            else "its own file",
            one.state,
            one.detail,
        )
        for one in found.pipelines
    ]
    columns = ("pipeline", "model", "ordered by", "state", "detail")
    output.table(columns, rows, empty="It has not reported any pipeline yet.")
    for model in sorted({one.model for one in found.pipelines if one.state == WAITING}):
        output.say(
            f"No release of {model} has come to it yet: "
            f"cloud-hub rollouts start --model {model} --version VERSION"
        )


def _read(path: Path) -> tuple[list[dict[str, Any]], str]:
    """Return the pipelines of a TOML file, one or those under [[pipelines]], and what is left out.

    Raises ContractError `pipeline.unreadable`, or `pipeline.invalid` naming pipeline and key.
    """
    try:
        with path.open("rb") as file:
            found = tomllib.loads(file.read(CONFIG_BYTES_MAX).decode())
    except OSError as error:
        raise ContractError(
            "pipeline.unreadable",
            f"Cannot read {path}: {error.strerror}.",
            remedy=f"Name a TOML file: {EXAMPLE}.",
        ) from error
    except ValueError as error:  # Not TOML, or not text
        raise ContractError(
            "pipeline.unreadable", f"{path} is not TOML: {error}.", remedy="Correct it there."
        ) from error
    pipelines = pipelines_in(found, where=str(path))
    others = sorted(set(found) - {"pipelines"}) if "pipelines" in found else []
    return pipelines, ", ".join(f"[{name}]" for name in others)


def _without_release(models: Iterable[str], known: Models) -> Iterator[str]:
    """Yield what a person should do for models of which no device can have a release."""
    released = {one.model for one in known.models}
    for model in sorted(set(models) - released):
        yield (
            f"There is no release of the model {model}: what runs it waits for one. "
            "Add it: cloud-hub models add FILE --spec SPEC"
        )


def _list_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("device", metavar="DEVICE", help="a device's id or its name")


def _set_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", type=Path, help="TOML, as in the agent's own file")
    whom = parser.add_mutually_exclusive_group(required=True)
    whom.add_argument(
        "--device", action="append", metavar="DEVICE", help="id or name; may be repeated"
    )
    whom.add_argument("--group", help="every device that is in it now")


def _remove_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("device", metavar="DEVICE", help="a device's id or its name")
    parser.add_argument("name", metavar="PIPELINE", help="its name")


COMMANDS = (
    Command(
        ("pipelines", "list"),
        HEADING,
        "list a device's pipelines, its own and those that the hub orders",
        list_pipelines,
        _list_arguments,
        examples=("cloud-hub pipelines list gate-camera",),
    ),
    Command(
        ("pipelines", "set"),
        HEADING,
        "order the pipelines of a file: add a camera, change a threshold or a zone",
        set_pipelines,
        _set_arguments,
        examples=(
            "cloud-hub pipelines set gate.toml --device gate-camera",
            "cloud-hub pipelines set gate.toml --group north",
        ),
        description="The file has the words of the agent's own file: one pipeline, or [[pipelines]]"
        ".\nIt takes effect between two items, without a restart, as far as the device's owner\n"
        "allows it: [remote] in the agent's file.",
    ),
    Command(
        ("pipelines", "remove"),
        HEADING,
        "take an ordered pipeline back",
        remove_pipeline,
        _remove_arguments,
        examples=("cloud-hub pipelines remove gate-camera gate",),
    ),
)
