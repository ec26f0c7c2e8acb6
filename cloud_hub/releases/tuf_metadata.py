"""Single pieces of TUF metadata: decoding, signing, checking. Values in, values out."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from securesystemslib.signer import Signer
from tuf.api.exceptions import UnsignedMetadataError
from tuf.api.metadata import (
    DelegatedRole,
    Metadata,
    MetaFile,
    Root,
    Snapshot,
    TargetFile,
    Targets,
    Timestamp,
)
from tuf.api.serialization import DeserializationError
from tuf.api.serialization.json import JSONSerializer

from shared.errors import RefusedError

RELEASES = "releases"  # The online role that signs releases
FILES_MAX = 15_000  # Three a release; a device reads at most 5 MB of releases.json
HASH = "sha256"

S = TypeVar("S", Root, Timestamp, Snapshot, Targets)
_FORMAT = JSONSerializer(compact=True)


@dataclass(frozen=True, slots=True)
class PublishedFile:
    """One file that the repository vouches for; `custom` holds our own signed notes on it."""

    path: str
    digest: str
    file_bytes: int
    custom: Mapping[str, str]


def decode_metadata(data: bytes, kind: type[S]) -> Metadata[S] | None:
    """Return metadata of one kind, or None where the bytes are something else."""
    try:
        metadata: Metadata[S] = Metadata.from_bytes(data)
    except DeserializationError:
        return None
    return metadata if isinstance(metadata.signed, kind) else None


def signed_bytes(metadata: Metadata[S], signers: Iterable[Signer]) -> bytes:
    """Return metadata with exactly these signatures, as it is published."""
    metadata.signatures.clear()
    for signer in signers:
        metadata.sign(signer, append=True)
    return metadata.to_bytes(_FORMAT)


def is_signed(delegator: Root | Targets, role: str, metadata: Metadata[S]) -> bool:
    """Whether enough keys that `delegator` names for `role` signed."""
    try:
        delegator.verify_delegate(role, metadata.signed_bytes, metadata.signatures)
    except (UnsignedMetadataError, ValueError):
        return False
    return True


def releases_role(targets: Targets) -> DelegatedRole:
    """Return what the top-level targets role says of the role that signs releases."""
    assert targets.delegations is not None
    assert targets.delegations.roles is not None
    return targets.delegations.roles[RELEASES]


def meta_of(version: int, data: bytes) -> MetaFile:
    """Return how one metadata file is named in another: version, length and hash."""
    return MetaFile.from_data(version, data, [HASH])


def target_of(path: str, data: bytes, custom: Mapping[str, str]) -> TargetFile:
    """Return how a file stands in the releases role."""
    target = TargetFile.from_data(path, data, [HASH])
    if custom:
        target.unrecognized_fields["custom"] = dict(custom)
    return target


def published_file(target: TargetFile) -> PublishedFile:
    """Return a target as a value."""
    return PublishedFile(target.path, target.hashes[HASH], target.length, target.custom or {})


def object_path(path: str, digest: str) -> str:
    """Return where a file lies in the object store: consistent snapshots prefix its digest."""
    folder, _, name = path.rpartition("/")
    return f"targets/{folder}/{digest}.{name}"


def refuse_changes(present: Mapping[str, TargetFile], added: Mapping[str, TargetFile]) -> None:
    """Raise RefusedError where published bytes would change (`release.immutable`), or too many.

    The latter is `release.too_many`.
    """
    for path, target in added.items():
        if path in present and present[path].hashes != target.hashes:
            raise RefusedError("release.immutable", f"{path} is published and never changes.")
    if len(present.keys() | added.keys()) > FILES_MAX:
        raise RefusedError(
            "release.too_many",
            f"The repository already holds {len(present)} files; its limit is {FILES_MAX}.",
            remedy="Start a new hub for new releases.",
        )
