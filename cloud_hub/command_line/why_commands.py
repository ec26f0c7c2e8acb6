"""`why`: a device, a rollout, a Job, a Candidate or a release, explained in plain words."""

import argparse
import re

from cloud_hub.command_line.answers import Why
from cloud_hub.command_line.commands import open_context
from cloud_hub.command_line.finding import find_device
from cloud_hub.command_line.output import Output
from shared.command_line import Command
from shared.exit_codes import DONE

HEADING = "Rollouts"
ID_STARTS = ("roll-", "job-", "cloud-", "cand-")
_RELEASE = re.compile(r"([a-z0-9][a-z0-9-]{0,62}):v?([0-9]{1,7})")


def explain(args: argparse.Namespace) -> int:
    """Explain what a person named: an id, a device's name, or a release as MODEL:VERSION."""
    context = open_context(args)
    release = _RELEASE.fullmatch(args.subject)
    with context.hub as hub:
        if release is not None:
            answer = hub.get(f"/api/v1/why/{release[1]}/{release[2]}", Why)
        else:
            subject = args.subject
            if not subject.startswith(ID_STARTS):
                subject = find_device(hub, subject)
            answer = hub.get(f"/api/v1/why/{subject}", Why, query={"model": args.model})
    tell_why(context.output, answer.value)
    context.output.result(answer.json)
    return DONE


def tell_why(output: Output, why: Why) -> None:
    """Write an explanation, part by part."""
    for index, part in enumerate(why.parts):
        if index:
            output.say("")
        if part.heading:
            output.say(f"{part.heading}:")
        for sentence in part.sentences:
            output.say(f"  {sentence}" if part.heading else sentence)
        if part.rows:
            output.table(part.columns, part.rows, empty="")


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "subject",
        metavar="SUBJECT",
        help="a device, the id of a rollout, a Job or a candidate, or a release as MODEL:VERSION",
    )
    parser.add_argument("--model", metavar="MODEL", help="only this model of the device")


COMMANDS = (
    Command(
        ("why",),
        HEADING,
        "say why a device, a rollout, a Job or a release is as it is",
        explain,
        _arguments,
        examples=(
            "cloud-hub why gate-camera",
            "cloud-hub why roll-7fk2mq9x",
            "cloud-hub why job-7fk2mq9x",
            "cloud-hub why digits:3",
        ),
        description="A Job, a candidate and a release are told with everything they led to, and\n"
        "what led to them: the data, the checkpoint before, what was learned, what the gate\n"
        "measured, where the release went, who proved it.",
    ),
)
