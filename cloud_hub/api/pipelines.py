"""Pipelines: what runs on a device, and what the hub would have it run beside its own."""

from typing import Annotated, Any

import msgspec
from fastapi import APIRouter
from msgspec import UNSET
from pydantic import Field, JsonValue

from cloud_hub.api.bodies import AnswerBody, NamePath, RequestBody, errors
from cloud_hub.api.services import ActingDep, ServicesDep
from cloud_hub.rollouts.sql_pipelines import OrderedPipeline
from shared.errors import ContractError, RefusedError
from shared.ids import NAME_PATTERN, DeviceId
from shared.plural import counted
from shared.wire.report import PipelineReport

routes = APIRouter(prefix="/api/v1", tags=["Pipelines"])

DEVICES_MAX = 10_000
EXAMPLE = {
    "model": "people",
    "source": {"kind": "stream", "url": "rtsp://10.0.0.7/1"},
    "frames": {"fps_max": 10},
    "decisions": {"confidence_min": 0.5},
}


class PipelineOut(AnswerBody):
    """One pipeline of a device."""

    name: str
    model: str
    is_ordered: bool = Field(description="By the hub; else it stands in the device's own file")
    state: str = Field(description='As last reported; "ordered": the device has not told of it yet')
    detail: str
    source: str | None = Field(description="How its source stands, where the state is another's")
    settings: dict[str, JsonValue] | None = Field(description="Of those that the hub orders")
    changed_ms: int | None
    changed_by: str | None


class PipelinesOut(AnswerBody):
    """Pipelines by name."""

    device_id: str
    pipelines: tuple[PipelineOut, ...]


class PipelineBody(RequestBody):
    """One pipeline; the words are those of a `[[pipelines]]` part of the device's own file."""

    settings: dict[str, JsonValue] = Field(examples=[EXAMPLE], description="Without its name")


class GroupPipelineBody(PipelineBody):
    """One pipeline, and of whom it is ordered."""

    group: Annotated[str, Field(pattern=NAME_PATTERN)] | None = Field(
        default=None, description="Every device that is in it now"
    )
    devices: list[Annotated[str, Field(pattern=NAME_PATTERN)]] = Field(
        default=[], max_length=DEVICES_MAX
    )


class OrderedOut(AnswerBody):
    """Of whom it is ordered now."""

    name: str
    devices: tuple[str, ...]


@routes.get("/devices/{device_id}/pipelines", summary="A device's pipelines", responses=errors(404))
def list_pipelines(device_id: NamePath, services: ServicesDep) -> PipelinesOut:
    """Return what the device reported of its pipelines, and what the hub orders."""
    return pipelines_out(services, DeviceId(device_id))


@routes.put(
    "/devices/{device_id}/pipelines/{name}",
    summary="Order a pipeline of a device",
    responses=errors(404, 409, 422),
)
def order_pipeline(
    device_id: NamePath,
    name: NamePath,
    body: PipelineBody,
    services: ServicesDep,
    acting: ActingDep,
) -> PipelinesOut:
    """Add or replace a pipeline. It takes effect between two items, without a restart."""
    with acting.act("pipeline.order", device_id, name):
        services.rollouts.pipelines.set(
            [DeviceId(device_id)], named(body.settings, name), by=acting.operator.name
        )
    return pipelines_out(services, DeviceId(device_id))


@routes.delete(
    "/devices/{device_id}/pipelines/{name}",
    summary="Take an ordered pipeline back",
    responses=errors(404),
)
def remove_pipeline(
    device_id: NamePath, name: NamePath, services: ServicesDep, acting: ActingDep
) -> PipelinesOut:
    """Take an order back; a pipeline of the device's own with that name runs again."""
    with acting.act("pipeline.remove", device_id, name):
        services.rollouts.pipelines.remove(DeviceId(device_id), name)
    return pipelines_out(services, DeviceId(device_id))


@routes.put(
    "/pipelines/{name}", summary="Order a pipeline of many devices", responses=errors(404, 409, 422)
)
def order_pipelines(
    name: NamePath, body: GroupPipelineBody, services: ServicesDep, acting: ActingDep
) -> OrderedOut:
    """Add or replace a pipeline on every device of a group, or on those named."""
    with acting.act("pipeline.order", body.group or counted(len(body.devices), "device"), name):
        devices = _chosen(services, body)
        services.rollouts.pipelines.set(
            devices, named(body.settings, name), by=acting.operator.name
        )
    return OrderedOut(name=name, devices=tuple(devices))


def named(settings: dict[str, Any], name: str) -> dict[str, Any]:
    """Return the settings with their name. Raises ContractError `pipeline.invalid`."""
    if settings.get("name", name) != name:
        raise ContractError(
            "pipeline.invalid",
            f"The address names the pipeline {name}, `$.name` is {settings['name']!r}.",
            remedy="Leave `name` out of the settings.",
        )
    return {**settings, "name": name}


def pipelines_out(services: ServicesDep, device_id: DeviceId) -> PipelinesOut:
    """Return a device's pipelines in the form of the API. Raises RefusedError `device.unknown`."""
    ordered = {one.name: one for one in services.rollouts.pipelines.list(device_id)}
    report = services.rollouts.device_report(device_id)
    reported = {one.pipeline: one for one in (report.pipelines if report else ())}
    return PipelinesOut(
        device_id=device_id,
        pipelines=tuple(
            _out(name, ordered.get(name), reported.get(name))
            for name in sorted({*ordered, *reported})
        ),
    )


def _out(
    name: str, ordered: OrderedPipeline | None, reported: PipelineReport | None
) -> PipelineOut:
    settings = msgspec.json.decode(ordered.settings) if ordered else None
    return PipelineOut(
        name=name,
        model=settings["model"] if settings else reported.model if reported else "",
        is_ordered=ordered is not None,
        state=reported.state if reported else "ordered",
        detail=reported.detail if reported else "",
        source=_source(reported),
        settings=settings,
        changed_ms=ordered.changed_ms if ordered else None,
        changed_by=ordered.changed_by if ordered else None,
    )


def _source(reported: PipelineReport | None) -> str | None:
    return reported.source if reported and reported.source is not UNSET else None


def _chosen(services: ServicesDep, body: GroupPipelineBody) -> list[DeviceId]:
    if (body.group is None) == (not body.devices):
        raise ContractError(
            "request.invalid", "Of whom is it ordered?", remedy="Give either a group, or devices."
        )
    if body.group is None:
        return [DeviceId(device_id) for device_id in body.devices]
    found = [
        device.device_id
        for device in services.devices.list_devices()
        if body.group in device.groups and services.devices.is_active(device.device_id)
    ]
    if not found:
        raise RefusedError(
            "pipeline.not_active",
            f"No device of the fleet is in the group {body.group}.",
            remedy="See cloud-hub devices list.",
        )
    return sorted(found)
