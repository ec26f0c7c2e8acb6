"""Release: an immutable, versioned, signed model. Pure: how one is named, numbered and described.

1. Versions of a model count from 1, without holes left on purpose; a version never changes.
2. The same upload is the same release: `content_digest` finds it again.
3. The manifest names everything; the row in the database can be made again from it.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import msgspec
from msgspec import UNSET

from cloud_hub.candidates.candidate import Candidate, CandidateId, PassedCandidate, Verdict
from shared.errors import ContractError
from shared.ids import LineageId, ModelName
from shared.release.digest import digest_of
from shared.release.manifest import TOKENIZER, FileEntry, Manifest, Variant, file_path
from shared.wire.limits import LongText, Number, ShortText

METRICS_MAX = 64


@dataclass(frozen=True, slots=True)
class Release:
    """One version of a model that devices may run."""

    model: ModelName
    version: int
    manifest_digest: str
    precisions: tuple[str, ...]
    metrics: Mapping[str, float]
    notes: str
    lineage_id: LineageId
    created_ms: int
    artifact_bytes: int  # Of all variants together
    candidate_id: CandidateId
    content_digest: str
    verdict: Verdict

    @property
    def name(self) -> str:
        """Return how people write it: "digits:3"."""
        return f"{self.model}:{self.version}"


@dataclass(frozen=True, slots=True)
class BlockData:
    """One block of a file of the repository."""

    file_bytes: int
    data: bytes


class _Described(msgspec.Struct, frozen=True):
    metrics: dict[ShortText, Number]
    notes: LongText


def next_version(paths: Iterable[str], model: str) -> int:
    """Return 1 + the last version of a model among published paths."""
    prefix = f"releases/{model}/"
    versions = [path.split("/")[2] for path in paths if path.startswith(prefix)]
    return 1 + max((int(version) for version in versions), default=0)


def is_manifest(path: str) -> bool:
    """Whether a published path is a release's manifest."""
    return path.startswith("releases/") and path.endswith("/manifest.json")


def check_description(metrics: Mapping[str, float], notes: str) -> dict[str, float]:
    """Return metrics as they may be published. Raises ContractError `release.description`."""
    try:
        given = {"metrics": dict(metrics), "notes": notes}
        described = msgspec.convert(given, _Described, strict=False)
    except msgspec.ValidationError as error:
        text = f"Not a release's description: {error}."
        raise ContractError("release.description", text) from error
    if len(described.metrics) > METRICS_MAX:
        raise ContractError("release.description", f"A release has at most {METRICS_MAX} metrics.")
    return described.metrics


def make_manifest(
    passed: PassedCandidate,
    *,
    version: int,
    metrics: dict[str, float],
    notes: str,
    created_ms: int,
) -> tuple[Manifest, dict[str, bytes]]:
    """Return the manifest of a new release, and its other files by path."""
    model = passed.candidate.model
    files: dict[str, bytes] = {}

    def entry(name: str, data: bytes) -> FileEntry:
        path = file_path(model, version, name)
        files[path] = data
        return FileEntry(path=path, digest=digest_of(data), file_bytes=len(data))

    variants = tuple(
        Variant(
            precision=form.precision,
            artifact=entry(f"{form.precision}.onnx", form.model_bytes),
            golden=entry(f"{form.precision}.npz", form.golden_bytes),
            agreement=UNSET if form.agreement is None else form.agreement,
            calibration=form.calibration or UNSET,
            architectures=form.architectures or UNSET,
        )
        for form in passed.forms
    )
    tokenizer = passed.tokenizer_bytes
    manifest = Manifest(
        model=model,
        version=version,
        lineage_id=passed.candidate.lineage_id,
        created_ms=created_ms,
        spec=passed.spec,
        variants=variants,
        metrics=metrics,
        notes=notes,
        tokenizer=UNSET if tokenizer is None else entry(TOKENIZER, tokenizer),
        folded=passed.trained_input or UNSET,
    )
    return manifest, files


def describe(
    manifest: Manifest, manifest_bytes: bytes, *, custom: Mapping[str, str], verdict: Verdict
) -> Release:
    """Return the Release that a manifest and the signed notes on it describe."""
    return Release(
        model=ModelName(manifest.model),
        version=manifest.version,
        manifest_digest=digest_of(manifest_bytes),
        precisions=tuple(variant.precision for variant in manifest.variants),
        metrics=manifest.metrics,
        notes=manifest.notes,
        lineage_id=LineageId(manifest.lineage_id),
        created_ms=manifest.created_ms,
        artifact_bytes=sum(variant.artifact.file_bytes for variant in manifest.variants),
        candidate_id=CandidateId(custom.get("candidate", "")),
        content_digest=custom.get("content", ""),
        verdict=verdict,
    )


def signed_notes(candidate: Candidate) -> dict[str, str]:
    """Return what is signed beside a manifest's digest: which candidate it came from."""
    return {"candidate": candidate.candidate_id, "content": candidate.content_digest}
