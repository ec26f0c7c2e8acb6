"""VersionKeeper: the rows of versions, and the objects that rows name. The end of every making.

1. A version exists once its row is written, which is last; before that its objects are there.
2. A row goes first, then the objects that no row names any more: whoever is killed in between
   leaves objects without a name, which the next `sweep` removes.
3. `sweep` does nothing while something is being made, for what is being made has no row yet.
4. A number is never given twice; what is the newest version already makes none.
"""

import logging
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from cloud_hub.datasets import sql_store, sql_store_drafts
from cloud_hub.datasets.dataset import Dataset, DatasetName, DatasetVersion
from cloud_hub.datasets.making import REPORTS, ManifestFacts
from cloud_hub.datasets.manifest import FOLDER
from cloud_hub.datasets.manifest_facts import version_of
from cloud_hub.datasets.object_packs import PACKS
from cloud_hub.datasets.settings import DatasetSettings
from cloud_hub.object_store import ObjectStore
from cloud_hub.sql_database import Database
from shared.clock import Clock, now_ms
from shared.errors import ContractError, RefusedError, TransientError
from shared.ids import LineageId, new_lineage_id

log = logging.getLogger(__name__)

NOTE_CHARS_MAX = 500
MANIFESTS = f"{FOLDER}/manifests"


class VersionKeeper:
    """See the rules above. Safe to share between threads of one process.

    `keeping` is held from reading what is newest to writing what comes next.
    """

    def __init__(
        self, database: Database, objects: ObjectStore, clock: Clock, settings: DatasetSettings
    ) -> None:
        self._database = database
        self._objects = objects
        self._clock = clock
        self._settings = settings
        self.keeping = threading.RLock()
        self._guard = threading.Lock()  # Of the count, and held while objects are removed
        self._making_count = 0

    @contextmanager
    def making(self) -> Iterator[None]:
        """Keep `sweep` away from objects that no version names yet."""
        with self._guard:
            self._making_count += 1
        try:
            yield
        finally:
            with self._guard:
                self._making_count -= 1

    def newest(self, dataset: DatasetName, *, is_needed: bool) -> DatasetVersion | None:
        """Return the version before the one to come.

        Raises RefusedError `dataset.unknown` where there must be one and is none.
        """
        with self._database.read() as connection:
            found = sql_store.find_dataset(connection, dataset)
        if is_needed and (found is None or found.newest is None):
            raise RefusedError(
                "dataset.unknown",
                f"There is no dataset {dataset!r} to add to.",
                remedy="Import it first.",
            )
        return found.newest if found is not None else None

    def check_room(self, dataset: DatasetName) -> None:
        """Raise RefusedError `dataset.too_many` where another one is one too many."""
        with self._database.read() as connection:
            is_known = sql_store.find_dataset(connection, dataset) is not None
            count = sql_store.count_datasets(connection)
            versions_count = len(sql_store.select_versions(connection, dataset))
        limits = self._settings
        if not is_known and count >= limits.datasets_max:
            raise _too_many(f"There are {count} datasets")
        if versions_count >= limits.versions_max:
            raise _too_many(f"Dataset {dataset!r} has {versions_count} versions")

    def bytes_left(self) -> int:
        """Return how many bytes of items there is still room for."""
        with self._database.read() as connection:
            kept = sql_store.kept_bytes(connection)
        return max(0, self._settings.bytes_max - kept)

    def keep(
        self,
        dataset: DatasetName,
        facts: ManifestFacts,
        *,
        base: DatasetVersion | None,
        note: str,
        by: str,
        lineage_id: LineageId | None = None,
    ) -> DatasetVersion:
        """Return the version that a manifest makes; it exists once this returns.

        Args:
            dataset: whose version it is; made if it is not there.
            facts: of the manifest, whose objects are all there.
            base: the newest version when work on this one began.
            note: what made it, for people.
            by: who asked.
            lineage_id: of what caused it; None: that of `base`, or a fresh one.

        Raises RefusedError `dataset.moved` or `dataset.too_many`, ContractError `dataset.kind`.
        """
        with self.keeping:
            return self._keep(dataset, facts, base, note=note, by=by, lineage_id=lineage_id)

    def _keep(
        self,
        dataset: DatasetName,
        facts: ManifestFacts,
        base: DatasetVersion | None,
        *,
        note: str,
        by: str,
        lineage_id: LineageId | None,
    ) -> DatasetVersion:
        self.check_room(dataset)
        with self._database.begin() as connection:
            found = sql_store.find_dataset(connection, dataset)
            newest = found.newest if found is not None else None
            _check_keeping(found, facts, base)
            if newest is not None and newest.digest == facts.digest:
                return newest
            now = now_ms(self._clock)
            kept = found or Dataset(dataset, facts.kind, facts.classes, by, now, None)
            sql_store.put_dataset(connection, replace(kept, classes=facts.classes))
            if base is not None:
                lineage_id = lineage_id or base.lineage_id
            version = version_of(
                facts,
                dataset=dataset,
                version=sql_store.next_version(connection, dataset),
                parent=base.version if base is not None else None,
                lineage_id=lineage_id or new_lineage_id(),
                note=note[:NOTE_CHARS_MAX],
                created_ms=now,
                created_by=by,
            )
            sql_store.insert_version(connection, version, facts.packs)
        return version

    def forget(self, dataset: str, versions: Sequence[DatasetVersion], *, is_whole: bool) -> None:
        """Forget versions, and the dataset itself if these are all; `sweep` next."""
        with self._database.begin() as connection:
            for version in versions:
                sql_store.delete_version(connection, version)
            if is_whole:
                sql_store_drafts.delete_drafts(connection, dataset)
                sql_store.delete_dataset(connection, dataset)

    def sweep(self) -> int:
        """Remove objects that no version names; return how many. Nothing while others make some.

        Raises nothing: what cannot be removed now is removed the next time.
        """
        with self._guard:
            if self._making_count:
                return 0
            try:
                return self._remove_unnamed()
            except TransientError as error:
                log.warning("datasets.sweep_put_off", extra={"code": error.code})
                return 0

    def _remove_unnamed(self) -> int:
        with self._database.read() as connection:
            packs = sql_store.named_packs(connection)
            manifests = sql_store.named_manifests(connection)
        count = 0
        for prefix, named in ((MANIFESTS, manifests), (REPORTS, manifests), (PACKS, packs)):
            for path in self._objects.paths(prefix):
                if path.rsplit("/", 1)[-1].partition(".")[0] not in named:
                    self._objects.delete(path)
                    count += 1
        return count


def moved() -> RefusedError:
    """Return the refusal of what was meant for a version that is not the newest any more."""
    return RefusedError(
        "dataset.moved",
        "Another version was made meanwhile.",
        remedy="Do it again, on the version that is the newest now.",
    )


def _check_keeping(
    found: Dataset | None, facts: ManifestFacts, base: DatasetVersion | None
) -> None:
    newest = found.newest if found is not None else None
    if (newest.version if newest else None) != (base.version if base else None):
        raise moved()
    if found is not None and found.kind is not facts.kind:
        raise ContractError(
            "dataset.kind",
            f"Dataset {found.name!r} holds {found.kind} items, these are {facts.kind} items.",
            remedy="Import them under another name.",
        )


def _too_many(text: str) -> RefusedError:
    return RefusedError(
        "dataset.too_many",
        f"{text}, as many as the hub keeps.",
        remedy="Remove what is not wanted any more, or raise the limit in the hub's settings.",
    )
