"""Devices: who is in the fleet, under which name and groups, and who is not any more."""

from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import Field

from cloud_hub.api.bodies import (
    LIST_DEFAULT,
    AnswerBody,
    Limit,
    Name,
    NamePath,
    RequestBody,
    errors,
)
from cloud_hub.api.rollout_bodies import DeviceModelOut, ReceiptOut
from cloud_hub.api.services import ActingDep, ServicesDep
from cloud_hub.devices.device import DeviceState
from cloud_hub.devices.presence import PresenceState
from shared.errors import ContractError
from shared.ids import NAME_PATTERN, DeviceId

routes = APIRouter(prefix="/api/v1/devices", tags=["Devices"])

GROUPS_MAX = 32


class HardwareOut(AnswerBody):
    """What the device is made of."""

    machine: str
    board: str
    cores_count: int
    memory_bytes: int


class DeviceOut(AnswerBody):
    """One device."""

    device_id: str
    name: str
    groups: tuple[str, ...]
    state: DeviceState
    presence: PresenceState
    presence_reason: str
    last_seen_ms: int | None
    session_id: str | None
    enrolled_ms: int
    revoked_ms: int | None
    certificate_serial: str
    certificate_expires_ms: int
    agent_version: str
    boot_id: str
    hardware: HardwareOut | None
    uptime_s: int | None
    outbox_rows: int | None
    outbox_dropped: int | None


class DevicesOut(AnswerBody):
    """Devices in order of their ids."""

    devices: tuple[DeviceOut, ...]
    next: str | None = Field(description="Ask again with `after` this to get the following ones")


class DeviceChange(RequestBody):
    """What to change; what is left out stays."""

    name: str | None = Field(default=None, min_length=1, max_length=63, examples=["gate camera"])
    groups: list[Annotated[str, Field(pattern=NAME_PATTERN)]] | None = Field(
        default=None, max_length=GROUPS_MAX, examples=[["site-berlin", "canary"]]
    )


class DeviceModelsOut(AnswerBody):
    """What a device last said of each of its models."""

    models: tuple[DeviceModelOut, ...]


class ReceiptsOut(AnswerBody):
    """Verified receipts, newest first."""

    receipts: tuple[ReceiptOut, ...]


@routes.get("", summary="The fleet", responses=errors())
def list_devices(
    services: ServicesDep,
    group: Name | None = None,
    limit: Limit = LIST_DEFAULT,
    after: Annotated[str | None, Query(max_length=63, description="A device id")] = None,
) -> DevicesOut:
    """Return devices in order of their ids, of one group or all."""
    found = sorted(
        (d for d in services.devices.list_devices() if group is None or group in d.groups),
        key=lambda device: device.device_id,
    )
    found = [device for device in found if after is None or device.device_id > after]
    page = found[:limit]
    return DevicesOut(
        devices=tuple(DeviceOut.model_validate(device) for device in page),
        next=page[-1].device_id if len(found) > limit else None,
    )


@routes.get("/{device_id}", summary="One device", responses=errors(404))
def get_device(device_id: NamePath, services: ServicesDep) -> DeviceOut:
    """Return one device."""
    return DeviceOut.model_validate(services.devices.get(DeviceId(device_id)))


@routes.patch("/{device_id}", summary="Rename or regroup a device", responses=errors(404, 409))
def change_device(
    device_id: NamePath, change: DeviceChange, services: ServicesDep, acting: ActingDep
) -> DeviceOut:
    """Change a device's name, its groups, or both; return the device as it is then."""
    if change.name is None and change.groups is None:
        raise ContractError(
            "request.invalid", "There is nothing to change.", remedy="Give a name, or groups."
        )
    device = services.devices.get(DeviceId(device_id))
    if change.name is not None:
        with acting.act("device.rename", device_id, change.name):
            device = services.devices.rename(device.device_id, change.name)
    if change.groups is not None:
        with acting.act("device.group", device_id, " ".join(change.groups)):
            device = services.devices.set_groups(device.device_id, change.groups)
    return DeviceOut.model_validate(device)


@routes.post("/{device_id}/revoke", summary="Take a device out, for good", responses=errors(404))
def revoke_device(device_id: NamePath, services: ServicesDep, acting: ActingDep) -> DeviceOut:
    """Revoke the device's certificates and end its session. It can only come back as a new one."""
    with acting.act("device.revoke", device_id):
        device = services.devices.revoke(DeviceId(device_id))
    return DeviceOut.model_validate(device)


@routes.get("/{device_id}/models", summary="What a device runs", responses=errors(404))
def list_device_models(device_id: NamePath, services: ServicesDep) -> DeviceModelsOut:
    """Return what the device last reported of each model, and whether it proved it."""
    device = services.devices.get(DeviceId(device_id))
    models = services.rollouts.device_models(device.device_id)
    return DeviceModelsOut(models=tuple(DeviceModelOut.of(model) for model in models))


@routes.get("/{device_id}/receipts", summary="What a device proved", responses=errors(404))
def list_receipts(
    device_id: NamePath, services: ServicesDep, limit: Limit = LIST_DEFAULT
) -> ReceiptsOut:
    """Return the device's newest receipts whose signature held, newest first."""
    device = services.devices.get(DeviceId(device_id))
    found = services.rollouts.receipts(device.device_id, limit=limit)
    return ReceiptsOut(receipts=tuple(ReceiptOut.of(receipt) for receipt in found))
