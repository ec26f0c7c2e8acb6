"""What the dashboard's forms do: the same acts as the API's, then back to a page."""

from typing import Annotated, Any, Literal, assert_never

from fastapi import APIRouter, Form, Request
from fastapi.responses import RedirectResponse, Response

from cloud_hub.api.bodies import PROSE_PATTERN, NamePath
from cloud_hub.api.services import ActingDep, ServicesDep
from cloud_hub.api.tokens import join_command
from cloud_hub.dashboard.render import render
from cloud_hub.devices.join_token import TTL_S_MAX, TTL_S_MIN
from cloud_hub.rollouts.order import FailureLimit, RolloutOrder
from cloud_hub.rollouts.waves import parse_wave
from shared.errors import ContractError
from shared.ids import DeviceId, RolloutId, parse_group_name, parse_model_name
from shared.pipeline.pipeline import pipelines_in
from shared.settings import parse_toml

routes = APIRouter()

PIPELINE_CHARS_MAX = 16_000

Text = Annotated[str, Form(max_length=1000, pattern=PROSE_PATTERN)]
Act = Literal["hold", "resume", "resume-excusing", "undo", "cancel"]


@routes.post("/devices/{device_id}/rename")
def rename(device_id: NamePath, name: Text, services: ServicesDep, acting: ActingDep) -> Response:
    """Rename a device."""
    with acting.act("device.rename", device_id, name):
        services.devices.rename(DeviceId(device_id), name)
    return _to(f"/devices/{device_id}")


@routes.post("/devices/{device_id}/groups")
def set_groups(
    device_id: NamePath, services: ServicesDep, acting: ActingDep, groups: Text = ""
) -> Response:
    """Put a device into groups, given apart by spaces or commas."""
    with acting.act("device.group", device_id, groups):
        services.devices.set_groups(DeviceId(device_id), _words(groups))
    return _to(f"/devices/{device_id}")


@routes.post("/devices/{device_id}/revoke")
def revoke(device_id: NamePath, services: ServicesDep, acting: ActingDep) -> Response:
    """Take a device out, for good."""
    with acting.act("device.revoke", device_id):
        services.devices.revoke(DeviceId(device_id))
    return _to(f"/devices/{device_id}")


@routes.post("/devices/{device_id}/pipelines")
def order_pipeline(
    device_id: NamePath,
    services: ServicesDep,
    acting: ActingDep,
    settings: Annotated[str, Form(max_length=PIPELINE_CHARS_MAX)],
) -> Response:
    """Order a pipeline, written as TOML, or several under [[pipelines]]."""
    with acting.act("pipeline.order", device_id):
        found = parse_toml(settings.encode(), dict[str, Any], name="the text")
        for one in pipelines_in(found, where="The text"):
            services.rollouts.pipelines.set([DeviceId(device_id)], one, by=acting.operator.name)
    return _to(f"/devices/{device_id}")


@routes.post("/devices/{device_id}/pipelines/{name}/remove")
def remove_pipeline(
    device_id: NamePath, name: NamePath, services: ServicesDep, acting: ActingDep
) -> Response:
    """Take an ordered pipeline back."""
    with acting.act("pipeline.remove", device_id, name):
        services.rollouts.pipelines.remove(DeviceId(device_id), name)
    return _to(f"/devices/{device_id}")


@routes.post("/enrol")
def create_token(
    request: Request,
    services: ServicesDep,
    acting: ActingDep,
    ttl_s: Annotated[int, Form(ge=TTL_S_MIN, le=TTL_S_MAX)],
    name: Text = "",
    groups: Text = "",
) -> Response:
    """Make a join token and show the command; it is not kept, so it is not redirected to."""
    with acting.act("token.create", name, f"groups: {groups}"):
        issued = services.devices.create_token(
            name=name.strip() or None, groups=_words(groups), ttl_s=ttl_s
        )
    return render(
        request,
        "enrol",
        clock=services.clock,
        token=issued,
        command=join_command(services.hub.join_url, issued.text),
        groups=services.devices.group_counts(),
    )


@routes.post("/rollouts/new")
def start_rollout(
    services: ServicesDep,
    acting: ActingDep,
    release: Text,
    waves: Text,
    failure_percent: Annotated[float, Form()],
    deadline_minutes: Annotated[float, Form()],
    bake_s: Annotated[float, Form()],
    group: Text = "",
    notes: Text = "",
) -> Response:
    """Start a rollout and show it."""
    model, _, version = release.partition(":")
    with acting.act("rollout.start", release, group or "every device"):
        if not version.isdecimal():
            raise ContractError("release.invalid", f"{release[:80]!r} names no release.")
        order = RolloutOrder(
            model=parse_model_name(model),
            version=int(version),
            group=parse_group_name(group) if group else None,
            waves=tuple(parse_wave(wave) for wave in _words(waves)),
            failure_limit=FailureLimit(share_max=failure_percent / 100),
            wave_deadline_s=deadline_minutes * 60,
            bake_s=bake_s,
            notes=notes,
        )
        rollout = services.rollouts.start(order, by=acting.operator.name)
    return _to(f"/rollouts/{rollout.rollout_id}")


@routes.post("/rollouts/{rollout_id}/{act}")
def act_on_rollout(
    rollout_id: NamePath, act: Act, services: ServicesDep, acting: ActingDep
) -> Response:
    """Hold, resume, undo or cancel a rollout."""
    rollouts, by, target = services.rollouts, acting.operator.name, RolloutId(rollout_id)
    with acting.act(f"rollout.{act.partition('-')[0]}", rollout_id):
        match act:
            case "hold":
                rollouts.hold(target, by=by)
            case "resume":
                rollouts.resume(target, by=by)
            case "resume-excusing":
                rollouts.resume(target, by=by, excuse_silent=True)
            case "undo":
                rollouts.undo(target, by=by)
            case "cancel":
                rollouts.cancel(target, by=by)
            case _:
                assert_never(act)
    return _to(f"/rollouts/{rollout_id}")


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.replace(",", " ").split())


def _to(path: str) -> Response:
    return RedirectResponse(path, status_code=303)
