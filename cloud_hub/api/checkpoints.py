"""Checkpoints: networks with weights, from which Jobs start and Candidates are exported."""

from typing import Annotated

from fastapi import APIRouter, Form, Response, UploadFile
from pydantic import Field, JsonValue

from cloud_hub.api.bodies import PROSE_PATTERN, AnswerBody, Name, NamePath, errors, plain
from cloud_hub.api.releases import NOTES_CHARS_MAX, ReleaseOut, release_out
from cloud_hub.api.services import ActingDep, ServicesDep
from cloud_hub.candidates.checkpoint import Checkpoint, CheckpointId
from shared.ids import NAME_PATTERN, LineageId, ModelName
from shared.model.spec import SPEC_BYTES_MAX
from shared.settings import CONFIG_BYTES_MAX

routes = APIRouter(prefix="/api/v1/checkpoints", tags=["Learning"])

WEIGHTS_TYPE = "application/octet-stream"


class CheckpointOut(AnswerBody):
    """One checkpoint."""

    checkpoint_id: str
    model: str
    weights_digest: str
    parameters_count: int
    lineage_id: str
    origin: str = Field(description='"uploaded", "drawn" (fresh weights), or the Job that made it')
    created_ms: int
    spec: dict[str, JsonValue]
    network: dict[str, JsonValue]


class CheckpointsOut(AnswerBody):
    """Checkpoints, newest first."""

    checkpoints: tuple[CheckpointOut, ...]


def checkpoint_out(checkpoint: Checkpoint) -> CheckpointOut:
    """Return a checkpoint in the form of the API."""
    return CheckpointOut(
        checkpoint_id=checkpoint.checkpoint_id,
        model=checkpoint.model,
        weights_digest=checkpoint.weights_digest,
        parameters_count=checkpoint.parameters_count,
        lineage_id=checkpoint.lineage_id,
        origin=checkpoint.origin,
        created_ms=checkpoint.created_ms,
        spec=plain(checkpoint.spec),
        network=plain(checkpoint.network),
    )


@routes.post("", summary="Add a checkpoint", status_code=201, responses=errors(409))
def add_checkpoint(
    services: ServicesDep,
    acting: ActingDep,
    spec: Annotated[UploadFile, Field(description="spec.toml: input, task, output")],
    network: Annotated[UploadFile, Field(description="network.toml: the architecture")],
    weights: Annotated[UploadFile | None, Field(description="weights.npz; else drawn")] = None,
    lineage_id: Annotated[str | None, Form(pattern=NAME_PATTERN)] = None,
) -> CheckpointOut:
    """Build a network, check that the weights are its own (or draw fresh ones), and keep it."""
    with acting.act("checkpoint.add", (network.filename or "network")[:100]):
        checkpoint = services.releases.checkpoints.add(
            spec_bytes=spec.file.read(SPEC_BYTES_MAX + 1),
            network_bytes=network.file.read(CONFIG_BYTES_MAX + 1),
            weights_bytes=weights.file.read() if weights else None,
            lineage_id=LineageId(lineage_id) if lineage_id else None,
        )
    return checkpoint_out(checkpoint)


@routes.get("", summary="Checkpoints, newest first", responses=errors())
def list_checkpoints(services: ServicesDep, model: Name | None = None) -> CheckpointsOut:
    """Return the checkpoints of one model, or of all."""
    found = services.releases.checkpoints.list(ModelName(model) if model else None)
    return CheckpointsOut(checkpoints=tuple(checkpoint_out(checkpoint) for checkpoint in found))


@routes.get("/{checkpoint_id}", summary="One checkpoint", responses=errors(404))
def get_checkpoint(checkpoint_id: NamePath, services: ServicesDep) -> CheckpointOut:
    """Return one checkpoint with its spec and network."""
    return checkpoint_out(services.releases.checkpoints.get(CheckpointId(checkpoint_id)))


@routes.get(
    "/{checkpoint_id}/weights",
    summary="Its weights",
    response_class=Response,
    responses={**errors(404, 422), 200: {"content": {WEIGHTS_TYPE: {}}}},
)
def get_weights(checkpoint_id: NamePath, services: ServicesDep) -> Response:
    """Return the weights as an .npz file: one float32 array a parameter, by name."""
    data = services.releases.checkpoints.weights(CheckpointId(checkpoint_id))
    headers = {"Content-Disposition": f'attachment; filename="{checkpoint_id}.npz"'}
    return Response(data, media_type=WEIGHTS_TYPE, headers=headers)


@routes.delete("/{checkpoint_id}", summary="Remove it", responses=errors(404, 409))
def remove_checkpoint(
    checkpoint_id: NamePath, services: ServicesDep, acting: ActingDep
) -> CheckpointOut:
    """Forget a checkpoint and its weights; answers what it was.

    Refused (409) while a Job starts from it, or made it and has not settled its result. What was
    released from it stays.
    """
    with acting.act("checkpoint.remove", checkpoint_id):
        checkpoint = services.releases.checkpoints.get(CheckpointId(checkpoint_id))
        services.training.require_checkpoint_free(checkpoint.checkpoint_id)
        services.cloud_jobs.require_checkpoint_free(checkpoint.checkpoint_id)
        services.releases.checkpoints.remove(checkpoint.checkpoint_id)
    return checkpoint_out(checkpoint)


@routes.post(
    "/{checkpoint_id}/release",
    summary="Release it",
    status_code=201,
    responses=errors(404, 409, 422),
)
def release_checkpoint(
    checkpoint_id: NamePath,
    services: ServicesDep,
    acting: ActingDep,
    notes: Annotated[str, Form(max_length=NOTES_CHARS_MAX, pattern=PROSE_PATTERN)] = "",
) -> ReleaseOut:
    """Export it, make its variants, have the gate judge them; publish what passes. Takes seconds.

    A refusal (409) says every reason; the Candidate stays, to be read.
    """
    with acting.act("checkpoint.release", checkpoint_id, notes[:100]):
        checkpoint = services.releases.checkpoints.get(CheckpointId(checkpoint_id))
        release = services.releases.add_trained(checkpoint, notes=notes)
    return release_out(release, services.releases.channels(release.model))
