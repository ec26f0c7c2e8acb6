"""Reads what the repository holds, trusting only what the newest root's keys signed."""

from dataclasses import dataclass

from tuf.api.exceptions import LengthOrHashMismatchError
from tuf.api.metadata import Metadata, MetaFile, Root, Snapshot, Targets, Timestamp

from cloud_hub.object_store import ObjectStore
from cloud_hub.releases.tuf_metadata import RELEASES, S, decode_metadata, is_signed, object_path
from shared.errors import IntegrityError

VERSIONS_MAX = 256  # Of root and targets; what a device follows in one go
TIMESTAMP_PATH = "metadata/timestamp.json"


def metadata_path(role: str, version: int) -> str:
    """Return where a version of a role's metadata lies in the object store."""
    return f"metadata/{version}.{role}.json"


@dataclass(frozen=True, slots=True)
class Current:
    """What devices see, whole and verified."""

    root: Root
    targets: Targets
    timestamp: Timestamp
    snapshot: Snapshot
    releases: Targets


class TufReader:
    """Reads an object store; keeps nothing."""

    def __init__(self, store: ObjectStore) -> None:
        """Start without touching anything."""
        self._store = store

    def current(self) -> Current:
        """Return what devices see. Raises IntegrityError `repository.damaged`."""
        root = self.newest_root()
        targets = self.newest_targets(root) if root else None
        found = self.find_current(root, targets) if root and targets else None
        if found is None:
            raise IntegrityError(
                "repository.damaged",
                "The release repository is not whole.",
                remedy="Start the hub again, which mends it, or bring back its backup.",
            )
        return found

    def required(self, path: str) -> bytes:
        """Return an object that must be there. Raises IntegrityError `repository.damaged`."""
        data = self._store.get(path)
        if data is None:
            raise IntegrityError(
                "repository.damaged",
                f"{path} is missing in the repository.",
                remedy="Bring back its backup.",
            )
        return data

    def newest_root(self) -> Root | None:
        """Return the root with the highest version, or None where there is none yet."""
        newest: Root | None = None
        for version in range(1, VERSIONS_MAX + 1):
            data = self._store.get(metadata_path("root", version))
            if data is None:
                break
            metadata = decode_metadata(data, Root)
            if metadata is None or not is_signed(newest or metadata.signed, "root", metadata):
                raise IntegrityError("repository.damaged", f"{version}.root.json is damaged.")
            newest = metadata.signed
        return newest

    def newest_targets(self, root: Root) -> Targets | None:
        """Return the top-level targets with the highest version, or None."""
        newest: Targets | None = None
        for version in range(1, VERSIONS_MAX + 1):
            data = self._store.get(metadata_path("targets", version))
            metadata = decode_metadata(data, Targets) if data is not None else None
            if metadata is None:
                break
            if is_signed(root, "targets", metadata):
                newest = metadata.signed
        return newest

    def timestamp(self, root: Root) -> Timestamp | None:
        """Return the timestamp, or None where there is none of the root's key."""
        data = self._store.get(TIMESTAMP_PATH)
        metadata = decode_metadata(data, Timestamp) if data is not None else None
        if metadata is None or not is_signed(root, "timestamp", metadata):
            return None
        return metadata.signed

    def find_current(self, root: Root, targets: Targets) -> Current | None:
        """Return what timestamp.json makes visible, or None where it is not whole."""
        timestamp = self.timestamp(root)
        if timestamp is None:
            return None
        snapshot = self._named("snapshot", timestamp.snapshot_meta, Snapshot)
        if snapshot is None or not is_signed(root, "snapshot", snapshot):
            return None
        meta = snapshot.signed.meta
        if meta["targets.json"].version != targets.version:
            return None
        releases = self._named(RELEASES, meta[f"{RELEASES}.json"], Targets)
        if releases is None or not is_signed(targets, RELEASES, releases):
            return None
        return Current(root, targets, timestamp, snapshot.signed, releases.signed)

    def salvage_releases(self, targets: Targets) -> Targets | None:
        """Return the newest releases that the role's key signed, visible or not.

        For a repository whose timestamp is lost or of an old key. The files they name were all
        written before them.
        """
        for name in self.versions(RELEASES):
            metadata = decode_metadata(self.required(name), Targets)
            if metadata is not None and is_signed(targets, RELEASES, metadata):
                return metadata.signed
        return None

    def versions(self, role: str) -> list[str]:
        """Return the paths of every version of a role's metadata, newest first."""
        names = [p for p in self._store.paths("metadata") if p.endswith(f".{role}.json")]
        return sorted(names, key=_version_of, reverse=True)

    def file(self, path: str) -> bytes:
        """Return a published file's bytes, checked. Raises IntegrityError `repository.damaged`."""
        target = self.current().releases.targets.get(path)
        if target is None:
            raise IntegrityError("repository.damaged", f"{path} is not in the repository.")
        data = self.required(object_path(path, target.hashes["sha256"]))
        try:
            target.verify_length_and_hashes(data)
        except LengthOrHashMismatchError as error:
            raise IntegrityError(
                "repository.damaged", f"{path} is not what was signed: {error}."
            ) from error
        return data

    def _named(self, role: str, meta: MetaFile, kind: type[S]) -> Metadata[S] | None:
        data = self._store.get(metadata_path(role, meta.version))
        if data is None:
            return None
        try:
            meta.verify_length_and_hashes(data)
        except LengthOrHashMismatchError:
            return None
        return decode_metadata(data, kind)


def _version_of(path: str) -> int:
    version = path.rpartition("/")[2].partition(".")[0]
    return int(version) if version.isdigit() else 0
