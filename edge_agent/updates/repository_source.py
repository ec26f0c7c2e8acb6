"""RepositorySource: a ReleaseSource over TUF metadata and block transfer.

1. The metadata is refreshed before anything is believed, also when every file is here already.
2. The manifest's signed digest must be the one the Target names; the artifact and golden set must
   be signed with the very digests that stand in the manifest.
3. A file that is here and verifies is not fetched again; one that was begun goes on.
4. `release.json` is written last and says which manifest the folder holds, and which variant:
   without it there is nothing to reopen.
"""

import threading
from collections.abc import Callable
from pathlib import Path

import msgspec

from edge_agent.updates.file_blocks import disk_errors
from edge_agent.updates.release_source import FetchedRelease
from edge_agent.updates.transfer import BlockTransfer
from edge_agent.updates.tuf_verifier import TrustedFile, TrustedTargets, TufVerifier
from shared.durable_file import write_durably
from shared.errors import ContractError, IntegrityError, RefusedError
from shared.release.digest import digest_of, digest_of_file
from shared.release.manifest import (
    MANIFEST_BYTES_MAX,
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
MARK_BYTES_MAX = 1000

Progress = Callable[[float], None]


class _Mark(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What release.json holds."""

    manifest_digest: Digest
    precision: ShortText


class RepositorySource:
    """Implements release_source.ReleaseSource. Used by one thread."""

    def __init__(
        self,
        transfer: BlockTransfer,
        verifier: TufVerifier,
        *,
        precisions: tuple[str, ...] | None = None,
    ) -> None:
        """Args: `precisions` this device accepts; None accepts every one."""
        self._transfer = transfer
        self._verifier = verifier
        self._precisions = precisions

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
        variant = _choose(manifest, self._precisions)
        mark = msgspec.json.encode(_Mark(release.manifest_digest, variant.precision))
        _unmark_others(into / MARK, mark)
        parts = (
            (_vouched(trusted, variant.artifact, release), into / ARTIFACT),
            (_vouched(trusted, variant.golden, release), into / GOLDEN),
        )
        total_bytes, done_bytes = sum(file.file_bytes for file, _ in parts), 0
        for file, path in parts:
            progress = _scaled(on_progress, done_bytes, file.file_bytes, total_bytes)
            self._fetch_file(file, path, progress, stop)
            done_bytes += file.file_bytes
        write_durably(into / MARK, mark)
        on_progress(1.0)
        return _fetched(into, manifest, release.manifest_digest, variant)

    def reopen(self, folder: Path) -> FetchedRelease:
        """Return a release that `fetch` brought into `folder` earlier, every byte checked again.

        This finds a damaged disk, not somebody who may write to it: trust in what is on the disk
        is trust in the disk. Raises IntegrityError `release.digest`.
        """
        mark = _read_mark(folder / MARK)
        data = _read(folder / MANIFEST, bytes_max=MANIFEST_BYTES_MAX)
        if digest_of(data) != mark.manifest_digest:
            raise _damaged(folder / MANIFEST)
        manifest = decode_manifest(data)
        variant = _choose(manifest, (mark.precision,))
        for entry, path in (
            (variant.artifact, folder / ARTIFACT),
            (variant.golden, folder / GOLDEN),
        ):
            if not _is_file(path, entry):
                raise _damaged(path)
        return _fetched(folder, manifest, mark.manifest_digest, variant)

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


def _choose(manifest: Manifest, precisions: tuple[str, ...] | None) -> Variant:
    """Return the first variant, best first, of a precision that is accepted."""
    for variant in manifest.variants:
        if precisions is None or variant.precision in precisions:
            return variant
    raise RefusedError(
        "release.no_variant",
        f"{manifest.model}:{manifest.version} has no variant that this device accepts.",
        remedy="Publish one of: " + ", ".join(precisions or ()) + ".",
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


def _fetched(
    folder: Path, manifest: Manifest, manifest_digest: str, variant: Variant
) -> FetchedRelease:
    return FetchedRelease(
        manifest=manifest,
        manifest_digest=manifest_digest,
        variant=variant,
        artifact_path=folder / ARTIFACT,
        golden_path=folder / GOLDEN,
    )


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
