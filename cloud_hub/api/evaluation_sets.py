"""Evaluation sets: held-out data of a model, on which the gate measures every Candidate."""

from typing import Annotated

from fastapi import APIRouter, Path
from pydantic import Field

from cloud_hub.api.bodies import AnswerBody, NamePath, errors
from cloud_hub.api.order_body import BytesBody
from cloud_hub.api.services import ActingDep, ServicesDep
from cloud_hub.candidates.evaluation_set import EvaluationSet
from shared.ids import ModelName

routes = APIRouter(prefix="/api/v1/models/{model}/evaluation-set", tags=["Learning"])

DigestPath = Annotated[str, Path(pattern=r"^[0-9a-z]{1,64}$", description="As the list says it")]
NPZ_TYPE = "application/octet-stream"
_BODY = {
    "requestBody": {
        "required": True,
        "description": "An .npz file: `items` (N,H,W,3) uint8 BGR, (N,T,C) float32 or (N,M) uint8 "
        "texts padded with 0; `labels` (N,) int64, or for a detector `boxes` (M,5) float32 rows of "
        "class, left, top, right, bottom in shares of the picture and `box_starts` (N+1,) int64, "
        "so that item i has boxes box_starts[i] to box_starts[i+1]; optionally `slices` (N,) text",
        "content": {NPZ_TYPE: {"schema": {"type": "string", "format": "binary"}}},
    }
}


class EvaluationSetOut(AnswerBody):
    """One evaluation set."""

    digest: str
    model: str
    items_count: int
    slices: dict[str, int] = Field(description="Items of each slice", examples=[{"night": 120}])
    created_ms: int


class EvaluationSetsOut(AnswerBody):
    """The sets of a model, newest first: the first is the one that is used."""

    evaluation_sets: tuple[EvaluationSetOut, ...]


@routes.put(
    "", summary="Set what Candidates are measured on", responses=errors(), openapi_extra=_BODY
)
def put_evaluation_set(
    model: NamePath, data: BytesBody, services: ServicesDep, acting: ActingDep
) -> EvaluationSetOut:
    """Keep held-out data for a model. It counts from the next Candidate on."""
    with acting.act("evaluation.set", model, f"{len(data)} bytes"):
        added = services.releases.evaluation_sets.add(ModelName(model), data)
    return evaluation_set_out(added)


@routes.get("", summary="What Candidates are measured on", responses=errors())
def list_evaluation_sets(model: NamePath, services: ServicesDep) -> EvaluationSetsOut:
    """Return the sets of a model, newest first; the first is the one that is used."""
    found = services.releases.evaluation_sets.list(ModelName(model))
    return EvaluationSetsOut(evaluation_sets=tuple(evaluation_set_out(each) for each in found))


@routes.delete("/{digest}", summary="Remove held-out data", responses=errors(404, 409))
def remove_evaluation_set(
    model: NamePath, digest: DigestPath, services: ServicesDep, acting: ActingDep
) -> EvaluationSetOut:
    """Forget a set of a model; answers what it was. Then the newest that is left is used.

    Refused (409) for the newest one while a Job learns whose result it will judge. A Candidate
    that is being judged has its items already; Verdicts keep the digest of the set they rest on.
    """
    name = ModelName(model)
    with acting.act("evaluation.remove", model, digest):
        found = services.releases.evaluation_sets.get(name, digest)
        if found == services.releases.evaluation_sets.newest(name):
            services.training.require_evaluation_set_free(name, digest)
            services.cloud_jobs.require_evaluation_set_free(name, digest)
        services.releases.evaluation_sets.remove(name, digest)
    return evaluation_set_out(found)


def evaluation_set_out(found: EvaluationSet) -> EvaluationSetOut:
    """Return an evaluation set in the form of the API."""
    return EvaluationSetOut(
        digest=found.digest,
        model=found.model,
        items_count=found.items_count,
        slices=dict(found.slices),
        created_ms=found.created_ms,
    )
