"""Commands about join tokens: each lets one device into the fleet."""

import argparse

from cloud_hub.command_line.answers import JoinToken, OpenToken, OpenTokens
from cloud_hub.command_line.commands import open_context
from cloud_hub.command_line.output import ago_text, span_text
from cloud_hub.command_line.spans import parse_span_s
from shared.clock import now_ms
from shared.command_line import Command
from shared.exit_codes import DONE

HEADING = "Devices"
TTL_S_DEFAULT = 3600
COLUMNS = ("token", "for", "groups", "made", "good for")


def create_token(args: argparse.Namespace) -> int:
    """Print the one command that joins a device."""
    context = open_context(args)
    body = {"name": args.name, "groups": args.group, "ttl_s": int(args.ttl)}
    with context.hub as hub:
        answer = hub.send("POST", "/api/v1/tokens", JoinToken, body)
    left = span_text((answer.value.expires_ms - now_ms(context.clock)) / 1000)
    context.output.say(f"Run this on the device, once, within {left}:")
    context.output.say("")
    context.output.say(f"  {answer.value.join_command}")
    context.output.result(answer.json)
    return DONE


def list_tokens(args: argparse.Namespace) -> int:
    """List the tokens with which a device can join now."""
    context = open_context(args)
    with context.hub as hub:
        answer = hub.get("/api/v1/tokens", OpenTokens)
    at_ms = now_ms(context.clock)
    rows = [
        (
            token.token_id,
            token.name or "any device",
            " ".join(token.groups),
            ago_text(token.created_ms, now_ms=at_ms),
            span_text((token.expires_ms - at_ms) / 1000),
        )
        for token in answer.value.tokens
    ]
    context.output.table(COLUMNS, rows, empty="No join token is open. Next: cloud-hub token create")
    context.output.result(answer.json)
    return DONE


def revoke_token(args: argparse.Namespace) -> int:
    """Withdraw a token that nobody used yet."""
    context = open_context(args)
    with context.hub as hub:
        answer = hub.send("POST", f"/api/v1/tokens/{args.token}/revoke", OpenToken)
    context.output.say(f"Nobody can join with token {answer.value.token_id} any more.")
    context.output.result(answer.json)
    return DONE


def _create_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--name", metavar="NAME", help="what the device will be called")
    parser.add_argument(
        "--group", action="append", default=[], metavar="GROUP", help="a group to put it in; repeat"
    )
    parser.add_argument(
        "--ttl",
        type=parse_span_s,
        default=TTL_S_DEFAULT,
        metavar="SPAN",
        help="how long the token is good: 15m, 2h, 7d (default: 1h)",
    )


def _revoke_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("token", metavar="TOKEN", help="its id, as `token list` says it")


COMMANDS = (
    Command(
        ("token", "create"),
        HEADING,
        "print the one command that joins a device",
        create_token,
        _create_arguments,
        examples=(
            "cloud-hub token create",
            "cloud-hub token create --name gate-camera --group canary --ttl 2h",
        ),
        description="The token works once. It carries the hub's fingerprint, so that the device's\n"
        "first contact cannot be intercepted.",
    ),
    Command(
        ("token", "list"),
        HEADING,
        "list join tokens that nobody used yet",
        list_tokens,
        examples=("cloud-hub token list",),
        description="Their texts are not kept: one that was lost is revoked and made anew.",
    ),
    Command(
        ("token", "revoke"),
        HEADING,
        "withdraw a join token before somebody uses it",
        revoke_token,
        _revoke_arguments,
        examples=("cloud-hub token revoke 3f9c1d20ab47",),
    ),
)
