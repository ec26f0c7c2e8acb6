"""The audit log, to read. It is written by every act; nothing here changes it."""

from typing import Annotated

from fastapi import APIRouter, Query

from cloud_hub.api.bodies import LIST_DEFAULT, AnswerBody, Limit, errors
from cloud_hub.api.services import ServicesDep
from cloud_hub.api.sql_store import Outcome

routes = APIRouter(prefix="/api/v1/audit", tags=["Hub"])


class AuditEntryOut(AnswerBody):
    """Who did what, when, and how it ended."""

    id: int
    at_ms: int
    operator: str
    action: str
    subject: str
    detail: str
    outcome: Outcome
    code: str


class AuditOut(AnswerBody):
    """Entries, newest first."""

    entries: tuple[AuditEntryOut, ...]


@routes.get("", summary="Who did what, when, and how it ended", responses=errors())
def read_audit(
    services: ServicesDep,
    limit: Limit = LIST_DEFAULT,
    before: Annotated[int | None, Query(ge=1, description="Only entries with a lower id")] = None,
) -> AuditOut:
    """Return the newest entries first. An outcome "started" means the hub died in the act."""
    entries = services.audit.entries(limit=limit, before=before)
    return AuditOut(entries=tuple(AuditEntryOut.model_validate(entry) for entry in entries))
