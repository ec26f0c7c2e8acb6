"""The signed repository that devices pull from: TUF metadata and the files it vouches for.

1. root (three offline keys, two must sign) names the keys of all others; the top-level targets
   role (offline key) delegates `releases/*/*/*` to the online role `releases`, and that ends the
   search: whoever steals the online keys can sign releases until they are rotated, nothing else.
2. releases, snapshot and timestamp are signed by this hub. They expire after `offline_days_max`.
3. Publishing writes in an order in which every prefix is a consistent repository: files first,
   then N.releases.json, N.snapshot.json, and timestamp.json last, which makes it all visible. A
   hub killed in between has published nothing; what it left behind is overwritten or never named.
4. Versions of the online roles are seconds since 1970, or one more than the last: a hub restored
   from a backup calls `reissue`, and devices that saw newer metadata believe it again.
5. Nothing is kept in memory between two operations, so several processes may share a repository
   (one at a time, by a lock file beside the keys).

Names in the object store: `metadata/<version>.<role>.json`, `metadata/timestamp.json`,
`targets/<folder>/<sha256>.<name>`; they must match shared/wire/blocks.py, RepositoryPath.
"""

import fcntl
import logging
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated

from msgspec import Meta
from securesystemslib.signer import Signer
from tuf.api.metadata import (
    DelegatedRole,
    Delegations,
    Metadata,
    MetaFile,
    Root,
    Snapshot,
    Targets,
    Timestamp,
)

from cloud_hub.object_store import ObjectStore
from cloud_hub.releases.tuf_keys import OFFLINE, ONLINE, KeyFolder
from cloud_hub.releases.tuf_metadata import (
    RELEASES,
    PublishedFile,
    S,
    meta_of,
    object_path,
    published_file,
    refuse_changes,
    releases_role,
    signed_bytes,
    target_of,
)
from cloud_hub.releases.tuf_reader import TIMESTAMP_PATH, TufReader, metadata_path
from shared.clock import Clock
from shared.settings import Settings

log = logging.getLogger(__name__)

RELEASES_PATTERN = "releases/*/*/*"  # A TUF glob does not cross "/": model, version, file
ROOT_KEYS = 3
ROOT_THRESHOLD = 2
ROOT_DAYS = 3650
VERSIONS_KEPT = 16  # Of releases and snapshot
DAY_S = 86_400


class RepositorySettings(Settings, frozen=True):
    """How long signatures last."""

    # Longer than any device is expected to be away.
    offline_days_max: Annotated[int, Meta(ge=1, le=3650)] = 365
    timestamp_refresh_s: Annotated[float, Meta(ge=60.0, le=1e8)] = 86_400.0


@dataclass(frozen=True, slots=True)
class Expiry:
    """Until when signatures hold, seconds since 1970: what `doctor` looks at."""

    root_s: float  # Two offline keys renew it: rotate_root_keys
    targets_s: float  # Renewed with the online keys: rotate_online_keys
    online_s: float  # Renewed by refresh_online_metadata


class TufRepository:
    """See the rules above. Safe to share between threads and processes."""

    def __init__(
        self,
        store: ObjectStore,
        keys: KeyFolder,
        clock: Clock,
        settings: RepositorySettings | None = None,
    ) -> None:
        """Start without touching anything; call `open` before the rest."""
        self._store = store
        self._reader = TufReader(store)
        self._keys = keys
        self._clock = clock
        self._settings = settings or RepositorySettings()
        self._lock = threading.Lock()

    def open(self) -> None:
        """Make the repository and its keys where there are none; mend one left half written.

        Raises UnavailableError `release_keys.missing` where keys that must be here are not.
        """
        with self._exclusive():
            root = self._reader.newest_root() or self._make_root()
            targets = self._reader.newest_targets(root) or self._make_targets(root)
            if self._reader.find_current(root, targets) is None:
                releases = self._reader.salvage_releases(targets) or Targets()
                timestamp = self._reader.timestamp(root)
                after = max(releases.version, timestamp.version if timestamp else 0)
                self._issue(root, targets, releases, after=after)
                log.info("repository.issued", extra={"files": len(releases.targets)})

    @property
    def offline_keys_present(self) -> bool:
        """Whether private keys that belong elsewhere lie on this machine."""
        return self._keys.offline_keys_present

    def expiry(self) -> Expiry:
        """Return until when what devices see now is signed."""
        now = self._reader.current()
        online = (now.timestamp, now.snapshot, now.releases)
        return Expiry(
            root_s=now.root.expires.timestamp(),
            targets_s=now.targets.expires.timestamp(),
            online_s=min(signed.expires.timestamp() for signed in online),
        )

    def bootstrap_root(self) -> bytes:
        """Return the first root: what a device is given when it joins."""
        return self._reader.required(metadata_path("root", 1))

    def files(self) -> dict[str, PublishedFile]:
        """Return every published file by its path."""
        targets = self._reader.current().releases.targets
        return {path: published_file(target) for path, target in targets.items()}

    def read(self, path: str) -> bytes:
        """Return a published file's bytes, checked. Raises IntegrityError `repository.damaged`."""
        return self._reader.file(path)

    def publish(
        self, files: Mapping[str, bytes], *, custom: Mapping[str, Mapping[str, str]]
    ) -> None:
        """Add files to what devices may fetch; visible all at once, at the very end.

        `custom` holds signed notes of ours by path. Raises RefusedError `release.immutable` if a
        path is taken by other bytes, `release.too_many`.
        """
        with self._exclusive():
            now = self._reader.current()
            added = {p: target_of(p, data, custom.get(p, {})) for p, data in files.items()}
            refuse_changes(now.releases.targets, added)
            for path, data in files.items():
                self._store.put(object_path(path, added[path].hashes["sha256"]), data)
            now.releases.targets |= added
            self._issue(now.root, now.targets, now.releases, after=now.timestamp.version)

    def refresh_online_metadata(self) -> bool:
        """Sign again what has become old; return whether anything was.

        The timestamp is signed again after `timestamp_refresh_s`; everything after half of its
        life. Call it now and then; costs one read where nothing is old.
        """
        with self._exclusive():
            now = self._reader.current()
            life_s = self._settings.offline_days_max * DAY_S
            version = now.timestamp.version
            if self._left_s(now.snapshot.expires) < life_s / 2:
                self._issue(now.root, now.targets, now.releases, after=version)
                return True
            age_s = life_s - self._left_s(now.timestamp.expires)
            if age_s < self._settings.timestamp_refresh_s:
                return False
            meta = now.timestamp.snapshot_meta
            self._put_timestamp(now.root, self._next_version(version), meta)
            return True

    def reissue(self) -> None:
        """Sign everything again under higher versions: after a restore from a backup."""
        with self._exclusive():
            now = self._reader.current()
            self._issue(now.root, now.targets, now.releases, after=now.timestamp.version)

    def rotate_root_keys(self) -> None:
        """Replace the three root keys. Two of the old ones must be in the keys' folder.

        Devices that know only an older root follow: the new one is signed by both. Delete the old
        key files afterwards. Raises UnavailableError `release_keys.missing`.
        """
        with self._exclusive():
            root = self._reader.current().root
            old_ids = list(root.roles["root"].keyids)
            old = self._keys.require("root", old_ids, count=ROOT_THRESHOLD)
            new = [self._keys.make("root", kind=OFFLINE) for _ in range(ROOT_KEYS)]
            for key_id in old_ids:
                root.revoke_key(key_id, "root")
            for signer in new:
                root.add_key(signer.public_key, "root")
            self._put_root(root, [*old, *new[:ROOT_THRESHOLD]])

    def rotate_online_keys(self) -> None:
        """Replace the keys of releases, snapshot and timestamp, for when they may be stolen.

        Needs two root keys and the targets key. First both keys of each role are valid, then all
        is signed with the new ones, then the old ones are not valid any more: devices can follow
        at every moment, and a hub killed in between does it again. Delete the old files after.
        """
        with self._exclusive():
            now = self._reader.current()
            root, targets, version = now.root, now.targets, now.timestamp.version
            signers = self._root_signers(root)
            old = {role: list(root.roles[role].keyids) for role in ("snapshot", "timestamp")}
            old_releases = list(releases_role(targets).keyids)
            for role in old:
                root.add_key(self._keys.make(role, kind=ONLINE).public_key, role)
            targets.add_key(self._keys.make(RELEASES, kind=ONLINE).public_key, RELEASES)
            self._put_root(root, signers)
            self._put_targets(root, targets)
            version = self._issue(root, targets, now.releases, after=version)
            for role, key_ids in old.items():
                for key_id in key_ids:
                    root.revoke_key(key_id, role)
            for key_id in old_releases:
                targets.revoke_key(key_id, RELEASES)
            self._put_root(root, signers)
            self._put_targets(root, targets)
            self._issue(root, targets, now.releases, after=version)

    @contextmanager
    def _exclusive(self) -> Iterator[None]:
        with self._lock, (self._keys.path / ".lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _make_root(self) -> Root:
        root = Root(version=1, expires=self._in_days(ROOT_DAYS), consistent_snapshot=True)
        signers = [self._keys.make("root", kind=OFFLINE) for _ in range(ROOT_KEYS)]
        for signer in signers:
            root.add_key(signer.public_key, "root")
        root.roles["root"].threshold = ROOT_THRESHOLD
        root.add_key(self._keys.make("targets", kind=OFFLINE).public_key, "targets")
        for role in ("snapshot", "timestamp"):
            root.add_key(self._keys.make(role, kind=ONLINE).public_key, role)
        data = signed_bytes(Metadata(root), signers[:ROOT_THRESHOLD])
        self._store.put(metadata_path("root", 1), data)
        return root

    def _make_targets(self, root: Root) -> Targets:
        key = self._keys.make(RELEASES, kind=ONLINE).public_key
        role = DelegatedRole(RELEASES, [key.keyid], 1, terminating=True, paths=[RELEASES_PATTERN])
        delegations = Delegations(keys={key.keyid: key}, roles={RELEASES: role})
        targets = Targets(expires=self._in_days(ROOT_DAYS), delegations=delegations)
        self._write_targets(root, targets)
        return targets

    def _root_signers(self, root: Root) -> list[Signer]:
        return self._keys.require("root", root.roles["root"].keyids, count=ROOT_THRESHOLD)

    def _put_root(self, root: Root, signers: list[Signer]) -> None:
        root.version += 1
        root.expires = self._in_days(ROOT_DAYS)
        data = signed_bytes(Metadata(root), signers)
        self._store.put(metadata_path("root", root.version), data)
        log.warning("repository.root_rotated", extra={"version": root.version})

    def _put_targets(self, root: Root, targets: Targets) -> None:
        targets.version += 1
        targets.expires = self._in_days(ROOT_DAYS)
        self._write_targets(root, targets)

    def _write_targets(self, root: Root, targets: Targets) -> None:
        signers = self._keys.require("targets", root.roles["targets"].keyids, count=1)
        data = signed_bytes(Metadata(targets), signers)
        self._store.put(metadata_path("targets", targets.version), data)

    def _issue(self, root: Root, targets: Targets, releases: Targets, *, after: int) -> int:
        """Sign and write releases, snapshot and, last, timestamp; return their version."""
        version = self._next_version(after)
        releases.version, releases.expires = version, self._online_expires()
        key_ids = releases_role(targets).keyids
        releases_data = self._signed_online(RELEASES, key_ids, Metadata(releases))
        self._store.put(metadata_path(RELEASES, version), releases_data)
        targets_data = self._reader.required(metadata_path("targets", targets.version))
        snapshot = Snapshot(version=version, expires=self._online_expires())
        snapshot.meta = {
            "targets.json": meta_of(targets.version, targets_data),
            f"{RELEASES}.json": meta_of(version, releases_data),
        }
        key_ids = root.roles["snapshot"].keyids
        snapshot_data = self._signed_online("snapshot", key_ids, Metadata(snapshot))
        self._store.put(metadata_path("snapshot", version), snapshot_data)
        self._put_timestamp(root, version, meta_of(version, snapshot_data))
        self._prune()
        return version

    def _prune(self) -> None:
        """Forget old versions; a device in the middle of a refresh needs the last few."""
        for role in (RELEASES, "snapshot"):
            for path in self._reader.versions(role)[VERSIONS_KEPT:]:
                self._store.delete(path)

    def _put_timestamp(self, root: Root, version: int, snapshot_meta: MetaFile) -> None:
        timestamp = Timestamp(
            version=version, expires=self._online_expires(), snapshot_meta=snapshot_meta
        )
        key_ids = root.roles["timestamp"].keyids
        data = self._signed_online("timestamp", key_ids, Metadata(timestamp))
        self._store.put(TIMESTAMP_PATH, data)

    def _signed_online(self, role: str, key_ids: list[str], metadata: Metadata[S]) -> bytes:
        """Sign with the newest of a role's keys that is here."""
        return signed_bytes(metadata, self._keys.require(role, key_ids[::-1], count=1))

    def _next_version(self, after: int) -> int:
        return max(int(self._clock.now_s()), after + 1)

    def _left_s(self, expires: datetime) -> float:
        return (expires - self._now()).total_seconds()

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._clock.now_s(), UTC)

    def _in_days(self, days: int) -> datetime:
        return self._now() + timedelta(days=days)

    def _online_expires(self) -> datetime:
        return self._in_days(self._settings.offline_days_max)
