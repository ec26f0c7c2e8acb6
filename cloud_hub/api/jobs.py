"""Jobs: devices learn together. Start one, watch it, see who took part and what came of it."""

from typing import Annotated

from fastapi import APIRouter, Query

from cloud_hub.api.bodies import LIST_DEFAULT, Limit, Name, NamePath, errors
from cloud_hub.api.job_bodies import (
    AccuracyOut,
    JobDeviceOut,
    JobDevicesOut,
    JobEventOut,
    JobEventsOut,
    JobOut,
    JobsOut,
    RoundOut,
    RoundsOut,
)
from cloud_hub.api.job_words import whom_text
from cloud_hub.api.order_body import OrderBody, order_description
from cloud_hub.api.rollouts import ActIn
from cloud_hub.api.services import ActingDep, ServicesDep
from cloud_hub.training.job import JobId
from shared.ids import ModelName

routes = APIRouter(prefix="/api/v1/jobs", tags=["Learning"])

EVENTS_MAX = 1000
EVENT_NUMBER_MAX = 2**53


@routes.post(
    "",
    summary="Start a Job",
    status_code=201,
    responses=errors(404, 409),
    openapi_extra=order_description(),
)
def start_job(order: OrderBody, services: ServicesDep, acting: ActingDep) -> JobOut:
    """Let devices learn together. It goes on by itself, unless it needs a person's approval."""
    with acting.act("job.start", order.model, whom_text(order)):
        job = services.training.start(order, actor=acting.operator.name)
    return JobOut.of(job)


@routes.get("", summary="Jobs, newest first", responses=errors())
def list_jobs(
    services: ServicesDep, limit: Limit = LIST_DEFAULT, model: Name | None = None
) -> JobsOut:
    """Return the newest Jobs, of one model or all."""
    found = services.training.jobs(ModelName(model) if model else None, limit=limit)
    return JobsOut(jobs=tuple(JobOut.of(job) for job in found))


@routes.get("/{job_id}", summary="One Job", responses=errors(404))
def get_job(job_id: NamePath, services: ServicesDep) -> JobOut:
    """Return a Job with its order."""
    return JobOut.of(services.training.get(JobId(job_id)))


@routes.post("/{job_id}/approve", summary="Say yes to it", responses=errors(404, 409))
def approve_job(job_id: NamePath, services: ServicesDep, acting: ActingDep) -> JobOut:
    """Let a Job begin that was ordered with `needs_approval`."""
    with acting.act("job.approve", job_id):
        job = services.training.approve(JobId(job_id), actor=acting.operator.name)
    return JobOut.of(job)


@routes.post("/{job_id}/stop", summary="Stop it", responses=errors(404, 409))
def stop_job(job_id: NamePath, body: ActIn, services: ServicesDep, acting: ActingDep) -> JobOut:
    """End a Job for good; the weights of its last Round are kept as a checkpoint."""
    with acting.act("job.stop", job_id, body.why):
        job = services.training.stop(JobId(job_id), actor=acting.operator.name, reason=body.why)
    return JobOut.of(job)


@routes.get("/{job_id}/events", summary="What happened", responses=errors(404))
def list_events(
    job_id: NamePath,
    services: ServicesDep,
    after: Annotated[int, Query(ge=0, le=EVENT_NUMBER_MAX, description="Only later numbers")] = 0,
    limit: Annotated[int, Query(ge=1, le=EVENTS_MAX)] = EVENTS_MAX,
) -> JobEventsOut:
    """Return what happened, oldest first: who counted, who was refused, and why."""
    found = services.training.events(JobId(job_id), after=after, limit=limit)
    return JobEventsOut(events=tuple(JobEventOut.of(event) for event in found))


@routes.get("/{job_id}/rounds", summary="Its Rounds", responses=errors(404))
def list_rounds(job_id: NamePath, services: ServicesDep) -> RoundsOut:
    """Return the Rounds with their loss, accuracy, bytes and privacy, first to last."""
    found = services.training.rounds(JobId(job_id))
    return RoundsOut(rounds=tuple(RoundOut.of(summary) for summary in found))


@routes.get("/{job_id}/devices", summary="Its devices", responses=errors(404))
def list_devices(job_id: NamePath, services: ServicesDep) -> JobDevicesOut:
    """Return every device's part: what it does, why it does not, what it sent."""
    found = services.training.devices(JobId(job_id))
    return JobDevicesOut(devices=tuple(JobDeviceOut.of(device) for device in found))


@routes.get("/{job_id}/accuracy", summary="Accuracy per device", responses=errors(404))
def get_accuracy(job_id: NamePath, services: ServicesDep) -> AccuracyOut:
    """Return accuracy before and after on each device's own held-out samples: a distribution."""
    return AccuracyOut.of(services.training.accuracy_spread(JobId(job_id)))
