"""Rollouts: moving devices to a release wave by wave, and back."""

from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import Field

from cloud_hub.api.bodies import (
    LIST_DEFAULT,
    PROSE_PATTERN,
    AnswerBody,
    Limit,
    Name,
    NamePath,
    RequestBody,
    errors,
)
from cloud_hub.api.rollout_bodies import EntryOut, RolloutDeviceOut, RolloutIn, RolloutOut
from cloud_hub.api.services import ActingDep, Services, ServicesDep
from cloud_hub.rollouts.timeline import ENTRIES_MAX
from shared.ids import ModelName, RolloutId

routes = APIRouter(prefix="/api/v1", tags=["Rollouts"])

TIMELINE_MAX = 1000
WHY_CHARS_MAX = 500


class RolloutsOut(AnswerBody):
    """Rollouts, newest first."""

    rollouts: tuple[RolloutOut, ...]


class RolloutDetailOut(AnswerBody):
    """A rollout with every device's part in it."""

    rollout: RolloutOut
    devices: tuple[RolloutDeviceOut, ...]


class TimelineOut(AnswerBody):
    """What happened, oldest first."""

    entries: tuple[EntryOut, ...]


class ActIn(RequestBody):
    """Why; it stands in the timeline."""

    why: str = Field(
        default="", max_length=WHY_CHARS_MAX, pattern=PROSE_PATTERN, examples=["night shift, wait"]
    )


class ResumeIn(ActIn):
    """Why, and what to make of devices that stay silent."""

    excuse_silent: bool = Field(
        default=False, description="Go on without devices that are silent past their deadline"
    )


def detail(services: Services, rollout_id: RolloutId) -> RolloutDetailOut:
    """Return a rollout with its devices."""
    view = services.rollouts.get(rollout_id)
    return RolloutDetailOut(
        rollout=RolloutOut.of(view.rollout, view.devices),
        devices=tuple(RolloutDeviceOut.of(device) for device in view.devices),
    )


@routes.get("/rollouts", summary="Rollouts, newest first", responses=errors())
def list_rollouts(
    services: ServicesDep, limit: Limit = LIST_DEFAULT, model: Name | None = None
) -> RolloutsOut:
    """Return the newest rollouts, of one model or all."""
    found = services.rollouts.list(ModelName(model) if model else None, limit=limit)
    views = (services.rollouts.get(rollout.rollout_id) for rollout in found)
    return RolloutsOut(rollouts=tuple(RolloutOut.of(v.rollout, v.devices) for v in views))


@routes.post("/rollouts", summary="Start a rollout", status_code=201, responses=errors(404, 409))
def start_rollout(body: RolloutIn, services: ServicesDep, acting: ActingDep) -> RolloutDetailOut:
    """Move devices to a release, wave by wave. It goes on by itself from here."""
    where = body.group or " ".join(body.devices) or "every device"
    with acting.act("rollout.start", f"{body.model}:{body.version}", where):
        rollout = services.rollouts.start(body.to_order(), by=acting.operator.name)
    return detail(services, rollout.rollout_id)


@routes.get("/rollouts/{rollout_id}", summary="One rollout", responses=errors(404))
def get_rollout(rollout_id: NamePath, services: ServicesDep) -> RolloutDetailOut:
    """Return a rollout with every device's part in it."""
    return detail(services, RolloutId(rollout_id))


@routes.get("/rollouts/{rollout_id}/timeline", summary="What happened", responses=errors(404))
def get_timeline(
    rollout_id: NamePath,
    services: ServicesDep,
    after: Annotated[int, Query(ge=0, description="Leave out this many of the oldest")] = 0,
    limit: Annotated[int, Query(ge=1, le=TIMELINE_MAX)] = TIMELINE_MAX,
) -> TimelineOut:
    """Return what happened, oldest first: who, when, what, and measured against limit."""
    entries = services.rollouts.timeline(RolloutId(rollout_id), limit=ENTRIES_MAX)
    return TimelineOut(entries=tuple(EntryOut.of(e) for e in entries[after : after + limit]))


@routes.post("/rollouts/{rollout_id}/hold", summary="Hold it", responses=errors(404, 409))
def hold(
    rollout_id: NamePath, body: ActIn, services: ServicesDep, acting: ActingDep
) -> RolloutDetailOut:
    """Move no further devices; what is under way goes on."""
    with acting.act("rollout.hold", rollout_id, body.why):
        services.rollouts.hold(RolloutId(rollout_id), by=acting.operator.name, why=body.why)
    return detail(services, RolloutId(rollout_id))


@routes.post("/rollouts/{rollout_id}/resume", summary="Go on", responses=errors(404, 409))
def resume(
    rollout_id: NamePath, body: ResumeIn, services: ServicesDep, acting: ActingDep
) -> RolloutDetailOut:
    """Go on with a held rollout; silent devices get a new deadline."""
    with acting.act("rollout.resume", rollout_id, body.why):
        services.rollouts.resume(
            RolloutId(rollout_id),
            by=acting.operator.name,
            why=body.why,
            excuse_silent=body.excuse_silent,
        )
    return detail(services, RolloutId(rollout_id))


@routes.post("/rollouts/{rollout_id}/undo", summary="Send it back", responses=errors(404, 409))
def undo(
    rollout_id: NamePath, body: ActIn, services: ServicesDep, acting: ActingDep
) -> RolloutDetailOut:
    """Send every moved device back to what it ran before."""
    with acting.act("rollout.undo", rollout_id, body.why):
        services.rollouts.undo(RolloutId(rollout_id), by=acting.operator.name, why=body.why)
    return detail(services, RolloutId(rollout_id))


@routes.post("/rollouts/{rollout_id}/cancel", summary="Stop it", responses=errors(404, 409))
def cancel(
    rollout_id: NamePath, body: ActIn, services: ServicesDep, acting: ActingDep
) -> RolloutDetailOut:
    """Stop where it stands: who proved the release keeps it, others go back."""
    with acting.act("rollout.cancel", rollout_id, body.why):
        services.rollouts.cancel(RolloutId(rollout_id), by=acting.operator.name, why=body.why)
    return detail(services, RolloutId(rollout_id))
