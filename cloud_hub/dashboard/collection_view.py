"""What the page about collections shows, gathered from the services."""

from collections.abc import Mapping
from dataclasses import dataclass

from cloud_hub.api.services import Services
from cloud_hub.datasets.collecting.collection import Collection
from cloud_hub.datasets.collecting.service import CollectionStanding
from shared.ids import DeviceId

DEVICES_SHOWN = 8


@dataclass(frozen=True, slots=True)
class DeviceCount:
    """How much of what waits one device has sent."""

    device_id: str
    name: str
    count: int


@dataclass(frozen=True, slots=True)
class CollectionRow:
    """One dataset that is, or was, open to devices."""

    collection: Collection
    standing: CollectionStanding
    is_there: bool  # The dataset has a version already
    devices_count: int  # In the group
    devices: tuple[DeviceCount, ...]
    devices_hidden_count: int
    trouble: str  # Why nothing more can come; "" where it can


@dataclass(frozen=True, slots=True)
class CollectionsView:
    """The whole page."""

    rows: tuple[CollectionRow, ...]
    groups: Mapping[str, int]  # To choose from, with how many devices each has


def view_collections(services: Services) -> CollectionsView:
    """Return every collection, and the groups that one can be open to."""
    groups = dict(services.devices.group_counts())
    names = {device.device_id: device.name for device in services.devices.list_devices()}
    known = {dataset.name for dataset in services.datasets.list() if dataset.newest is not None}
    rows = []
    for standing in services.collections.list():
        sent = sorted(standing.waiting_by_device.items(), key=lambda pair: -pair[1])
        collection = standing.collection
        count = groups.get(collection.group, 0)
        rows.append(
            CollectionRow(
                collection=collection,
                standing=standing,
                is_there=collection.dataset in known,
                devices_count=count,
                devices=tuple(
                    DeviceCount(device, names.get(DeviceId(device), device), items)
                    for device, items in sent[:DEVICES_SHOWN]
                ),
                devices_hidden_count=max(0, len(sent) - DEVICES_SHOWN),
                trouble=trouble_of(collection, devices_count=count),
            )
        )
    return CollectionsView(rows=tuple(rows), groups=groups)


def trouble_of(collection: Collection, *, devices_count: int) -> str:
    """Return why nothing more comes to an open collection; "" where something can."""
    if not collection.is_open:
        return ""
    if collection.arrived_count >= collection.items_max:
        return "It is full: all that it may hold has come. Open it for more, or close it."
    if not devices_count:
        return f"No device is in the group {collection.group}: nobody can send anything."
    return ""
