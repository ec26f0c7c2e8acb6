"""/health, open to all: is the hub well? And /api/v1/hub: what it is."""

from fastapi import APIRouter
from fastapi.responses import JSONResponse

from cloud_hub.api.bodies import AnswerBody, errors
from cloud_hub.api.services import HubStatus, PartStatus, Services, ServicesDep
from shared.errors import TransientError, UnavailableError

routes = APIRouter(tags=["Hub"])


class PartOut(AnswerBody):
    """One part of the hub."""

    name: str
    is_good: bool
    detail: str


class HealthOut(AnswerBody):
    """Whether the hub is well, part by part."""

    is_good: bool
    parts: tuple[PartOut, ...]


class HubOut(AnswerBody):
    """What the hub is, and how it stands."""

    version: str
    join_url: str
    broker_url: str
    ca_fingerprint: str
    started_ms: int
    now_ms: int
    is_good: bool
    parts: tuple[PartOut, ...]
    records_ingested: int
    records_duplicate: int
    messages_by_topic: dict[str, int]
    rejected_by_code: dict[str, int]


def all_parts(services: Services, status: HubStatus) -> tuple[PartStatus, ...]:
    """Return the state of the database, tried now, and of the parts the hub reports."""
    try:
        services.database.check()
        database = PartStatus("database", is_good=True)
    except (TransientError, UnavailableError) as error:
        database = PartStatus("database", is_good=False, detail=error.code)
    return (database, *status.parts)


@routes.get("/health", summary="Is the hub well?", responses={503: {"model": HealthOut}})
def health(services: ServicesDep) -> JSONResponse:
    """Return 200 if every part is well, else 503. Needs no token and tells no secrets."""
    parts = all_parts(services, services.status())
    is_good = all(part.is_good for part in parts)
    body = HealthOut(is_good=is_good, parts=tuple(PartOut.model_validate(part) for part in parts))
    return JSONResponse(body.model_dump(mode="json"), status_code=200 if is_good else 503)


@routes.get("/api/v1/hub", summary="What this hub is, and how it stands", responses=errors())
def describe_hub(services: ServicesDep) -> HubOut:
    """Return addresses, version and the state of every part."""
    status = services.status()
    parts = all_parts(services, status)
    counts = services.telemetry.counts
    return HubOut(
        version=services.hub.version,
        join_url=services.hub.join_url,
        broker_url=services.hub.broker_url,
        ca_fingerprint=services.hub.ca_fingerprint,
        started_ms=services.hub.started_ms,
        now_ms=int(services.clock.now_s() * 1000),
        is_good=all(part.is_good for part in parts),
        parts=tuple(PartOut.model_validate(part) for part in parts),
        records_ingested=counts.records,
        records_duplicate=counts.duplicates,
        messages_by_topic=dict(status.messages_by_topic),
        rejected_by_code=dict(status.rejected_by_code),
    )
