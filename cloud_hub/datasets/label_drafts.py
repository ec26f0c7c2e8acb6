"""LabelDrafts: what people label, kept on the hub until they save it as a version.

1. A label is kept before the page is told so; a tab that closes loses nothing that was told kept.
2. Saving is one version for all of a draft, made only while the newest version is the one that the
   draft was merged with: who saves second merges with what the first has saved.
3. The version is made first, then the draft is forgotten: a hub that ends in between finds the
   draft to say nothing that the version does not.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from cloud_hub.datasets import sql_store_drafts as store
from cloud_hub.datasets.dataset import DatasetVersion
from cloud_hub.datasets.label_draft import Conflict, DraftEntry, Merge, label_of, merge
from cloud_hub.datasets.relabelling import LabelChange, relabelled
from cloud_hub.datasets.service import DatasetService
from cloud_hub.sql_database import Database
from shared.clock import Clock, now_ms
from shared.errors import RefusedError

DRAFT_ITEMS_MAX = 100_000
TRIES_MAX = 5  # Each one fails only because somebody else has saved
MOVED = "dataset.moved"


@dataclass(frozen=True, slots=True)
class Saved:
    """What came of saving: a version, or conflicts and nothing changed."""

    version: DatasetVersion | None
    conflicts: tuple[Conflict, ...]
    changed_count: int
    gone_count: int  # Items that are not in the dataset any more


class LabelDrafts:
    """See the rules above. Keeps nothing itself; safe to share between threads."""

    def __init__(self, database: Database, datasets: DatasetService, clock: Clock) -> None:
        self._database = database
        self._datasets = datasets
        self._clock = clock

    def get(self, operator: str, dataset: str) -> tuple[DraftEntry, ...]:
        """Return one operator's draft, oldest first."""
        with self._database.read() as connection:
            return store.select_draft(connection, operator, dataset)

    def count(self, operator: str, dataset: str) -> int:
        """Return of how many items an operator has said something."""
        with self._database.read() as connection:
            return store.count_draft(connection, operator, dataset)

    def put(
        self,
        operator: str,
        dataset: str,
        changes: Mapping[str, LabelChange],
        *,
        version: int,
    ) -> tuple[DraftEntry, ...]:
        """Keep what an operator says of items of a version; return the whole draft.

        Raises ContractError `dataset.item` or `dataset.label`, RefusedError `dataset.unknown`,
        `dataset_version.unknown`, `dataset.draft_full`, TransientError.
        """
        manifest = self._datasets.manifest(self._datasets.version(dataset, version))
        relabelled(manifest, changes)  # What saving would refuse is refused now
        seen = {i.digest: i for i in manifest.items if i.digest in changes}
        with self._database.begin() as connection:
            held = {e.digest: e for e in store.select_draft(connection, operator, dataset)}
            entries = [
                DraftEntry(
                    digest,
                    change,
                    held[digest].was if digest in held else label_of(item, manifest.classes),
                )
                for digest, item in seen.items()
                for change in (changes[digest],)
            ]
            kept = [entry for entry in entries if entry.said != entry.was]
            if len(held.keys() | {entry.digest for entry in kept}) > DRAFT_ITEMS_MAX:
                raise RefusedError(
                    "dataset.draft_full",
                    f"A draft holds {DRAFT_ITEMS_MAX} items.",
                    remedy="Save it as a version, then go on.",
                )
            store.put_entries(connection, operator, dataset, kept, now_ms=now_ms(self._clock))
            undone = {entry.digest for entry in entries if entry.said == entry.was}
            store.delete_entries(connection, operator, dataset, undone)
            return store.select_draft(connection, operator, dataset)

    def discard(self, operator: str, dataset: str) -> int:
        """Forget an operator's draft; return of how many items it was."""
        with self._database.begin() as connection:
            entries = store.select_draft(connection, operator, dataset)
            store.delete_entries(connection, operator, dataset, {e.digest for e in entries})
        return len(entries)

    def save(
        self,
        operator: str,
        dataset: str,
        *,
        mine: Collection[str] = (),
        theirs: Collection[str] = (),
    ) -> Saved:
        """Make the next version of what an operator has said, or return what others changed.

        Args:
            operator: whose draft.
            dataset: of which dataset.
            mine: digests of conflicts that the operator's label wins.
            theirs: digests of conflicts that the newest version wins.

        Raises RefusedError `dataset.draft_empty`, `dataset.unknown`, `dataset.moved`,
        `dataset.too_many`, ContractError `dataset.label`, TransientError.
        """
        entries = self.get(operator, dataset)
        if not entries:
            raise RefusedError("dataset.draft_empty", "There is nothing to save.")
        for _ in range(TRIES_MAX):
            base = self._datasets.version(dataset)
            found = merge(entries, self._datasets.manifest(base), mine=mine, theirs=theirs)
            if found.conflicts:
                return Saved(None, found.conflicts, len(found.changes), found.gone_count)
            version = self._relabel(dataset, found, base, operator)
            if version is not None:
                self._settle(operator, dataset, entries)
                return Saved(version, (), len(found.changes), found.gone_count)
        raise RefusedError(
            MOVED, "Others save all the time.", remedy="Save again; your labels are kept."
        )

    def _relabel(
        self, dataset: str, found: Merge, base: DatasetVersion, operator: str
    ) -> DatasetVersion | None:
        """Return the version made, or None: `base` is not the newest any more."""
        if not found.changes:
            return base
        try:
            return self._datasets.relabel(dataset, found.changes, by=operator, base=base.version)
        except RefusedError as error:
            if error.code == MOVED:
                return None
            raise

    def _settle(self, operator: str, dataset: str, entries: Collection[DraftEntry]) -> None:
        with self._database.begin() as connection:
            for entry in entries:
                store.settle_entry(connection, operator, dataset, entry)
