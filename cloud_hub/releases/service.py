"""ReleaseService: from an uploaded model to a signed release, and its blocks to devices.

1. The gate first; what it lets through is published in the repository; the database row comes
   last. A hub killed in between finds the release in the repository at its start and makes the
   row (`open`): the repository is the truth, the row is how people find it.
2. The same upload again is the same release, not a new one.
3. A candidate is judged by the model's newest evaluation set, beside the release it would replace:
   the one that the channel "stable" points at, where a person has set it (the newest may have been
   undone on every device), else the newest.
4. Versions are handed out under a lock of this process: one process of a hub publishes.
"""

import logging
import threading
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import msgspec
from msgspec import UNSET

from cloud_hub.candidates.candidate import PassedCandidate, Verdict
from cloud_hub.candidates.checkpoint import Checkpoint
from cloud_hub.candidates.checkpoint_service import CheckpointService
from cloud_hub.candidates.evaluation_sets import EvaluationSets
from cloud_hub.candidates.gate import GateSettings
from cloud_hub.candidates.service import (
    CandidateService,
    Rivals,
    UploadOptions,
    content_digest,
    trained_digest,
)
from cloud_hub.object_store import ObjectStore
from cloud_hub.releases import release as rules
from cloud_hub.releases import sql_store
from cloud_hub.releases.channel import Channel, ChannelName, parse_channel
from cloud_hub.releases.release import BlockData, Release
from cloud_hub.releases.tuf_keys import KeyFolder
from cloud_hub.releases.tuf_repository import RepositorySettings, TufRepository
from cloud_hub.sql_database import Database
from shared.clock import Clock, now_ms
from shared.errors import RefusedError
from shared.ids import LineageId, new_lineage_id, parse_model_name
from shared.model.spec import parse_spec
from shared.release.manifest import Manifest, decode_manifest, encode_manifest, manifest_path
from shared.settings import Settings
from shared.wire.blocks import BLOCK_BYTES, RepositoryPath

log = logging.getLogger(__name__)


class ReleaseSettings(Settings, frozen=True):
    """Where releases live and what the gate lets through."""

    objects: str = ""  # A folder or "s3://bucket/prefix"; empty is `repository` of the state folder
    gate: GateSettings = GateSettings()
    repository: RepositorySettings = RepositorySettings()


class ReleaseService:
    """See the rules above. Safe to share between threads."""

    def __init__(
        self,
        database: Database,
        candidates: CandidateService,
        repository: TufRepository,
        store: ObjectStore,
        clock: Clock,
    ) -> None:
        """Start without touching anything; call `open` before the rest."""
        self._database = database
        self._candidates = candidates
        self._repository = repository
        self._store = store
        self._clock = clock
        self._checkpoints = CheckpointService(database, store, clock, candidates.settings.export)
        self._evaluation_sets = EvaluationSets(database, store, clock)
        self._publishing = threading.Lock()

    def open(self) -> None:
        """Make or mend the repository, and make rows for releases that have none.

        Raises UnavailableError `release_keys.missing`.
        """
        self._repository.open()
        with self._database.read() as connection:
            known = sql_store.select_names(connection)
        for path, file in self._repository.files().items():
            if rules.is_manifest(path) and _name_of(path) not in known:
                self._insert(self._repository.read(path), file.custom, self._verdict(file.custom))
                log.warning("release.reconciled", extra={"path": path})

    def add(
        self,
        *,
        model_bytes: bytes,
        spec_bytes: bytes,
        golden_bytes: bytes | None,
        metrics: Mapping[str, float],
        notes: str,
        lineage_id: LineageId | None,
        options: UploadOptions | None = None,
    ) -> Release:
        """Return the release that came of an uploaded model; takes seconds.

        Args:
            model_bytes: the ONNX file.
            spec_bytes: its ModelSpec as TOML.
            golden_bytes: its golden set (.npz), or None to have one drawn.
            metrics: numbers about it that people want to see, by name.
            notes: what people want to know about it.
            lineage_id: what it came from, or None where nothing is known.
            options: a tokenizer, or that preprocessing stays out of the graph.

        Raises ContractError (spec, tokenizer, metrics, notes not understood), GateRefusedError
        `gate.refused` with reasons, TransientError, RefusedError `release.too_many`.
        """
        spec = parse_spec(spec_bytes)
        checked = rules.check_description(metrics, notes)
        digest = content_digest(model_bytes, spec, golden_bytes, options)
        found = self._find_content(spec.model, digest)
        if found is not None:
            return found
        passed = self._candidates.judge(
            model_bytes=model_bytes,
            spec=spec,
            golden_bytes=golden_bytes,
            lineage_id=lineage_id or new_lineage_id(),
            rivals=self._rivals(spec.model),
            options=options,
        )
        with self._publishing:
            # Someone may have sent the same bytes while the gate was busy with ours.
            return self._find_content(spec.model, digest) or self._publish(passed, checked, notes)

    def add_trained(
        self,
        checkpoint: Checkpoint,
        *,
        notes: str = "",
        metrics: Mapping[str, float] | None = None,
        lineage_id: LineageId | None = None,
    ) -> Release:
        """Return the release that came of a checkpoint; takes seconds to minutes.

        The same checkpoint's weights again are the same release. Raises as `add`, and ContractError
        `weights.misfit`, RefusedError `checkpoint.unknown` or `export.failed`, IntegrityError
        `checkpoint.damaged`.
        """
        checked = rules.check_description(metrics or {}, notes)
        digest = trained_digest(checkpoint)
        found = self._find_content(checkpoint.model, digest)
        if found is not None:
            return found
        passed = self._candidates.judge_trained(
            checkpoint,
            self._checkpoints.weights(checkpoint.checkpoint_id),
            lineage_id=lineage_id or checkpoint.lineage_id,
            rivals=self._rivals(checkpoint.model),
        )
        with self._publishing:
            found = self._find_content(checkpoint.model, digest)
            return found or self._publish(passed, checked, notes)

    def releases(self, model: str | None = None) -> tuple[Release, ...]:
        """Return releases of one model or of all, newest first."""
        with self._database.read() as connection:
            return sql_store.select_releases(connection, model)

    def get(self, model: str, version: int) -> Release:
        """Return one release. Raises RefusedError `release.unknown`."""
        with self._database.read() as connection:
            found = sql_store.find_release(connection, model, version)
        if found is None:
            raise RefusedError("release.unknown", f"There is no release {model[:63]}:{version}.")
        return found

    def manifest(self, model: str, version: int) -> Manifest:
        """Return a release's manifest, checked against its signature's digest.

        Raises RefusedError `release.unknown`, IntegrityError `repository.damaged`.
        """
        release = self.get(model, version)
        return decode_manifest(self._repository.read(manifest_path(release.model, version)))

    def set_channel(self, model: str, channel: str, version: int) -> Channel:
        """Point a channel at a release.

        Raises ContractError `channel.unknown`, RefusedError `release.unknown`.
        """
        name = parse_channel(channel)
        release = self.get(model, version)
        pointer = Channel(release.model, name, version, now_ms(self._clock))
        with self._database.begin() as connection:
            sql_store.put_channel(connection, pointer)
        return pointer

    def channels(self, model: str | None = None) -> tuple[Channel, ...]:
        """Return where the channels of one model, or of all, point."""
        with self._database.read() as connection:
            return sql_store.select_channels(connection, model)

    def read_block(self, path: str, index: int) -> BlockData | None:
        """Return one block of a file of the repository, or None where there is none."""
        try:
            msgspec.convert(path, RepositoryPath)  # Nothing outside metadata/ and targets/.
        except msgspec.ValidationError:
            return None
        start = index * BLOCK_BYTES
        found = self._store.get_range(path, start=start, end=start + BLOCK_BYTES)
        return BlockData(found.object_bytes, found.data) if found is not None else None

    def bootstrap_root(self) -> bytes:
        """Return the root metadata that a device is given when it joins."""
        return self._repository.bootstrap_root()

    def refresh_online_metadata(self) -> bool:
        """Sign again what grows old; return whether anything was. Call it every hour or so."""
        return self._repository.refresh_online_metadata()

    @property
    def repository(self) -> TufRepository:
        """Return the signed repository: for rotation of keys and after a restore."""
        return self._repository

    @property
    def candidates(self) -> CandidateService:
        """Return who judges candidates: refused ones are found there."""
        return self._candidates

    @property
    def checkpoints(self) -> CheckpointService:
        """Return where networks with weights are kept, to train from and to release."""
        return self._checkpoints

    @property
    def evaluation_sets(self) -> EvaluationSets:
        """Return where the items are kept by which candidates are judged."""
        return self._evaluation_sets

    @property
    def offline_keys_present(self) -> bool:
        """Whether private keys that belong elsewhere lie on this machine."""
        return self._repository.offline_keys_present

    def _rivals(self, model: str) -> Rivals:
        """Return what a candidate of a model is judged by; see rule 3."""
        newest = self._evaluation_sets.newest(model)
        rivals = Rivals()
        if newest is not None:
            data = self._evaluation_sets.read(newest)
            rivals = Rivals(evaluation_digest=newest.digest, evaluation_bytes=data)
        old = self._replaced(model)
        if old is None:
            return rivals
        manifest = self.manifest(old.model, old.version)
        return replace(
            rivals,
            release=old.name,
            old_spec=manifest.spec,
            old_bytes=self._repository.read(manifest.variants[0].artifact.path),
            old_tokenizer_bytes=(
                None
                if manifest.tokenizer is UNSET
                else self._repository.read(manifest.tokenizer.path)
            ),
        )

    def _replaced(self, model: str) -> Release | None:
        for channel in self.channels(model):
            if channel.name is ChannelName.STABLE:
                return self.get(model, channel.version)
        return max(self.releases(model), key=lambda one: one.version, default=None)

    def _publish(self, passed: PassedCandidate, metrics: dict[str, float], notes: str) -> Release:
        candidate = passed.candidate
        version = rules.next_version(self._repository.files(), candidate.model)
        created_ms = now_ms(self._clock)
        manifest, files = rules.make_manifest(
            passed, version=version, metrics=metrics, notes=notes, created_ms=created_ms
        )
        manifest_bytes = encode_manifest(manifest)
        path = manifest_path(candidate.model, version)
        custom = rules.signed_notes(candidate)
        self._repository.publish({**files, path: manifest_bytes}, custom={path: custom})
        release = self._insert(manifest_bytes, custom, candidate.verdict)
        log.info(
            "release.published",
            extra={"release": release.name, "manifest_digest": release.manifest_digest},
        )
        return release

    def _insert(
        self, manifest_bytes: bytes, custom: Mapping[str, str], verdict: Verdict
    ) -> Release:
        manifest = decode_manifest(manifest_bytes)
        release = rules.describe(manifest, manifest_bytes, custom=custom, verdict=verdict)
        with self._database.begin() as connection:
            sql_store.insert_release(connection, release)
        return release

    def _find_content(self, model: str, digest: str) -> Release | None:
        with self._database.read() as connection:
            return sql_store.find_content(connection, parse_model_name(model), digest)

    def _verdict(self, custom: Mapping[str, str]) -> Verdict:
        try:
            return self._candidates.get(custom.get("candidate", "")).verdict
        except RefusedError:
            return Verdict(is_passed=True, reasons=())


def objects_place(state: Path, settings: ReleaseSettings) -> str:
    """Return where a hub's objects lie: what its settings say, or a folder of its state."""
    return settings.objects or str(state / "repository")


def build_release_service(
    database: Database, *, state: Path, clock: Clock, settings: ReleaseSettings
) -> ReleaseService:
    """Return the service over a hub's state folder (`keys/`, `repository/`); call `open` next."""
    store = ObjectStore(objects_place(state, settings))
    keys = KeyFolder(state / "keys")
    return ReleaseService(
        database,
        CandidateService(database, clock, settings.gate),
        TufRepository(store, keys, clock, settings.repository),
        store,
        clock,
    )


def _name_of(path: str) -> tuple[str, int]:
    _, model, version, _ = path.split("/")
    return model, int(version)
