"""RepositorySource: a ReleaseSource over TUF metadata and block transfer.

1. The metadata is refreshed before anything is believed, also when every file is here already.
2. The manifest's signed digest must be the one the Target names; the artifact and golden set must
   be signed with the very digests that stand in the manifest.
3. A file that is here and verifies is not fetched again; one that was begun goes on.
4. `release.json` is written last and says which manifest the folder holds, and which variants:
   without it there is nothing to reopen.
5. Of a release with one variant the files are model.onnx and golden.npz; of one with several,
   variant-0.onnx, variant-0.npz and so on, by their place in the manifest; tokenizer.json lies
   beside them where the release has one. `keep` first writes down which one stays, then removes
   the others.
"""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import UNSET, Meta

from edge_agent.updates.file_blocks import disk_errors
from edge_agent.updates.release_source import FetchedRelease, FetchedVariant
from edge_agent.updates.transfer import BlockTransfer
from edge_agent.updates.tuf_verifier import TrustedFile, TrustedTargets, TufVerifier
from shared.durable_file import write_durably
from shared.errors import ContractError, IntegrityError, RefusedError
from shared.release.digest import digest_of, digest_of_file
from shared.release.manifest import (
    MANIFEST_BYTES_MAX,
    TOKENIZER,
    VARIANTS_MAX,
    FileEntry,
    Manifest,
    Variant,
    decode_manifest,
    manifest_path,
)
from shared.wire.limits import Digest, ShortText
from shared.wire.target import TargetRelease

MANIFEST = "manifest.json"
ARTIFACT = "model.onnx"
GOLDEN = "golden.npz"
MARK = "release.json"
MARK_BYTES_MAX = 4000

Progress = Callable[[float], None]
# Returns the variants of a release that this device brings, best first; at least one.
WorthTrying = Callable[[Manifest, TargetRelease], tuple[Variant, ...]]


class _Mark(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What release.json holds."""

    manifest_digest: Digest
    precision: ShortText  # Of the variant that is kept, or of the best one
    others: Annotated[tuple[ShortText, ...], Meta(max_length=VARIANTS_MAX)] = ()
    is_numbered: bool = False  # Whether the files are called by their variants' places


class RepositorySource:
    """Implements release_source.ReleaseSource. Used by one thread."""

    def __init__(
        self,
        transfer: BlockTransfer,
        verifier: TufVerifier,
        *,
        precisions: tuple[str, ...] | None = None,
        worth_trying: WorthTrying | None = None,
    ) -> None:
        """Args: worth_trying: what to bring; None: the best variant of accepted `precisions`."""
        self._transfer = transfer
        self._verifier = verifier
        self._worth_trying = worth_trying or (
            lambda manifest, _release: (best_variant(manifest, precisions),)
        )

    def fetch(
        self,
        release: TargetRelease,
        into: Path,
        *,
        on_progress: Progress,
        stop: threading.Event,
    ) -> FetchedRelease:
        """Bring `release` into the folder `into`; see ReleaseSource.fetch.

        Raises, beyond what stands there, RefusedError `release.no_variant`,
        `transfer.disk_full`, `transfer.too_large`, and IntegrityError `tuf.mismatch`,
        `tuf.invalid`.
        """
        with disk_errors():
            into.mkdir(parents=True, exist_ok=True)
        trusted = self._verifier.refresh(stop)
        manifest = self._fetch_manifest(trusted, release, into, stop)
        variants = self._worth_trying(manifest, release)
        mark = _mark_of(manifest, release.manifest_digest, variants)
        data = msgspec.json.encode(mark)
        _unmark_others(into / MARK, data)
        fetched = _fetched(into, manifest, mark)
        parts = [
            (_vouched(trusted, entry, release), path)
            for each in fetched.candidates
            for entry, path in _files(each)
        ]
        if manifest.tokenizer is not UNSET:
            parts.append((_vouched(trusted, manifest.tokenizer, release), into / TOKENIZER))
        total_bytes, done_bytes = sum(file.file_bytes for file, _ in parts), 0
        for file, path in parts:
            progress = _scaled(on_progress, done_bytes, file.file_bytes, total_bytes)
            self._fetch_file(file, path, progress, stop)
            done_bytes += file.file_bytes
        write_durably(into / MARK, data)
        on_progress(1.0)
        return fetched

    def reopen(self, folder: Path) -> FetchedRelease:
        """Return a release that `fetch` brought into `folder` earlier, every byte checked again.

        This finds a damaged disk, not somebody who may write to it: trust in what is on the disk
        is trust in the disk. Raises IntegrityError `release.digest`.
        """
        return reopen_release(folder)

    def keep(self, folder: Path, fetched: FetchedRelease, chosen: FetchedVariant) -> FetchedRelease:
        """Return `fetched` with nothing but `chosen`; see ReleaseSource.keep and rule 5."""
        mark = _mark_of(fetched.manifest, fetched.manifest_digest, (chosen.variant,))
        if chosen.artifact_path.name == ARTIFACT:
            mark = msgspec.structs.replace(mark, is_numbered=False)
        data = msgspec.json.encode(mark)
        with disk_errors():
            if _read(folder / MARK, bytes_max=MARK_BYTES_MAX) != data:
                write_durably(folder / MARK, data)
            kept = {chosen.artifact_path.name, chosen.golden_path.name}
            for path in (*folder.glob("variant-*.onnx"), *folder.glob("variant-*.npz")):
                if path.name not in kept:
                    path.unlink()
        return _fetched(folder, fetched.manifest, mark)

    def _fetch_manifest(
        self,
        trusted: TrustedTargets,
        release: TargetRelease,
        into: Path,
        stop: threading.Event,
    ) -> Manifest:
        file = trusted.file(manifest_path(release.model, release.version))
        if file.digest != release.manifest_digest:
            raise IntegrityError(
                "release.digest",
                f"The Target names another {release.model}:{release.version} than was signed.",
            )
        if file.file_bytes > MANIFEST_BYTES_MAX:
            raise ContractError("manifest.invalid", "The manifest is too large.")
        data = self._read_manifest(file, into / MANIFEST, stop)
        manifest = decode_manifest(data)
        if (manifest.model, manifest.version) != (release.model, release.version):
            raise ContractError("manifest.invalid", "The manifest is of another release.")
        return manifest

    def _read_manifest(self, file: TrustedFile, path: Path, stop: threading.Event) -> bytes:
        if _digest_of(path) == file.digest:
            return _read(path, bytes_max=MANIFEST_BYTES_MAX)
        limit = MANIFEST_BYTES_MAX
        data = self._transfer.read(file.repository_path, bytes_max=limit, stop=stop)
        file.verify_bytes(data)
        write_durably(path, data)
        return data

    def _fetch_file(
        self, file: TrustedFile, path: Path, on_progress: Progress, stop: threading.Event
    ) -> None:
        with disk_errors():
            if path.exists():
                try:
                    file.verify_file(path)
                    return
                except IntegrityError:
                    path.unlink()
        self._transfer.fetch(
            file.repository_path,
            file_bytes=file.file_bytes,
            into=path,
            verify=file.verify_file,
            on_progress=on_progress,
            stop=stop,
        )


def reopen_release(folder: Path) -> FetchedRelease:
    """Return the release that `folder` holds, every byte checked.

    Raises IntegrityError `release.digest`.
    """
    mark = _read_mark(folder / MARK)
    data = _read(folder / MANIFEST, bytes_max=MANIFEST_BYTES_MAX)
    if digest_of(data) != mark.manifest_digest:
        raise _damaged(folder / MANIFEST)
    fetched = _fetched(folder, decode_manifest(data), mark)
    for each in fetched.candidates:
        for entry, path in _files(each):
            if not _is_file(path, entry):
                raise _damaged(path)
    tokenizer = fetched.manifest.tokenizer
    if tokenizer is not UNSET and not _is_file(folder / TOKENIZER, tokenizer):
        raise _damaged(folder / TOKENIZER)
    return fetched


def best_variant(manifest: Manifest, precisions: tuple[str, ...] | None) -> Variant:
    """Return the first variant, best first, of a precision that is accepted; None: of any.

    Raises RefusedError `release.no_variant`.
    """
    for variant in manifest.variants:
        if precisions is None or variant.precision in precisions:
            return variant
    raise no_variant(manifest, "Publish one of: " + ", ".join(precisions or ()) + ".")


def no_variant(manifest: Manifest, remedy: str) -> RefusedError:
    """Return the refusal of a release that holds nothing for this device."""
    return RefusedError(
        "release.no_variant",
        f"{manifest.model}:{manifest.version} has no variant that this device accepts.",
        remedy=remedy,
    )


def _vouched(trusted: TrustedTargets, entry: FileEntry, release: TargetRelease) -> TrustedFile:
    """Return what is signed about a file of the manifest, which must say the same."""
    folder = manifest_path(release.model, release.version).rpartition("/")[0]
    if entry.path.rpartition("/")[0] != folder:
        raise ContractError("manifest.invalid", f"{entry.path} is not a file of this release.")
    file = trusted.file(entry.path)
    if (file.digest, file.file_bytes) != (entry.digest, entry.file_bytes):
        raise IntegrityError(
            "release.digest", f"{entry.path} is signed otherwise than its manifest says."
        )
    return file


def _scaled(on_progress: Progress, done: int, part: int, total: int) -> Progress:
    return lambda share: on_progress(min(1.0, (done + share * part) / max(1, total)))


def _mark_of(manifest: Manifest, digest: str, variants: tuple[Variant, ...]) -> _Mark:
    return _Mark(
        manifest_digest=digest,
        precision=variants[0].precision,
        others=tuple(variant.precision for variant in variants[1:]),
        is_numbered=len(manifest.variants) > 1,
    )


def _fetched(folder: Path, manifest: Manifest, mark: _Mark) -> FetchedRelease:
    """Return what `mark` says that `folder` holds. Raises RefusedError `release.no_variant`."""
    first, *others = (
        _on_disk(folder, manifest, best_variant(manifest, (precision,)), mark)
        for precision in (mark.precision, *mark.others)
    )
    return FetchedRelease(
        manifest=manifest,
        manifest_digest=mark.manifest_digest,
        variant=first.variant,
        artifact_path=first.artifact_path,
        golden_path=first.golden_path,
        others=tuple(others),
        tokenizer_path=None if manifest.tokenizer is UNSET else folder / TOKENIZER,
    )


def _on_disk(folder: Path, manifest: Manifest, variant: Variant, mark: _Mark) -> FetchedVariant:
    if not mark.is_numbered:
        return FetchedVariant(variant, folder / ARTIFACT, folder / GOLDEN)
    name = f"variant-{manifest.variants.index(variant)}"
    return FetchedVariant(variant, folder / f"{name}.onnx", folder / f"{name}.npz")


def _files(fetched: FetchedVariant) -> tuple[tuple[FileEntry, Path], ...]:
    variant = fetched.variant
    return (variant.artifact, fetched.artifact_path), (variant.golden, fetched.golden_path)


def _unmark_others(path: Path, mark: bytes) -> None:
    """Take back what the folder is said to hold, unless it is just this."""
    with disk_errors():
        if path.exists() and _read(path, bytes_max=MARK_BYTES_MAX) != mark:
            path.unlink()


def _read_mark(path: Path) -> _Mark:
    try:
        return msgspec.json.decode(_read(path, bytes_max=MARK_BYTES_MAX), type=_Mark)
    except msgspec.MsgspecError as error:
        raise _damaged(path) from error


def _read(path: Path, *, bytes_max: int) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(bytes_max)
    except OSError as error:
        raise _damaged(path) from error


def _is_file(path: Path, entry: FileEntry) -> bool:
    return _digest_of(path) == entry.digest


def _digest_of(path: Path) -> str:
    try:
        return digest_of_file(path)
    except OSError:
        return ""


def _damaged(path: Path) -> IntegrityError:
    return IntegrityError("release.digest", f"{path} is missing or not what it was.")
