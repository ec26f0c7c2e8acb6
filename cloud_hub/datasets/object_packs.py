"""Packs: items' bytes in the object store, many in one object, each read back checked.

1. A pack is named by its SHA-256 and never changes; it is put before the manifest that names it.
2. Whoever is killed in between leaves packs that no manifest names: `orphans` finds them.
3. Bytes are given out only when their SHA-256 is what the manifest says.
"""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from cloud_hub.datasets.manifest import (
    FOLDER,
    PACK_BYTES_MAX,
    Item,
    Manifest,
    decode_manifest,
    manifest_path,
    pack_path,
)
from cloud_hub.object_store import ObjectStore
from shared.errors import IntegrityError
from shared.release.digest import digest_of

PACKS = f"{FOLDER}/packs"


@dataclass(frozen=True, slots=True)
class Place:
    """Where an item's bytes lie: in which of the packs that were written, and where in it."""

    pack_index: int
    start: int
    bytes_count: int


class PackWriter:
    """Takes items one after the other; holds at most one pack in memory. For one thread."""

    def __init__(self, objects: ObjectStore, *, pack_bytes_max: int = PACK_BYTES_MAX) -> None:
        self._objects = objects
        self._pack_bytes_max = pack_bytes_max
        self._open = bytearray()
        self._packs: list[str] = []
        self._places: dict[bytes, Place] = {}

    def add(self, data: bytes, digest: str) -> Place:
        """Take an item and its SHA-256; the same bytes are kept once. Raises TransientError."""
        key = bytes.fromhex(digest)
        found = self._places.get(key)
        if found is not None:
            return found
        if self._open and len(self._open) + len(data) > self._pack_bytes_max:
            self._put()
        place = Place(len(self._packs), len(self._open), len(data))
        self._open += data
        self._places[key] = place
        return place

    def finish(self) -> tuple[str, ...]:
        """Put what is left; return every pack's digest, by `pack_index`. Raises TransientError."""
        if self._open:
            self._put()
        return tuple(self._packs)

    def _put(self) -> None:
        data = bytes(self._open)
        digest = digest_of(data)
        self._objects.put(pack_path(digest), data)
        self._packs.append(digest)
        self._open = bytearray()


def read_item(objects: ObjectStore, item: Item) -> bytes:
    """Return an item's bytes. Raises IntegrityError `dataset.damaged`, TransientError."""
    found = objects.get_range(
        pack_path(item.pack), start=item.start, end=item.start + item.bytes_count
    )
    return checked(item, found.data if found is not None else b"")


def checked(item: Item, data: bytes | memoryview) -> bytes:
    """Return an item's bytes if they are its own. Raises IntegrityError `dataset.damaged`."""
    if hashlib.sha256(data).hexdigest() != item.digest:
        raise IntegrityError(
            "dataset.damaged",
            f"The item {item.name!r} ({item.digest[:12]}) is not what was imported, or gone.",
            remedy="Put the object store back from a backup, or import the dataset again.",
        )
    return bytes(data)


@dataclass(frozen=True, slots=True)
class PackPiece:
    """Some bytes of a pack, and the items that lie there."""

    start: int
    data: bytes
    indices: tuple[int, ...]

    def item(self, item: Item) -> bytes:
        """Return the bytes of one of its items. Raises IntegrityError `dataset.damaged`."""
        start = item.start - self.start
        return checked(item, memoryview(self.data)[start : start + item.bytes_count])


def pack_pieces(objects: ObjectStore, items: Sequence[Item]) -> Iterator[PackPiece]:
    """Yield packs with the items in them, each fetched while the one before is used.

    Raises TransientError; a pack that is gone is empty, and its items are found damaged.
    """
    by_pack: dict[str, list[int]] = defaultdict(list)
    for index, item in enumerate(items):
        by_pack[item.pack].append(index)

    def fetch(digest: str) -> PackPiece:
        indices = by_pack[digest]
        start = min(items[index].start for index in indices)
        end = max(items[index].start + items[index].bytes_count for index in indices)
        found = objects.get_range(pack_path(digest), start=start, end=end)
        return PackPiece(start, b"" if found is None else found.data, tuple(indices))

    with ThreadPoolExecutor(1) as pool:
        pending: Future[PackPiece] | None = None
        for digest in by_pack:
            coming = pool.submit(fetch, digest)
            if pending is not None:
                yield pending.result()
            pending = coming
        if pending is not None:
            yield pending.result()


def read_manifest(objects: ObjectStore, digest: str) -> Manifest:
    """Return a version's manifest. Raises IntegrityError `dataset.damaged`, TransientError."""
    return decode_manifest(objects.get(manifest_path(digest)) or b"", digest=digest)


def packs_of(manifest: Manifest) -> set[str]:
    """Return the packs that a manifest names."""
    return {item.pack for item in manifest.items}


def orphans(objects: ObjectStore, named: Iterable[str]) -> tuple[str, ...]:
    """Return the packs that are there and not `named`: what imports that died have left."""
    there = {path.rsplit("/", 1)[-1] for path in objects.paths(PACKS)}
    return tuple(sorted(there - set(named)))
