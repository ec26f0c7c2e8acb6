"""Commands about the hub itself: status, audit, operator."""

import argparse

from cloud_hub.command_line.answers import Audit, Hub, OperatorToken
from cloud_hub.command_line.commands import open_context
from cloud_hub.command_line.output import clock_text, span_text
from shared.command_line import Command
from shared.exit_codes import DONE, UNAVAILABLE

HEADING = "The hub"
AUDIT_LIMIT = 30


def show_status(args: argparse.Namespace) -> int:
    """Say whether the hub is well; exit with 6 if it is not."""
    context = open_context(args)
    with context.hub as hub:
        answer = hub.get("/api/v1/hub", Hub)
    found, output = answer.value, context.output
    output.facts(
        [
            ("hub", f"{hub.url}, version {found.version}"),
            ("running for", span_text((found.now_ms - found.started_ms) / 1000)),
            ("devices join at", found.join_url),
            ("broker", found.broker_url),
            ("records taken", f"{found.records_ingested:,}"),
        ]
    )
    rejected = ", ".join(f"{code} {count}" for code, count in found.rejected_by_code.items())
    output.facts([("refused messages", rejected)])
    rows = [(p.name, "good" if p.is_good else "NOT GOOD", p.detail) for p in found.parts]
    output.say("")
    output.table(("part", "state", "detail"), rows, empty="")
    output.result(answer.json)
    return DONE if found.is_good else UNAVAILABLE


def show_audit(args: argparse.Namespace) -> int:
    """List what operators did."""
    context = open_context(args)
    query = {"limit": args.limit, "before": args.before}
    with context.hub as hub:
        answer = hub.get("/api/v1/audit", Audit, query=query)
    rows = [
        (
            str(entry.id),
            clock_text(entry.at_ms),
            entry.operator,
            entry.action,
            f"{entry.subject} {entry.detail}".strip(),
            f"{entry.outcome} {entry.code}".strip(),
        )
        for entry in answer.value.entries
    ]
    columns = ("id#", "when", "who", "act", "what", "outcome")
    context.output.table(columns, rows, empty="Nobody has done anything yet.")
    context.output.result(answer.json)
    return DONE


def rotate_operator(args: argparse.Namespace) -> int:
    """Make a new operator token; the old one ends."""
    context = open_context(args)
    with context.hub as hub:
        answer = hub.send("POST", "/api/v1/operators/rotate", OperatorToken, {"name": args.name})
    context.output.say(f"The new token of operator {answer.value.name}, shown this once:")
    context.output.say("")
    context.output.say(f"  {answer.value.token}")
    context.output.say("")
    context.output.say("The old one, and every login made with it, has ended.")
    context.output.result(answer.json)
    return DONE


def _audit_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--limit",
        type=int,
        default=AUDIT_LIMIT,
        metavar="N",
        help="the newest N (default: %(default)s)",
    )
    parser.add_argument("--before", type=int, metavar="ID", help="only entries older than this id")


def _rotate_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--name", default="operator", metavar="NAME", help="whose token (default: %(default)s)"
    )


COMMANDS = (
    Command(
        ("status",),
        HEADING,
        "say whether the hub and each of its parts is well",
        show_status,
        examples=("cloud-hub status", "cloud-hub status --hub https://hub:8443 --ca ca.crt"),
        description="Exit code 0 if everything is well, 6 if a part is not or no hub answers.",
    ),
    Command(
        ("audit",),
        HEADING,
        "list who did what, when, and how it ended",
        show_audit,
        _audit_arguments,
        examples=("cloud-hub audit --limit 10", "cloud-hub audit --json | jq .entries"),
    ),
    Command(
        ("operator", "rotate"),
        HEADING,
        "replace an operator's token (or make a lost one anew)",
        rotate_operator,
        _rotate_arguments,
        examples=("cloud-hub operator rotate", "cloud-hub operator rotate --name anna"),
        description="On the hub's own machine this works without a token: a lost one is no loss.",
    ),
)
