"""Explanations: how good any model of this hub is on any dataset version, and why.

What is explained is a checkpoint: named by its own id, or by what came of it or made it - a Job, a
Candidate, a release. The work is a Job of the queue, which trains nothing; its report, pictures and
comparison are those of any other Job.
"""

from collections.abc import Iterable

import msgspec
from fastapi import APIRouter
from pydantic import Field

from cloud_hub.api.bodies import PROSE_PATTERN, RequestBody, errors
from cloud_hub.api.cloud_job_bodies import CloudJobOut
from cloud_hub.api.services import ActingDep, Services, ServicesDep
from cloud_hub.candidates.checkpoint import Checkpoint, CheckpointId
from cloud_hub.candidates.service import trained_digest
from cloud_hub.training.cloud.cloud_job import ID_PREFIX
from cloud_hub.training.cloud.order import CloudOrder, ExecutorName
from cloud_hub.training.cloud.planner import OWNER_CHARS_MAX
from cloud_hub.training.job import JobId
from shared.errors import ContractError, RefusedError
from shared.ids import NAME_PATTERN

routes = APIRouter(prefix="/api/v1/explanations", tags=["Training"])

CHECKPOINT_START, FLEET_JOB_START, CANDIDATE_START = "ckpt-", "job-", "cand-"
CHECKPOINTS_LOOKED_MAX = 1000  # Of a model: which of them a release was made of
WHAT_CHARS_MAX = 100
WHAT_PATTERN = rf"^{NAME_PATTERN.removeprefix('^').removesuffix('$')}(:[1-9][0-9]{{0,6}})?$"
_NAMES = "Name a checkpoint (ckpt-…), a Job, a Candidate (cand-…), or a release as MODEL:VERSION."


class ExplanationBody(RequestBody):
    """What is to be explained, on what."""

    what: str = Field(
        pattern=WHAT_PATTERN,
        max_length=WHAT_CHARS_MAX,
        description=_NAMES,
        examples=["ckpt-7fk2mq9x", "digits:3"],
    )
    dataset: str = Field(pattern=NAME_PATTERN)
    dataset_version: int | None = Field(
        default=None, ge=1, le=1_000_000, description="null: the newest"
    )
    executor: ExecutorName = Field(default=ExecutorName.LOCAL, strict=False)
    device: str = Field(default="auto", pattern="^(auto|cpu|cuda)$")
    owner: str = Field(default="", max_length=OWNER_CHARS_MAX, pattern=PROSE_PATTERN)
    notes: str = Field(default="", max_length=2000, pattern=PROSE_PATTERN)


@routes.post(
    "", summary="Explain a model on a dataset", status_code=201, responses=errors(404, 409)
)
def explain(body: ExplanationBody, services: ServicesDep, acting: ActingDep) -> CloudJobOut:
    """Queue a Job that judges a model's test part and draws why; its report is at the Job.

    A dataset without a test part is judged on its validation part.
    """
    with acting.act("explanation.start", body.what, f"on {body.dataset}"):
        checkpoint = find_checkpoint(services, body.what)
        order = _order(body, checkpoint)
        job = services.cloud_jobs.submit(order, by=acting.operator.name)
    return CloudJobOut.of(job)


def find_checkpoint(services: Services, what: str) -> Checkpoint:
    """Return the checkpoint that a name means.

    Raises RefusedError `checkpoint.unknown`, `job.unknown`, `candidate.unknown`, `release.unknown`,
    `explanation.no_checkpoint`; ContractError `explanation.what`.
    """
    checkpoints = services.releases.checkpoints
    made: CheckpointId | None
    if what.startswith(CHECKPOINT_START):
        return checkpoints.get(what)
    if what.startswith(ID_PREFIX):
        job = services.cloud_jobs.get(what)
        made = job.result_checkpoint_id
        if not job.order.is_trained and job.base_checkpoint_id is not None:
            made = job.base_checkpoint_id
    elif what.startswith(FLEET_JOB_START):
        made = services.training.get(JobId(what)).result_checkpoint_id
    elif what.startswith(CANDIDATE_START):
        candidate = services.releases.candidates.get(what)
        return _made_of(services, candidate.model, candidate.content_digest, what)
    elif ":" in what:
        model, _, version = what.partition(":")
        release = services.releases.get(model, int(version))
        return _made_of(services, release.model, release.content_digest, what)
    else:
        raise ContractError("explanation.what", f"what: {what!r} names nothing.", remedy=_NAMES)
    if made is None:
        raise _no_checkpoint(f"{what} has not left a checkpoint")
    return checkpoints.get(made)


def _made_of(services: Services, model: str, digest: str, what: str) -> Checkpoint:
    """Return the checkpoint that an export was made of: its content's digest says so."""
    found: Iterable[Checkpoint] = services.releases.checkpoints.list(
        model, limit=CHECKPOINTS_LOOKED_MAX
    )
    for checkpoint in found:
        if trained_digest(checkpoint) == digest:
            return checkpoint
    raise _no_checkpoint(f"{what} was uploaded as a graph, or its checkpoint is gone")


def _order(body: ExplanationBody, checkpoint: Checkpoint) -> CloudOrder:
    try:
        return CloudOrder(
            model=checkpoint.model,
            dataset=body.dataset,
            dataset_version=body.dataset_version,
            checkpoint=checkpoint.checkpoint_id,
            is_trained=False,
            is_released=False,
            executor=body.executor,
            device=body.device,
            owner=body.owner,
            notes=body.notes,
        )
    except msgspec.ValidationError as error:
        raise ContractError("request.invalid", f"{error}.") from error


def _no_checkpoint(text: str) -> RefusedError:
    return RefusedError(
        "explanation.no_checkpoint",
        f"There are no weights to explain: {text}.",
        remedy="Name a checkpoint: cloud-hub checkpoints list. What the gate measured of a release "
        "is in its Verdict: cloud-hub why MODEL:VERSION.",
    )
