"""DatasetService: datasets, their versions, and everything that makes another version.

1. A version never changes. Importing, adding, relabelling and splitting anew make the next one,
   whose number is never given again; what makes no difference makes no version.
2. Sources are read by a process of its own (opencv_import.py), never here. It puts packs, then the
   report, then the manifest; the version exists once its row is written, last.
3. Packs, manifests and reports that no row names are removed by `sweep`: after an import, after a
   removal, at start, and by housekeeping; never while something is being made. One hub owns the
   `datasets/` folder of its object store.
4. What was derived from a version keeps that version's lineage.
5. An import that adds to a version fails if another one was made meanwhile: nothing is lost unseen.
"""

import logging
import shutil
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec

from cloud_hub.datasets import sql_store
from cloud_hub.datasets.cleaning_report import CleaningReport
from cloud_hub.datasets.dataset import Dataset, DatasetName, DatasetVersion
from cloud_hub.datasets.file_archive import is_archive
from cloud_hub.datasets.item_page import ItemFilter, ItemPage, page_of
from cloud_hub.datasets.making import (
    ImportOrder,
    ImportRule,
    Made,
    ManifestFacts,
    Order,
    ResplitOrder,
    report_path,
)
from cloud_hub.datasets.manifest import Manifest, encode_manifest, manifest_path
from cloud_hub.datasets.manifest_facts import facts_of
from cloud_hub.datasets.object_packs import read_item, read_manifest
from cloud_hub.datasets.process_import import make_version
from cloud_hub.datasets.relabelling import LabelChange, count_changes, relabelled
from cloud_hub.datasets.settings import DatasetSettings
from cloud_hub.datasets.splits import SplitRule, rule_text
from cloud_hub.datasets.version_keeper import VersionKeeper, moved
from cloud_hub.object_store import ObjectStore
from cloud_hub.sql_database import Database
from shared.clock import Clock
from shared.durable_file import make_private_folder, write_failed
from shared.errors import RefusedError
from shared.ids import LineageId, parse_group_name
from shared.release.digest import digest_of

log = logging.getLogger(__name__)

MANIFESTS_CACHED_MAX = 2
CACHED_ITEMS_MAX = 300_000  # Of a manifest that is kept in memory
WORK = "work"  # In the service's folder: uploads and unpacked archives, gone at every start


@dataclass(frozen=True, slots=True)
class Imported:
    """What came of an import."""

    version: DatasetVersion
    layout: str  # What the source was taken for
    added_count: int
    broken_count: int
    duplicates_count: int  # Left out


class DatasetService:
    """See the rules above. Safe to share between threads of one process."""

    def __init__(
        self,
        database: Database,
        objects: ObjectStore,
        clock: Clock,
        settings: DatasetSettings | None = None,
        *,
        folder: Path,
    ) -> None:
        """Start without touching anything; call `open` next.

        Args: folder: of this service alone, on a disk with room for what is uploaded.
        """
        self._database = database
        self._objects = objects
        self._clock = clock
        self._settings = settings or DatasetSettings()
        self._work = folder / WORK
        self._caching = threading.Lock()
        self._cached: OrderedDict[str, Manifest] = OrderedDict()
        self._keeper = VersionKeeper(database, objects, clock, self._settings)

    def open(self) -> None:
        """Remove what an end without warning has left. Raises TransientError."""
        shutil.rmtree(self._work, ignore_errors=True)
        make_private_folder(self._work)
        self.sweep()

    @property
    def objects(self) -> ObjectStore:
        """Return where packs and manifests lie."""
        return self._objects

    @property
    def objects_place(self) -> str:
        """Return what `DataSource.objects` says: the store's folder or URL."""
        return self._objects.place

    @contextmanager
    def room(self) -> Iterator[Path]:
        """Give an empty folder that is gone at the end, for an upload. Raises TransientError."""
        make_private_folder(self._work)
        try:
            made = Path(tempfile.mkdtemp(dir=self._work))
        except OSError as error:
            raise write_failed(self._work, error) from error
        try:
            yield made
        finally:
            shutil.rmtree(made, ignore_errors=True)

    def import_file(
        self,
        name: str,
        file: Path,
        rule: ImportRule | None = None,
        *,
        by: str,
        is_added: bool = False,
        lineage_id: LineageId | None = None,
    ) -> Imported:
        """Return the version that a file or an archive makes; takes seconds to minutes.

        Args:
            name: of the dataset; it need not be there yet.
            file: a .csv, .npz, .json, or an archive of a folder; or a folder.
            rule: how it is read and put into parts.
            by: who asks.
            is_added: the newest version's items stay and these come in addition.
            lineage_id: of what caused this; None: the newest version's, or a fresh one.

        Raises ContractError `dataset.*`, RefusedError `dataset.full`, `dataset.too_many`,
        `dataset.moved`, `dataset.import_failed`, TransientError.
        """
        rule = rule or ImportRule()
        dataset = DatasetName(parse_group_name(name))
        base = self._keeper.newest(dataset, is_needed=is_added)
        self._keeper.check_room(dataset)
        with self._keeper.making(), self.room() as folder:
            order = ImportOrder(
                objects=self.objects_place,
                dataset=dataset,
                source=str(file.resolve()),
                is_archive=file.is_file() and is_archive(file.name),
                rule=rule,
                base=base.digest if base is not None and is_added else None,
                bytes_max=self._keeper.bytes_left(),
                seconds_max=self._settings.import_s_max,
                memory_bytes_max=self._settings.import_memory_bytes_max,
            )
            made, facts = self._make(order, folder)
            verb = "added" if is_added else "imported"
            note = f"{verb} {made.added_count} items from {file.name}"
            version = self._keeper.keep(
                dataset, facts, base=base, note=note, by=by, lineage_id=lineage_id
            )
        self.sweep()
        log.info(
            "dataset.imported",
            extra={"dataset": dataset, "version": version.version, "items": made.added_count},
        )
        return Imported(
            version=version,
            layout=made.layout,
            added_count=made.added_count,
            broken_count=made.broken_count,
            duplicates_count=made.duplicates_count,
        )

    def import_folder(
        self,
        name: str,
        path: str,
        rule: ImportRule | None = None,
        *,
        by: str,
        is_added: bool = False,
    ) -> Imported:
        """Return the version that a folder of this machine makes, if its settings allow it.

        Raises RefusedError `dataset.root`, and as `import_file`.
        """
        return self.import_file(name, self._allowed(path), rule, by=by, is_added=is_added)

    def get(self, name: str) -> Dataset:
        """Return a dataset. Raises RefusedError `dataset.unknown`."""
        with self._database.read() as connection:
            found = sql_store.find_dataset(connection, name)
        if found is None:
            raise RefusedError("dataset.unknown", f"There is no dataset {name[:63]!r}.")
        return found

    def list(self) -> tuple[Dataset, ...]:
        """Return every dataset, by name."""
        with self._database.read() as connection:
            return sql_store.select_datasets(connection)

    def versions(self, name: str) -> tuple[DatasetVersion, ...]:
        """Return a dataset's versions, newest first. Raises RefusedError `dataset.unknown`."""
        self.get(name)
        with self._database.read() as connection:
            return sql_store.select_versions(connection, name)

    def version(self, name: str, number: int | None = None) -> DatasetVersion:
        """Return one version, the newest where no number is given.

        Raises RefusedError `dataset.unknown` or `dataset_version.unknown`.
        """
        self.get(name)
        with self._database.read() as connection:
            found = sql_store.find_version(connection, name, number)
        if found is None:
            text = f"version {number}" if number is not None else "version any more"
            raise RefusedError("dataset_version.unknown", f"Dataset {name!r} has no {text}.")
        return found

    def manifest(self, version: DatasetVersion) -> Manifest:
        """Return a version's manifest. Raises IntegrityError `dataset.damaged`, TransientError."""
        with self._caching:
            found = self._cached.get(version.digest)
            if found is not None:
                self._cached.move_to_end(version.digest)
                return found
        read = read_manifest(self._objects, version.digest)
        if len(read.items) <= CACHED_ITEMS_MAX:
            with self._caching:
                self._cached[version.digest] = read
                while len(self._cached) > MANIFESTS_CACHED_MAX:
                    self._cached.popitem(last=False)
        return read

    def report(self, version: DatasetVersion) -> CleaningReport | None:
        """Return what cleaning found when the version's items came in, or None: nothing is known.

        Raises TransientError.
        """
        data = self._objects.get(report_path(version.digest))
        try:
            return msgspec.json.decode(data or b"", type=CleaningReport)
        except msgspec.MsgspecError:
            return None

    def items(
        self, version: DatasetVersion, wanted: ItemFilter, *, after: int = -1, limit: int = 50
    ) -> ItemPage:
        """Return a page of a version's items.

        Raises ContractError `dataset.class`, IntegrityError `dataset.damaged`, TransientError.
        """
        return page_of(self.manifest(version), wanted, after=after, limit=limit)

    def item_bytes(self, manifest: Manifest, index: int) -> bytes:
        """Return an item's bytes.

        Raises RefusedError `dataset_item.unknown`, IntegrityError `dataset.damaged`,
        TransientError.
        """
        if not 0 <= index < len(manifest.items):
            text = f"Dataset {manifest.dataset!r} has no item {index} in this version."
            raise RefusedError("dataset_item.unknown", text)
        return read_item(self._objects, manifest.items[index])

    def relabel(
        self,
        name: str,
        changes: Mapping[str, LabelChange],
        *,
        by: str,
        base: int | None = None,
    ) -> DatasetVersion:
        """Return the version with other labels, keyed by the items' digests; see relabelling.py.

        Args:
            name: of the dataset.
            changes: what is said of items.
            by: who says it.
            base: the version that must still be the newest; None: whichever is.

        Raises ContractError `dataset.item` or `dataset.label`, RefusedError `dataset.unknown`,
        `dataset.moved`, `dataset.too_many`, TransientError.
        """
        with self._keeper.making(), self._keeper.keeping:
            newest = self.version(name)
            if base not in (None, newest.version):
                raise moved()
            old = self.manifest(newest)
            new = relabelled(old, changes)
            data = encode_manifest(new)
            digest = digest_of(data)
            report = self._objects.get(report_path(newest.digest))
            if report is not None:
                self._objects.put(report_path(digest), report)
            self._objects.put(manifest_path(digest), data)
            count = count_changes(old, new)
            return self._keeper.keep(
                newest.dataset,
                facts_of(new, digest),
                base=newest,
                note=f"{count} labels by {by}",
                by=by,
            )

    def resplit(self, name: str, rule: SplitRule, *, by: str) -> DatasetVersion:
        """Return the version whose items are put into parts anew.

        Raises ContractError `dataset.split`, RefusedError `dataset.unknown`, `dataset.moved`,
        `dataset.too_many`, TransientError.
        """
        base = self.version(name)
        with self._keeper.making(), self.room() as folder:
            order = ResplitOrder(
                objects=self.objects_place,
                base=base.digest,
                rule=rule,
                seconds_max=self._settings.import_s_max,
                memory_bytes_max=self._settings.import_memory_bytes_max,
            )
            _, facts = self._make(order, folder)
            note = f"split {rule_text(rule)}"
            return self._keeper.keep(
                base.dataset, facts, base=base, note=note, by=by, lineage_id=None
            )

    def remove(self, name: str, number: int | None) -> None:
        """Forget a version, or with None the whole dataset.

        Raises RefusedError `dataset.unknown` or `dataset_version.unknown`, TransientError.
        """
        with self._keeper.keeping:
            gone = self.versions(name) if number is None else (self.version(name, number),)
            self._keeper.forget(name, gone, is_whole=number is None)
        log.info("dataset.removed", extra={"dataset": name, "versions": len(gone)})
        self.sweep()

    def sweep(self) -> int:
        """Remove objects that no version names; return how many. See version_keeper.py."""
        return self._keeper.sweep()

    def _make(self, order: Order, folder: Path) -> tuple[Made, ManifestFacts]:
        made = make_version(order, folder, seconds_max=self._settings.import_s_max)
        assert made.facts is not None, "what is no problem is a version"
        return made, made.facts

    def _allowed(self, text: str) -> Path:
        """Return a path of this machine if it may be read. Raises RefusedError `dataset.root`."""
        try:
            path = Path(text).resolve(strict=True)
        except (OSError, ValueError, RuntimeError):
            path = None
        roots = [Path(root).resolve() for root in self._settings.import_roots]
        if path is None or not any(path.is_relative_to(root) for root in roots):
            raise RefusedError(
                "dataset.root",
                f"{text[:200]!r} is not there, or not below a folder that may be imported from.",
                remedy="Name the folder in datasets.import_roots of the hub's settings, or upload "
                "an archive.",
            )
        return path
