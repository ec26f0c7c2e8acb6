"""Models, releases and channels: upload a model, see what the gate said, name a release."""

from typing import Annotated

import msgspec
from fastapi import APIRouter, Form, UploadFile
from pydantic import Field

from cloud_hub.api.bodies import (
    PROSE_PATTERN,
    AnswerBody,
    Limit,
    Name,
    NamePath,
    RequestBody,
    VersionPath,
    errors,
)
from cloud_hub.api.fit_bodies import FitsOut
from cloud_hub.api.services import ActingDep, ServicesDep
from cloud_hub.api.verdict_bodies import CandidateOut, CandidatesOut, VerdictOut
from cloud_hub.candidates.candidate import Candidate
from cloud_hub.candidates.service import UploadOptions
from cloud_hub.releases.channel import Channel
from cloud_hub.releases.release import Release
from shared.errors import ContractError
from shared.ids import NAME_PATTERN, LineageId, ModelName
from shared.model.spec import SPEC_BYTES_MAX
from shared.release.manifest import GOLDEN_BYTES_MAX, TOKENIZER_BYTES_MAX

routes = APIRouter(prefix="/api/v1", tags=["Releases"])

METRICS_CHARS_MAX = 10_000
NOTES_CHARS_MAX = 2000
CANDIDATES_DEFAULT = 20


class ReleaseOut(AnswerBody):
    """One release: immutable, signed."""

    model: str
    version: int
    manifest_digest: str
    precisions: tuple[str, ...]
    artifact_bytes: int
    metrics: dict[str, float]
    notes: str
    lineage_id: str
    candidate_id: str
    created_ms: int
    channels: tuple[str, ...]
    verdict: VerdictOut


class ReleasesOut(AnswerBody):
    """Releases, newest first."""

    releases: tuple[ReleaseOut, ...]


class ModelOut(AnswerBody):
    """One model: a task with a fixed input and output."""

    model: str
    newest_version: int
    releases_count: int
    channels: dict[str, int] = Field(description="Channel to version")


class ModelsOut(AnswerBody):
    """Every model that has a release."""

    models: tuple[ModelOut, ...]


class ChannelOut(AnswerBody):
    """A named pointer to a release."""

    model: str
    channel: str
    version: int
    changed_ms: int


class ChannelsOut(AnswerBody):
    """Every channel that points somewhere."""

    channels: tuple[ChannelOut, ...]


class ChannelIn(RequestBody):
    """Where the channel shall point."""

    version: int = Field(ge=1, le=1_000_000, examples=[2])


def release_out(release: Release, channels: tuple[Channel, ...]) -> ReleaseOut:
    """Return a release in the form of the API."""
    own = [
        c.name.value for c in channels if (c.model, c.version) == (release.model, release.version)
    ]
    return ReleaseOut(
        model=release.model,
        version=release.version,
        manifest_digest=release.manifest_digest,
        precisions=release.precisions,
        artifact_bytes=release.artifact_bytes,
        metrics=dict(release.metrics),
        notes=release.notes,
        lineage_id=release.lineage_id,
        candidate_id=release.candidate_id,
        created_ms=release.created_ms,
        channels=tuple(own),
        verdict=VerdictOut.of(release.verdict),
    )


@routes.get("/models", summary="Every model", responses=errors())
def list_models(services: ServicesDep) -> ModelsOut:
    """Return each model with its newest version and its channels."""
    versions: dict[str, list[int]] = {}
    for release in services.releases.releases():
        versions.setdefault(release.model, []).append(release.version)
    channels = services.releases.channels()
    return ModelsOut(
        models=tuple(
            ModelOut(
                model=model,
                newest_version=max(own),
                releases_count=len(own),
                channels={c.name.value: c.version for c in channels if c.model == model},
            )
            for model, own in sorted(versions.items())
        )
    )


@routes.post("/releases", summary="Upload a model", status_code=201, responses=errors(409, 422))
def add_release(
    services: ServicesDep,
    acting: ActingDep,
    model: Annotated[UploadFile, Field(description="model.onnx")],
    spec: Annotated[UploadFile, Field(description="spec.toml: input, task, output")],
    golden: Annotated[UploadFile | None, Field(description="golden.npz; else drawn")] = None,
    tokenizer: Annotated[
        UploadFile | None, Field(description="tokenizer.json of a text model")
    ] = None,
    fold: Annotated[
        bool, Form(description="false: preprocessing of pictures stays out of the graph")
    ] = True,
    metrics: Annotated[
        str, Form(max_length=METRICS_CHARS_MAX, description='JSON: {"accuracy": 0.97}')
    ] = "{}",
    notes: Annotated[str, Form(max_length=NOTES_CHARS_MAX, pattern=PROSE_PATTERN)] = "",
    lineage_id: Annotated[str | None, Form(pattern=NAME_PATTERN)] = None,
) -> ReleaseOut:
    """Have the gate examine a model; publish it, signed, if it passes. Takes seconds.

    The same upload again is the same release. A refusal (409) says every reason.
    """
    with acting.act("release.add", (model.filename or "model")[:100], notes[:100]):
        release = services.releases.add(
            model_bytes=model.file.read(),
            spec_bytes=spec.file.read(SPEC_BYTES_MAX + 1),
            golden_bytes=golden.file.read(GOLDEN_BYTES_MAX + 1) if golden else None,
            metrics=_parse_metrics(metrics),
            notes=notes,
            lineage_id=LineageId(lineage_id) if lineage_id else None,
            options=UploadOptions(
                is_folded=fold,
                tokenizer_bytes=(
                    tokenizer.file.read(TOKENIZER_BYTES_MAX + 1) if tokenizer else None
                ),
            ),
        )
    return release_out(release, services.releases.channels(release.model))


@routes.get("/releases", summary="Releases, newest first", responses=errors())
def list_releases(services: ServicesDep, model: Name | None = None) -> ReleasesOut:
    """Return the releases of one model, or of all."""
    channels = services.releases.channels(model)
    found = services.releases.releases(model)
    return ReleasesOut(releases=tuple(release_out(release, channels) for release in found))


@routes.get("/releases/{model}/{version}", summary="One release", responses=errors(404))
def get_release(model: NamePath, version: VersionPath, services: ServicesDep) -> ReleaseOut:
    """Return one release with the gate's verdict."""
    release = services.releases.get(model, version)
    return release_out(release, services.releases.channels(model))


@routes.get(
    "/releases/{model}/{version}/fits", summary="What devices measured", responses=errors(404)
)
def get_fits(model: NamePath, version: VersionPath, services: ServicesDep) -> FitsOut:
    """Return how fast each variant runs on each kind of hardware, and what its devices chose."""
    return FitsOut.of(model, version, services.rollouts.fits(ModelName(model), version))


@routes.get("/candidates", summary="What the gate judged", responses=errors())
def list_candidates(
    services: ServicesDep, model: Name | None = None, limit: Limit = CANDIDATES_DEFAULT
) -> CandidatesOut:
    """Return the newest candidates, refused ones too, with every reason."""
    found: tuple[Candidate, ...] = services.releases.candidates.candidates(model, limit=limit)
    return CandidatesOut(candidates=tuple(CandidateOut.of(c) for c in found))


@routes.get("/candidates/{candidate_id}", summary="One candidate", responses=errors(404))
def get_candidate(candidate_id: NamePath, services: ServicesDep) -> CandidateOut:
    """Return a candidate with the whole Verdict: reasons, variants, slices, paired tests."""
    return CandidateOut.of(services.releases.candidates.get(candidate_id))


@routes.get("/channels", summary="Where channels point", responses=errors())
def list_channels(services: ServicesDep, model: Name | None = None) -> ChannelsOut:
    """Return the channels of one model, or of all."""
    return ChannelsOut(channels=tuple(_channel(c) for c in services.releases.channels(model)))


@routes.put("/channels/{model}/{channel}", summary="Point a channel", responses=errors(404))
def set_channel(
    model: NamePath, channel: NamePath, body: ChannelIn, services: ServicesDep, acting: ActingDep
) -> ChannelOut:
    """Point a channel at a release. It moves no device: a rollout does."""
    with acting.act("channel.set", f"{model}:{body.version}", channel):
        return _channel(services.releases.set_channel(model, channel, body.version))


def _channel(channel: Channel) -> ChannelOut:
    return ChannelOut(
        model=channel.model,
        channel=channel.name.value,
        version=channel.version,
        changed_ms=channel.changed_ms,
    )


def _parse_metrics(text: str) -> dict[str, float]:
    try:
        return msgspec.json.decode(text, type=dict[str, float])
    except msgspec.MsgspecError as error:
        raise ContractError(
            "release.metrics",
            f"metrics: {error}.",
            remedy='Give a JSON object of numbers: {"accuracy": 0.97}.',
        ) from error
