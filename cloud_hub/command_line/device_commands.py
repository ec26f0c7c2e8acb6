"""Commands about devices."""

import argparse

import msgspec

from cloud_hub.command_line.answers import Device, DeviceModel, DeviceModels
from cloud_hub.command_line.commands import Context, open_context
from cloud_hub.command_line.finding import fetch_devices, find_device
from cloud_hub.command_line.output import ago_text, clock_text
from shared.clock import now_ms
from shared.command_line import Command
from shared.errors import ContractError
from shared.exit_codes import DONE

HEADING = "Devices"


def list_devices(args: argparse.Namespace) -> int:
    """List the fleet."""
    context = open_context(args)
    with context.hub as hub:
        found = fetch_devices(hub, group=args.group)
    devices = [msgspec.json.decode(raw, type=Device) for raw in found]
    at_ms = now_ms(context.clock)
    rows = [
        (
            device.device_id,
            device.name,
            device.presence if device.state == "enrolled" else device.state,
            ago_text(device.last_seen_ms, now_ms=at_ms),
            " ".join(device.groups),
            device.agent_version,
        )
        for device in sorted(devices, key=lambda device: device.name)
    ]
    columns = ("device", "name", "presence", "seen", "groups", "agent")
    context.output.table(
        columns, rows, empty="No device has joined yet. Next: cloud-hub token create"
    )
    context.output.result(msgspec.json.encode({"devices": found}))
    return DONE


def show_device(args: argparse.Namespace) -> int:
    """Show one device and what it runs."""
    context = open_context(args)
    with context.hub as hub:
        device_id = find_device(hub, args.device)
        answer = hub.get(f"/api/v1/devices/{device_id}", Device)
        models = hub.get(f"/api/v1/devices/{device_id}/models", DeviceModels)
    device, output = answer.value, context.output
    hardware = device.hardware
    output.facts(
        [
            ("device", device.device_id),
            ("name", device.name),
            ("groups", " ".join(device.groups)),
            ("state", device.state),
            ("presence", f"{device.presence} ({device.presence_reason})"),
            ("last seen", ago_text(device.last_seen_ms, now_ms=now_ms(context.clock))),
            ("certificate until", clock_text(device.certificate_expires_ms)),
            ("agent", device.agent_version),
            ("hardware", f"{hardware.board}, {hardware.cores_count} cores" if hardware else ""),
            ("records waiting", "" if device.outbox_rows is None else str(device.outbox_rows)),
        ]
    )
    output.say("")
    rows = [
        (model.model, _running(model), model.state, _proof(model), _failure(model))
        for model in models.value.models
    ]
    columns = ("model", "runs", "state", "proof", "last refused")
    output.table(columns, rows, empty="It has not reported any model yet.")
    output.result(b'{"device":%b,"models":%b}' % (answer.json, models.json))
    return DONE


def rename_device(args: argparse.Namespace) -> int:
    """Give a device another name."""
    return _change(args, {"name": args.name})


def group_device(args: argparse.Namespace) -> int:
    """Put a device into groups: exactly those given, or the present ones with some changed."""
    context = open_context(args)
    if args.set is None and not args.add and not args.remove:
        raise ContractError(
            "groups.missing", "Which groups?", remedy="Give --add, --remove or --set."
        )
    if args.set is not None:
        return _change(args, {"groups": args.set})
    with context.hub as hub:
        device_id = find_device(hub, args.device)
        device = hub.get(f"/api/v1/devices/{device_id}", Device).value
    groups = (set(device.groups) | set(args.add)) - set(args.remove)
    return _change(args, {"groups": sorted(groups)})


def revoke_device(args: argparse.Namespace) -> int:
    """Take a device out of the fleet for good."""
    context = open_context(args)
    if not args.yes:
        raise ContractError(
            "device.not_confirmed",
            f"Revoking {args.device} cannot be taken back: it can only join again as a new device.",
            remedy="Add --yes to do it.",
        )
    with context.hub as hub:
        device_id = find_device(hub, args.device)
        answer = hub.send("POST", f"/api/v1/devices/{device_id}/revoke", Device)
    context.output.say(f"{answer.value.device_id} ({answer.value.name}) is revoked.")
    context.output.result(answer.json)
    return DONE


def _change(args: argparse.Namespace, change: dict[str, object]) -> int:
    context: Context = open_context(args)
    with context.hub as hub:
        device_id = find_device(hub, args.device)
        answer = hub.send("PATCH", f"/api/v1/devices/{device_id}", Device, change)
    device = answer.value
    groups = " ".join(device.groups) or "no group"
    context.output.say(f"{device.device_id} is {device.name!r}, in {groups}.")
    context.output.result(answer.json)
    return DONE


def _running(model: DeviceModel) -> str:
    if not model.version:
        return "nothing"
    precision = f" ({model.precision})" if model.precision else ""
    target = f" -> {model.target_version}" if model.target_version != model.version else ""
    return f"version {model.version}{precision}{target}"


def _proof(model: DeviceModel) -> str:
    return model.proof or model.receipt_problem or "none"


def _failure(model: DeviceModel) -> str:
    return f"{model.failure.text} [{model.failure.code}]" if model.failure else ""


def _list_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--group", help="only this group")


def _device_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("device", metavar="DEVICE", help="a device's id or its name")


def _rename_arguments(parser: argparse.ArgumentParser) -> None:
    _device_argument(parser)
    parser.add_argument("name", metavar="NAME", help="its new name")


def _group_arguments(parser: argparse.ArgumentParser) -> None:
    _device_argument(parser)
    parser.add_argument(
        "--add", action="append", default=[], metavar="GROUP", help="a group to put it in; repeat"
    )
    parser.add_argument(
        "--remove",
        action="append",
        default=[],
        metavar="GROUP",
        help="a group to take it out of; repeat",
    )
    parser.add_argument(
        "--set", nargs="*", metavar="GROUP", help="be in exactly these groups; none named: in none"
    )


def _revoke_arguments(parser: argparse.ArgumentParser) -> None:
    _device_argument(parser)
    parser.add_argument("--yes", action="store_true", help="yes, it is meant")


COMMANDS = (
    Command(
        ("devices", "list"),
        HEADING,
        "list the fleet",
        list_devices,
        _list_arguments,
        examples=("cloud-hub devices list", "cloud-hub devices list --group canary --json"),
    ),
    Command(
        ("devices", "show"),
        HEADING,
        "show one device and what it runs",
        show_device,
        _device_argument,
        examples=("cloud-hub devices show gate-camera",),
    ),
    Command(
        ("devices", "rename"),
        HEADING,
        "give a device another name",
        rename_device,
        _rename_arguments,
        examples=("cloud-hub devices rename dev-7fk2mq9x gate-camera",),
    ),
    Command(
        ("devices", "group"),
        HEADING,
        "put a device into groups, or take it out",
        group_device,
        _group_arguments,
        examples=(
            "cloud-hub devices group gate-camera --add canary",
            "cloud-hub devices group gate-camera --set site-berlin canary",
        ),
    ),
    Command(
        ("devices", "revoke"),
        HEADING,
        "take a device out of the fleet, for good",
        revoke_device,
        _revoke_arguments,
        examples=("cloud-hub devices revoke dev-7fk2mq9x --yes",),
        description="Its certificate is revoked and its live session ends at once.",
    ),
)
