"""Manifest: the one file that names a release. Its SHA-256 is the release's identity.

1. A release is immutable: same model and version, same manifest, for ever.
2. The manifest is JSON with sorted keys; it holds the ModelSpec whole, and every other file by
   digest and length. Both the manifest and the files are TUF targets.
3. Variants are listed best first; those for particular processors stand behind those for any. Each
   precision is there once.
4. What is optional and not there is left out of the bytes: manifests of before keep theirs.
"""

from typing import Annotated

import msgspec
from msgspec import UNSET, Meta, UnsetType

from shared.errors import ContractError
from shared.model.spec import ImageInput, ModelSpec
from shared.release.digest import digest_of
from shared.wire.limits import Digest, LongText, Name, Number, Share, ShortText, UnixMs, Version

MANIFEST_BYTES_MAX = 256 * 1024
ARTIFACT_BYTES_MAX = 2 << 30
GOLDEN_BYTES_MAX = 16 << 20
TOKENIZER_BYTES_MAX = 16 << 20
TOKENIZER = "tokenizer.json"
ARCHITECTURES_MAX = 8
VARIANTS_MAX = 8


# A TUF target path: "releases/digits/3/int8.onnx"
TargetPath = Annotated[
    str, Meta(max_length=160, pattern=r"^[a-z0-9][a-z0-9-]*(/[A-Za-z0-9_][A-Za-z0-9_.-]*)+\Z")
]


class FileEntry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One file of a release."""

    path: Annotated[
        str, Meta(max_length=160, pattern=r"^[a-z0-9][a-z0-9-]*(/[A-Za-z0-9_][A-Za-z0-9_.-]*)+\Z")
    ]
    digest: Digest
    file_bytes: Annotated[int, Meta(ge=1, le=ARTIFACT_BYTES_MAX)]


class Variant(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The same release in one precision: an ONNX file, and the golden outputs it must reproduce."""

    # "fp32", "fp32-pruned", "int8", "int8-dynamic", "int8-s8s8", "int8-reduced"
    precision: ShortText
    artifact: FileEntry
    golden: FileEntry
    # Share of held-out items decided, or boxes found, as by fp32
    agreement: Share | UnsetType = UNSET
    calibration: ShortText | UnsetType = UNSET  # "minmax", "percentile", "entropy"
    # platform.machine() of processors it was made for; left out: for any
    architectures: (
        Annotated[tuple[ShortText, ...], Meta(min_length=1, max_length=ARCHITECTURES_MAX)]
        | UnsetType
    ) = UNSET


class Manifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a release is."""

    schema: Annotated[int, Meta(ge=1, le=1)] = 1
    model: Name
    version: Version
    lineage_id: Name
    created_ms: UnixMs
    spec: ModelSpec
    variants: Annotated[tuple[Variant, ...], Meta(min_length=1, max_length=VARIANTS_MAX)]
    metrics: Annotated[dict[ShortText, Number], Meta(max_length=64)] = {}
    notes: LongText = ""
    tokenizer: FileEntry | UnsetType = UNSET  # Of a text model that has one: tokenizer.json
    # Where preprocessing is in the graph: the input that the model was trained on, for people
    folded: ImageInput | UnsetType = UNSET


def encode_manifest(manifest: Manifest) -> bytes:
    """Return the manifest's bytes: JSON, keys sorted."""
    return msgspec.json.encode(manifest, order="deterministic")


def decode_manifest(data: bytes) -> Manifest:
    """Return a manifest from its bytes. Raises ContractError `manifest.invalid`."""
    if len(data) > MANIFEST_BYTES_MAX:
        raise ContractError("manifest.invalid", f"The manifest is over {MANIFEST_BYTES_MAX} bytes.")
    try:
        manifest = msgspec.json.decode(data, type=Manifest)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise ContractError("manifest.invalid", f"Not a manifest: {error}") from error
    # A golden set is read into memory whole, on devices that have little.
    if any(variant.golden.file_bytes > GOLDEN_BYTES_MAX for variant in manifest.variants):
        raise ContractError("manifest.invalid", f"A golden set is over {GOLDEN_BYTES_MAX} bytes.")
    tokenizer = manifest.tokenizer
    if tokenizer is not UNSET and tokenizer.file_bytes > TOKENIZER_BYTES_MAX:
        text = f"The tokenizer is over {TOKENIZER_BYTES_MAX} bytes."
        raise ContractError("manifest.invalid", text)
    if len({variant.precision for variant in manifest.variants}) < len(manifest.variants):
        raise ContractError("manifest.invalid", "A precision is there twice.")
    return manifest


def manifest_path(model: str, version: int) -> str:
    """Return the TUF target path of a release's manifest."""
    return f"releases/{model}/{version}/manifest.json"


def file_path(model: str, version: int, name: str) -> str:
    """Return the TUF target path of one file of a release."""
    return f"releases/{model}/{version}/{name}"


def manifest_digest(data: bytes) -> str:
    """Return a release's identity: the SHA-256 of its manifest's bytes."""
    return digest_of(data)
