"""Commands about samples that devices send: open a dataset to them, close it, make a version."""

import argparse

import msgspec

from cloud_hub.command_line.commands import open_context
from cloud_hub.command_line.dataset_answers import Collection, Collections, Imported
from cloud_hub.command_line.dataset_arguments import collect_arguments, shares_of
from cloud_hub.command_line.output import Output
from shared.command_line import Command
from shared.errors import ContractError
from shared.exit_codes import DONE

HEADING = "Datasets"
BASE = "/api/v1/datasets"
DEVICES_SHOWN_MAX = 20


def collect(args: argparse.Namespace) -> int:
    """Open a dataset to devices, close it, make a version, or say how it stands."""
    if args.make_version:
        return _make_version(args)
    context = open_context(args)
    path = f"{BASE}/{args.dataset}/collection"
    _check(args)
    with context.hub as hub:
        if args.stop:
            query = "?discards=true" if args.discard else ""
            answer = hub.send("DELETE", path + query, Collection)
        elif args.group is not None:
            body = {"group": args.group}
            if args.items_max is not None:
                body["items_max"] = args.items_max
            answer = hub.send("PUT", path, Collection, body)
        else:
            answer = hub.get(path, Collection)
    _show(context.output, answer.value)
    context.output.result(answer.json)
    return DONE


def list_collections(args: argparse.Namespace) -> int:
    """List datasets that are or were open to devices."""
    context = open_context(args)
    with context.hub as hub:
        answer = hub.get("/api/v1/collections", Collections)
    rows = [
        (
            each.dataset,
            each.group,
            "open" if each.is_open else "closed",
            each.kind or "-",
            f"{each.arrived_count:,}",
            f"{each.waiting_count:,}",
            f"{each.waiting_bytes:,}",
        )
        for each in answer.value.collections
    ]
    empty = "No dataset is open to devices. Next: cloud-hub datasets collect cats --group GROUP"
    columns = ("dataset", "group", "state", "kind", "arrived#", "waiting#", "bytes#")
    context.output.table(columns, rows, empty=empty)
    context.output.result(answer.json)
    return DONE


def _make_version(args: argparse.Namespace) -> int:
    context = open_context(args)
    rule = shares_of(args)
    if args.by is not None:
        rule["split_by"] = args.by
    path = f"{BASE}/{args.dataset}/collection/version"
    with context.hub as hub:
        answer = hub.send_long("POST", path, Imported, msgspec.json.encode({"rule": rule}))
    made, output = answer.value, context.output
    output.say(
        f"Version {made.version.version} of {made.version.dataset}: {made.added_count:,} samples "
        f"of devices, {made.broken_count:,} broken, {made.duplicates_count:,} duplicates left out."
    )
    output.say(f"What is wrong with it: cloud-hub datasets report {made.version.dataset}")
    output.result(answer.json)
    return DONE


def _check(args: argparse.Namespace) -> None:
    """Raise ContractError `collection.arguments` where arguments do not go together."""
    if args.discard and not args.stop:
        raise ContractError("collection.arguments", "--discard goes with --stop.")
    if args.items_max is not None and args.group is None:
        raise ContractError("collection.arguments", "--items-max goes with --group.")


def _show(output: Output, found: Collection) -> None:
    by_device = sorted(found.waiting_by_device.items(), key=lambda pair: (-pair[1], pair[0]))
    shown = ", ".join(f"{device} {count:,}" for device, count in by_device[:DEVICES_SHOWN_MAX])
    more = len(by_device) - DEVICES_SHOWN_MAX
    output.facts(
        [
            ("dataset", found.dataset),
            ("open to", f"the devices of {found.group}" if found.is_open else "nobody now"),
            ("arrived", f"{found.arrived_count:,} of at most {found.items_max:,}"),
            (
                "waiting",
                f"{found.waiting_count:,} ({found.waiting_labelled_count:,} labelled), "
                f"{found.waiting_bytes:,} bytes",
            ),
            ("from", shown + (f" and {more} more devices" if more > 0 else "")),
        ]
    )
    if found.waiting_count:
        output.say(f"Next: cloud-hub datasets collect {found.dataset} --make-version")
    elif found.is_open:
        output.say("A device sends only what its owner shares: [sharing] in its agent's file.")


COMMANDS = (
    Command(
        ("datasets", "collect"),
        HEADING,
        "take samples from devices whose owners share them, and make a version of them",
        collect,
        collect_arguments,
        examples=(
            "cloud-hub datasets collect cats --group north --items-max 5000",
            "cloud-hub datasets collect cats",
            "cloud-hub datasets collect cats --make-version",
            "cloud-hub datasets collect cats --stop",
        ),
        description="Devices offer what their own files share, and send what is asked for here.\n"
        "What has arrived is no version: --make-version imports it as any source is imported.\n"
        "Devices stay whole: none is in two parts, unless --by says otherwise.",
    ),
    Command(
        ("datasets", "collections"),
        HEADING,
        "list datasets that are or were open to devices",
        list_collections,
        examples=("cloud-hub datasets collections",),
    ),
)
