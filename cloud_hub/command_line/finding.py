"""From what people call a thing to what the hub calls it: a device's name, a channel."""

import re

import msgspec

from cloud_hub.command_line.answers import Device, Devices, Models
from cloud_hub.command_line.http_client import HubClient
from shared.errors import RefusedError

PAGE = 500
PAGES_MAX = 200
NAMED_MAX = 5  # Devices named in one error
_DEVICE_ID = re.compile(r"dev-[a-z0-9-]{1,59}")


def fetch_devices(hub: HubClient, *, group: str | None = None) -> list[msgspec.Raw]:
    """Return the fleet, or one group of it, each device as the hub said it."""
    found: list[msgspec.Raw] = []
    after: str | None = None
    for _ in range(PAGES_MAX):
        query = {"group": group, "limit": PAGE, "after": after}
        page = hub.get("/api/v1/devices", Devices, query=query).value
        found += page.devices
        after = page.next
        if after is None:
            break
    return found


def find_device(hub: HubClient, text: str) -> str:
    """Return the id of the device that a person named by its id or its name.

    Revoked ones are found by their id only. Raises RefusedError `device.unknown` or
    `device.ambiguous`.
    """
    if _DEVICE_ID.fullmatch(text):
        return text
    devices = [msgspec.json.decode(raw, type=Device) for raw in fetch_devices(hub)]
    ids = [d.device_id for d in devices if d.name == text and d.state == "enrolled"]
    if not ids:
        raise RefusedError(
            "device.unknown",
            f"There is no device {text!r}.",
            remedy="See the list: cloud-hub devices list.",
        )
    if len(ids) > 1:
        raise RefusedError(
            "device.ambiguous",
            f"{len(ids)} devices have the name {text!r}.",
            remedy=f"Name one by its id: {', '.join(ids[:NAMED_MAX])}.",
        )
    return ids[0]


def find_version(hub: HubClient, model: str, channel: str) -> int:
    """Return the version that a channel of a model names. Raises RefusedError `channel.unset`."""
    models = hub.get("/api/v1/models", Models).value.models
    for found in models:
        if found.model == model and channel in found.channels:
            return found.channels[channel]
    raise RefusedError(
        "channel.unset",
        f"The channel {channel} of {model} names no release.",
        remedy=f"Name one first: cloud-hub models channel {model} {channel} VERSION.",
    )
