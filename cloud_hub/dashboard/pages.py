"""The dashboard's pages: each a page for browsers, and its changing part for htmx.

A page reads; what changes something is in actions.py.
"""

from dataclasses import asdict
from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse, Response

from cloud_hub.api.bodies import NamePath
from cloud_hub.api.services import ServicesDep
from cloud_hub.dashboard.fleet_view import CHART_MINUTES, view_chart, view_device, view_fleet
from cloud_hub.dashboard.pipeline_view import FLOW_MINUTES
from cloud_hub.dashboard.render import render
from cloud_hub.dashboard.rollout_view import (
    view_new_rollout,
    view_releases,
    view_rollout_page,
    view_rollouts,
)
from shared.ids import DeviceId, RolloutId

routes = APIRouter()

QUERY_CHARS_MAX = 100
AUDIT_SHOWN = 100


@routes.get("/")
def show_fleet(
    request: Request,
    services: ServicesDep,
    q: Annotated[str, Query(max_length=QUERY_CHARS_MAX)] = "",
) -> Response:
    """Show every device."""
    return render(request, "fleet", clock=services.clock, view=view_fleet(services, q.strip()))


@routes.get("/devices/{device_id}")
def show_device(request: Request, device_id: NamePath, services: ServicesDep) -> Response:
    """Show one device; to htmx its decisions and events."""
    return _device(request, "device", device_id, services)


@routes.get("/devices/{device_id}/head")
def show_device_head(request: Request, device_id: NamePath, services: ServicesDep) -> Response:
    """Show one device's name, presence and figures."""
    return _device(request, "device_head", device_id, services)


@routes.get("/devices/{device_id}/side")
def show_device_side(request: Request, device_id: NamePath, services: ServicesDep) -> Response:
    """Show one device's models, receipts and hardware."""
    return _device(request, "device_side", device_id, services)


@routes.get("/devices/{device_id}/chart")
def show_device_chart(device_id: NamePath, services: ServicesDep) -> JSONResponse:
    """Return the columns of one device's latency chart."""
    return JSONResponse(asdict(view_chart(services, DeviceId(device_id))))


@routes.get("/releases")
def show_releases(request: Request, services: ServicesDep) -> Response:
    """Show every model with its releases."""
    return render(request, "releases", clock=services.clock, view=view_releases(services))


@routes.get("/rollouts")
def show_rollouts(request: Request, services: ServicesDep) -> Response:
    """Show the newest rollouts."""
    return render(request, "rollouts", clock=services.clock, view=view_rollouts(services))


@routes.get("/rollouts/new")
def show_new_rollout(
    request: Request,
    services: ServicesDep,
    model: Annotated[str, Query(max_length=63)] = "",
    version: Annotated[str, Query(max_length=10)] = "",
) -> Response:
    """Show the form that starts a rollout."""
    view = view_new_rollout(services, f"{model}:{version}")
    return render(request, "rollout_new", clock=services.clock, view=view)


@routes.get("/rollouts/{rollout_id}")
def show_rollout(request: Request, rollout_id: NamePath, services: ServicesDep) -> Response:
    """Show one rollout."""
    view = view_rollout_page(services, RolloutId(rollout_id))
    return render(request, "rollout", clock=services.clock, view=view)


@routes.get("/enrol")
def show_enrol(request: Request, services: ServicesDep) -> Response:
    """Show the form that makes a join token."""
    groups = services.devices.group_counts()
    return render(request, "enrol", clock=services.clock, token=None, command="", groups=groups)


@routes.get("/audit")
def show_audit(
    request: Request,
    services: ServicesDep,
    before: Annotated[int | None, Query(ge=1)] = None,
) -> Response:
    """Show who did what."""
    entries = services.audit.entries(limit=AUDIT_SHOWN, before=before)
    older = entries[-1].id if len(entries) == AUDIT_SHOWN else None
    return render(
        request, "audit", clock=services.clock, entries=entries, before=before, older=older
    )


def _device(request: Request, name: str, device_id: str, services: ServicesDep) -> Response:
    view = view_device(services, DeviceId(device_id))
    minutes = {"chart_minutes": CHART_MINUTES, "flow_minutes": FLOW_MINUTES}
    return render(request, name, clock=services.clock, view=view, **minutes)
