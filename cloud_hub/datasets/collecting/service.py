"""CollectionService: opens datasets to devices, takes what they send, makes versions of it.

1. Nothing is taken that the hub's people did not open a dataset for; nothing is asked of a device
   but what it offers by itself, by its owner's policy.
2. An item is on the disk, then in the database, then acknowledged. The same one again is
   acknowledged and changes nothing, also when a version has it already.
3. Who sends was found out before (devices/signed_requests.py).
4. Arrivals are no version: `make_version` makes one of all that wait, through the import that every
   source goes through, and only then forgets their bytes. Killed in between, it does it again and
   finds that the items are there.
5. Items whose bytes no row names are removed at start and by housekeeping.
"""

import logging
import threading
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from cloud_hub.datasets.collecting import sql_store
from cloud_hub.datasets.collecting.collection import (
    ITEMS_DEFAULT,
    Arrival,
    Collection,
    Usage,
    WaitingCount,
    day_left_s,
    day_of,
    require_items_max,
    require_length,
    require_same,
    require_shape,
    told_kind,
)
from cloud_hub.datasets.collecting.file_arrivals import FileArrivals
from cloud_hub.datasets.collecting.settings import CollectionSettings
from cloud_hub.datasets.dataset import DatasetName
from cloud_hub.datasets.making import ImportRule
from cloud_hub.datasets.manifest import ItemKind
from cloud_hub.datasets.readers.options import SourceLayout
from cloud_hub.datasets.service import DatasetService, Imported
from cloud_hub.datasets.splits import SplitBy
from cloud_hub.devices.service import DeviceService
from cloud_hub.sql_database import Database
from shared.clock import Clock, now_ms
from shared.errors import IntegrityError, IsthmusError, RefusedError, TransientError
from shared.ids import DeviceId, parse_group_name
from shared.release.digest import digest_of
from shared.wire.device_samples import (
    ItemReply,
    OfferedItem,
    OfferReply,
    SampleKind,
    SampleOffer,
    SharedItem,
    Wish,
)

log = logging.getLogger(__name__)

FULL_S = 3600.0  # A device asks again after this, where there is no room
DAYS_KEPT = 2  # Of what each device has sent


@dataclass(frozen=True, slots=True)
class CollectionStanding:
    """A collection, and what waits in it."""

    collection: Collection
    waiting: WaitingCount
    waiting_by_device: dict[str, int]


class CollectionService:
    """See the rules above. Safe to share between threads of one process."""

    def __init__(
        self,
        database: Database,
        devices: DeviceService,
        datasets: DatasetService,
        clock: Clock,
        settings: CollectionSettings | None = None,
        *,
        folder: Path,
    ) -> None:
        """Start without touching anything; call `open` next.

        Args: folder: of this service alone, on a disk with room for what arrives.
        """
        self._database, self._devices, self._datasets = database, devices, datasets
        self._clock = clock
        self._settings = settings or CollectionSettings()
        self._files = FileArrivals(folder, free_bytes_min=self._settings.free_bytes_min)
        self._writing = threading.Lock()  # From an item's file to its row; and while some go
        self._making = threading.Lock()  # From reading what waits to saying which version has it

    def open(self) -> None:
        """Remove what an end without warning has left. Raises TransientError."""
        self._files.open()
        self.sweep()

    # For people

    def collect(
        self, name: str, *, group: str, items_max: int = ITEMS_DEFAULT, by: str
    ) -> Collection:
        """Open a dataset to the devices of a group, or change to whom and how far it is open.

        Args: name: of the dataset; it need not be there yet. items_max: in all.

        Raises ContractError `id.group`, `collection.items_max`; IntegrityError `dataset.damaged`.
        """
        dataset = DatasetName(parse_group_name(name))
        wanted, most = parse_group_name(group), require_items_max(items_max)
        kind, shape = self._kind_of(dataset)
        with self._database.begin() as connection:
            found = sql_store.find_collection(connection, dataset, for_update=True)
            if found is None:
                at_ms = now_ms(self._clock)
                found = Collection(dataset, wanted, most, True, kind, shape, 0, at_ms, by)
            changed = replace(found, group=wanted, items_max=most, is_open=True)
            if changed.kind is None and kind is not None:
                changed = told_kind(changed, kind, shape)
            sql_store.put_collection(connection, changed)
        log.info("collection.opened", extra={"dataset": dataset, "group": wanted})
        return changed

    def stop(self, name: str) -> Collection:
        """Close a dataset to devices; what has arrived stays.

        Raises RefusedError `collection.unknown`.
        """
        with self._database.begin() as connection:
            found = _required(sql_store.find_collection(connection, name, for_update=True), name)
            stopped = replace(found, is_open=False)
            sql_store.put_collection(connection, stopped)
        log.info("collection.stopped", extra={"dataset": name})
        return stopped

    def discard(self, name: str) -> int:
        """Forget what waits, its bytes too; return how many samples that were.

        Raises RefusedError `collection.unknown`.
        """
        with self._making, self._writing:
            with self._database.begin() as connection:
                _required(sql_store.find_collection(connection, name), name)
                gone = sql_store.delete_waiting(connection, name)
            self._remove_unnamed()
        log.warning("collection.discarded", extra={"dataset": name, "items": gone})
        return gone

    def get(self, name: str) -> CollectionStanding:
        """Return a dataset's collection. Raises RefusedError `collection.unknown`."""
        with self._database.read() as connection:
            found = _required(sql_store.find_collection(connection, name), name)
            return CollectionStanding(
                found,
                sql_store.count_waiting(connection, name),
                sql_store.count_by_device(connection, name),
            )

    def list(self) -> tuple[CollectionStanding, ...]:
        """Return every collection, by dataset."""
        with self._database.read() as connection:
            names = [each.dataset for each in sql_store.select_collections(connection)]
        return tuple(self.get(name) for name in names)

    def make_version(self, name: str, rule: ImportRule | None = None, *, by: str) -> Imported:
        """Make the next version of a dataset, of all that waits; takes seconds to minutes.

        Args: rule: how it is put into parts; where it does not say, devices stay whole.

        Raises RefusedError `collection.unknown`, `collection.empty`; and as
        DatasetService.import_file.
        """
        rule = rule or ImportRule()
        whole = msgspec.structs.replace(
            rule, layout=SourceLayout.ARRIVALS, split_by=rule.split_by or SplitBy.DEVICE
        )
        with self._making:
            with self._database.read() as connection:
                found = _required(sql_store.find_collection(connection, name), name)
                waiting = sql_store.select_waiting(connection, name)
            if not waiting:
                raise RefusedError(
                    "collection.empty",
                    f"No device has sent anything for {name!r} that no version has.",
                    remedy="Wait, or look why: edge-agent sharing, on a device.",
                )
            source = self._files.write_list(found, waiting)
            imported = self._datasets.import_file(
                name, source, whole, by=by, is_added=self._is_there(name)
            )
            self._forget(name, waiting, imported.version.version)
        return imported

    # For devices

    def offer(self, device: DeviceId, offer: SampleOffer) -> OfferReply:
        """Return which samples of an offer the hub wants now. Changes nothing.

        Raises ContractError `samples.shape`, RefusedError `collection.kind`.
        """
        require_shape(offer.kind, offer.window_shape)
        with self._database.read() as connection:
            found = sql_store.find_collection(connection, offer.dataset)
            if found is None or not self._is_open_to(found, device):
                return self._not_wanted(offer.dataset)
            require_same(found, offer.kind, offer.window_shape)
            digests = [item.digest for item in offer.items]
            known = sql_store.known_digests(connection, offer.dataset, digests)
            used = sql_store.usage_of(connection, device, day=day_of(now_ms(self._clock)))
            waiting = sql_store.count_waiting(connection)
        return self._answer(offer, found, known, used, waiting)

    def take(self, device: DeviceId, item: SharedItem) -> ItemReply:
        """Keep one sample; when this returns it is on the disk.

        Raises IntegrityError `samples.digest`; ContractError `samples.shape`; RefusedError
        `samples.not_wanted`, `samples.day_full`, `collection.kind`, `collection.full`;
        TransientError `collection.disk_full`, `disk.write_failed`, `database.unavailable`,
        `database.full`.
        """
        if digest_of(item.data) != item.digest:
            raise IntegrityError("samples.digest", "The sample's bytes are not what was said.")
        require_length(item)
        with self._database.read() as connection:
            found = sql_store.find_collection(connection, item.dataset)
            if found is None or not self._is_open_to(found, device):
                raise RefusedError("samples.not_wanted", self._not_wanted(item.dataset).text)
            require_same(found, item.kind, item.window_shape)
            if sql_store.known_digests(connection, item.dataset, [item.digest]):
                return ItemReply(digest=item.digest, is_new=False)
        with self._writing:
            self._files.put(item.dataset, item.digest, item.data)
            try:
                is_new = self._write_down(device, item)
            except RefusedError:
                self._files.remove(item.dataset, item.digest)
                raise
        return ItemReply(digest=item.digest, is_new=is_new)

    def sweep(self) -> None:
        """Remove the bytes that no row names, and what devices sent days ago.

        Raises TransientError `database.unavailable`.
        """
        with self._writing:
            self._remove_unnamed()
        with self._database.begin() as connection:
            today = day_of(now_ms(self._clock))
            sql_store.forget_days(connection, before=today - DAYS_KEPT)

    def _write_down(self, device: DeviceId, item: SharedItem) -> bool:
        """Keep an item's row, whatever changed since it was first looked at."""
        at_ms = now_ms(self._clock)
        limits = self._settings
        most = Usage(limits.items_per_device_day_max, limits.bytes_per_device_day_max)
        with self._database.begin() as connection:
            found = sql_store.find_collection(connection, item.dataset, for_update=True)
            found = _required(found, item.dataset)
            require_same(found, item.kind, item.window_shape)
            if sql_store.known_digests(connection, item.dataset, [item.digest]):
                return False  # Another device was quicker.
            told = told_kind(found, item.kind, item.window_shape)
            if not sql_store.count_one(connection, told):
                raise RefusedError(
                    "collection.full", f"{item.dataset} has all the samples that it takes."
                )
            size = len(item.data)
            if not sql_store.charge(
                connection, device, day=day_of(at_ms), bytes_count=size, most=most
            ):
                raise RefusedError(
                    "samples.day_full", "The device has sent all that it may send in a day."
                )
            sql_store.insert_arrival(connection, _arrival(device, item, at_ms))
        return True

    def _answer(
        self,
        offer: SampleOffer,
        found: Collection,
        known: frozenset[str],
        used: Usage,
        waiting: WaitingCount,
    ) -> OfferReply:
        """Return what is wanted of an offer to an open collection."""
        told = tuple(sorted(known))
        new = [item for item in offer.items if item.digest not in known]
        if not new:
            return OfferReply(wish=Wish.WANTED, known=told)
        limits, text = self._settings, ""
        room_bytes = limits.waiting_bytes_max - waiting.bytes_count
        items_left = found.items_max - found.arrived_count
        if items_left <= 0 or room_bytes <= 0:
            text = "The hub has enough for now."
        try:
            self._files.require_room(0)
        except TransientError as error:
            text = error.message
        if text:
            return OfferReply(wish=Wish.HUB_FULL, known=told, retry_s=FULL_S, text=text)
        items_left = min(items_left, limits.items_per_device_day_max - used.items_count)
        bytes_left = min(room_bytes, limits.bytes_per_device_day_max - used.bytes_count)
        wanted = _as_many(new, items_left, bytes_left)
        if not wanted:
            left_s = day_left_s(now_ms(self._clock))
            text = "This device has sent all that it may send today."
            return OfferReply(wish=Wish.DAY_FULL, known=told, retry_s=left_s, text=text)
        return OfferReply(wish=Wish.WANTED, wanted=wanted, known=told)

    def _not_wanted(self, dataset: str) -> OfferReply:
        return OfferReply(
            wish=Wish.NOT_WANTED,
            retry_s=self._settings.not_wanted_s,
            text=f"The hub takes no samples of this device for {dataset}.",
        )

    def _is_open_to(self, collection: Collection, device: DeviceId) -> bool:
        return collection.is_open and collection.group in self._devices.get(device).groups

    def _kind_of(self, dataset: DatasetName) -> tuple[SampleKind | None, tuple[int, ...]]:
        """Return what a dataset's items are, where it has some."""
        try:
            newest = self._datasets.get(dataset).newest
        except RefusedError:
            return None, ()
        if newest is None:
            return None, ()
        found = self._datasets.get(dataset).kind
        shape = self._datasets.manifest(newest).window_shape if found is ItemKind.WINDOW else ()
        return SampleKind(found.value), tuple(shape)

    def _is_there(self, name: str) -> bool:
        return any(each.name == name and each.newest is not None for each in self._datasets.list())

    def _forget(self, name: str, waiting: tuple[Arrival, ...], version: int) -> None:
        """Say which version has these, then remove their bytes."""
        with self._writing:
            with self._database.begin() as connection:
                digests = [arrival.digest for arrival in waiting]
                sql_store.set_version(connection, name, digests, version)
            try:
                self._remove_unnamed()
            except IsthmusError as error:  # The version is there; they go with the next sweep.
                log.warning("collection.sweep_put_off", extra={"code": error.code})

    def _remove_unnamed(self) -> None:
        with self._database.read() as connection:
            named = sql_store.waiting_digests(connection)
        self._files.keep(named)


def _as_many(items: Iterable[OfferedItem], count_max: int, bytes_max: int) -> tuple[str, ...]:
    """Return the digests of as many items as fit, each once, the first ones first."""
    wanted: dict[str, None] = {}
    for item in items:
        if len(wanted) < count_max and item.bytes_count <= bytes_max and item.digest not in wanted:
            bytes_max -= item.bytes_count
            wanted[item.digest] = None
    return tuple(wanted)


def _required(found: Collection | None, name: str) -> Collection:
    if found is None:
        raise RefusedError(
            "collection.unknown",
            f"The dataset {name[:63]!r} was never open to devices.",
            remedy="Open it: cloud-hub datasets collect NAME --group GROUP.",
        )
    return found


def _arrival(device: DeviceId, item: SharedItem, at_ms: int) -> Arrival:
    return Arrival(
        dataset=DatasetName(item.dataset),
        digest=item.digest,
        device=device,
        bytes_count=len(item.data),
        label=item.label,
        captured_ms=item.captured_ms,
        site=item.site,
        group=item.group,
        arrived_ms=at_ms,
        version=None,
    )
