"""The process that makes a version of a dataset: `python -m … FOLDER`, see making.py.

Sources come from strangers: archives are unpacked, files parsed and pictures decoded here, with
limits on memory and processor time, never in the hub.

1. Items go into packs as they come; whoever is killed leaves packs that nobody names.
2. Order of writing: packs, report, manifest, `made.json`.
3. It ends by itself when the hub that started it is gone.
"""

import os
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import cv2
import msgspec

from cloud_hub.datasets.cleaning import Cleaner
from cloud_hub.datasets.cleaning_facts import Facts
from cloud_hub.datasets.file_archive import unpack
from cloud_hub.datasets.intake import Intake
from cloud_hub.datasets.making import (
    MADE,
    ORDER,
    ImportOrder,
    Made,
    Order,
    Problem,
    ResplitOrder,
    report_path,
)
from cloud_hub.datasets.manifest import (
    ITEM_BYTES_MAX,
    MANIFEST_BYTES_MAX,
    Item,
    ItemKind,
    Manifest,
    Part,
    encode_manifest,
    manifest_path,
)
from cloud_hub.datasets.manifest_facts import facts_of as facts_of_manifest
from cloud_hub.datasets.object_packs import PackWriter, read_manifest
from cloud_hub.datasets.opencv_facts import facts_of
from cloud_hub.datasets.part_choice import choose_parts, with_parts
from cloud_hub.datasets.raw_item import Broken, RawItem, Reader
from cloud_hub.datasets.readers.file_detect import detect, open_source
from cloud_hub.datasets.splits import by_of, rule_text, split
from cloud_hub.datasets.window_statistics import channel_statistics
from cloud_hub.object_store import ObjectStore
from cloud_hub.process_limits import limit_this_process
from shared.errors import ContractError, IsthmusError
from shared.release.digest import digest_of

THREADS_MAX = 4
CHUNK_ITEMS = 256
CHUNK_BYTES_MAX = 32 << 20  # Two such chunks are held: one read, one decoded
PIECE_ITEMS = 32  # Decoded by one thread before it asks for more
UNPACKED = "unpacked"  # In the folder of the order

Checked = tuple[RawItem | Broken, Facts | str]


def main() -> None:
    """Carry out the order in the folder named on the command line."""
    folder = Path(sys.argv[1])
    order = msgspec.json.decode((folder / ORDER).read_bytes(), type=Order)
    limit_this_process(order.memory_bytes_max, order.seconds_max)
    try:
        made = _make(order, folder)
    except IsthmusError as error:
        made = _failed(error, folder)
    except MemoryError:
        made = _failed(
            ContractError(
                "dataset.memory",
                "The source needs more memory than an import may use.",
                remedy="Import smaller files, or raise datasets.import_memory_bytes_max.",
            ),
            folder,
        )
    (folder / MADE).write_bytes(msgspec.json.encode(made))


def _make(order: Order, folder: Path) -> Made:
    objects = ObjectStore(order.objects)
    match order:
        case ImportOrder():
            return _import(objects, order, folder)
        case ResplitOrder():
            return _resplit(objects, order)


def _import(objects: ObjectStore, order: ImportOrder, folder: Path) -> Made:
    source = Path(order.source)
    if order.is_archive:
        (folder / UNPACKED).mkdir()
        source = unpack(source, folder / UNPACKED, bytes_max=order.bytes_max)
    old = read_manifest(objects, order.base) if order.base is not None else None
    layout = order.rule.layout or detect(source)
    reader = open_source(source, layout=layout, options=order.rule.options)
    _check_same(reader, old)
    cleaner = Cleaner(
        reader.kind, classes=reader.classes, channels=(reader.window_shape or (0, 0))[1]
    )
    intake = Intake(
        PackWriter(objects),
        old,
        list(reader.classes),
        bytes_max=order.bytes_max,
        keeps_duplicates=order.rule.keeps_duplicates,
    )
    seen = _take_all(reader, cleaner, intake)
    if not intake.waiting and not intake.duplicates_count:
        raise ContractError(
            "dataset.empty",
            f"Read as {layout}, the source has no item that can be used.",
            remedy="Name its layout, or look into the source.",
        )
    manifest = _manifest(order, reader, intake, old, objects)
    parts = {item.digest: item.part for item in manifest.items}
    report = cleaner.report([parts[digest] for digest in seen])
    broken = report.broken_count
    made = _put(objects, manifest, msgspec.json.encode(report))
    return msgspec.structs.replace(
        made,
        layout=str(layout),
        added_count=len(intake.waiting),
        broken_count=broken,
        duplicates_count=intake.duplicates_count,
    )


def _take_all(reader: Reader, cleaner: Cleaner, intake: Intake) -> list[str]:
    """Read, check and keep every item; return the digests of those that can be used."""
    seen: list[str] = []
    parent = os.getppid()
    for raw, facts in _checked(reader):
        if os.getppid() != parent:
            raise SystemExit("The hub that started this is gone.")
        if isinstance(raw, Broken):
            cleaner.see_broken(raw)
        elif isinstance(facts, str):
            cleaner.see_broken(Broken(raw.name, facts))
        else:
            digest = digest_of(raw.data)
            cleaner.see(raw, digest, facts)
            intake.take(raw, digest)
            seen.append(digest)
    return seen


def _checked(reader: Reader) -> Iterator[Checked]:
    """Yield every item with its facts, in the reader's order.

    Threads decode some while the next ones are read.
    """

    def check(raw: RawItem | Broken) -> Checked:
        if isinstance(raw, Broken):
            return raw, ""
        if not 0 < len(raw.data) <= ITEM_BYTES_MAX:
            return raw, f"is empty or over {ITEM_BYTES_MAX} bytes"
        return raw, facts_of(reader.kind, raw.data, reader.window_shape)

    cv2.setNumThreads(1)
    with ThreadPoolExecutor(min(THREADS_MAX, len(os.sched_getaffinity(0)))) as pool:
        pending: list[Future[list[Checked]]] = []
        for chunk in _chunks(reader):
            pieces = [chunk[i : i + PIECE_ITEMS] for i in range(0, len(chunk), PIECE_ITEMS)]
            coming = [pool.submit(lambda piece: list(map(check, piece)), p) for p in pieces]
            for future in pending:
                yield from future.result()
            pending = coming
        for future in pending:
            yield from future.result()


def _chunks(reader: Reader) -> Iterator[list[RawItem | Broken]]:
    chunk: list[RawItem | Broken] = []
    bytes_count = 0
    for raw in reader.items():
        chunk.append(raw)
        bytes_count += len(raw.data) if isinstance(raw, RawItem) else 0
        if len(chunk) == CHUNK_ITEMS or bytes_count >= CHUNK_BYTES_MAX:
            yield chunk
            chunk, bytes_count = [], 0
    yield chunk


def _manifest(
    order: ImportOrder,
    reader: Reader,
    intake: Intake,
    old: Manifest | None,
    objects: ObjectStore,
) -> Manifest:
    new = intake.finish()
    old_items = old.items if old is not None else ()
    rule = order.rule.split_rule()
    if old is not None and order.rule.split_by is None:
        # What the version keeps together stays together, new items included.
        rule = msgspec.structs.replace(rule, by=by_of(old.split_rule))
    parts, text = choose_parts(
        old_items,
        new,
        intake.said,
        rule,
        takes_said=order.rule.split_by is None,
    )
    items = (*old_items, *with_parts(new, parts))
    shape = tuple(reader.window_shape)
    means, deviations = _statistics(objects, reader.kind, items, shape)
    return Manifest(
        dataset=order.dataset,
        kind=reader.kind,
        classes=tuple(intake.classes),
        items=items,
        window_shape=shape,
        split_rule=old.split_rule if old is not None else text,
        channel_means=means,
        channel_deviations=deviations,
    )


def _resplit(objects: ObjectStore, order: ResplitOrder) -> Made:
    old = read_manifest(objects, order.base)
    items = with_parts(old.items, split(old.items, order.rule))
    means, deviations = _statistics(objects, old.kind, items, old.window_shape)
    manifest = msgspec.structs.replace(
        old,
        items=items,
        split_rule=rule_text(order.rule),
        channel_means=means,
        channel_deviations=deviations,
    )
    return _put(objects, manifest, objects.get(report_path(order.base)))


def _statistics(
    objects: ObjectStore, kind: ItemKind, items: tuple[Item, ...], shape: tuple[int, ...]
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    if kind is not ItemKind.WINDOW:
        return (), ()
    return channel_statistics(objects, [i for i in items if i.part is Part.TRAIN], shape)


def _check_same(reader: Reader, old: Manifest | None) -> None:
    if old is None:
        return
    if (reader.kind, tuple(reader.window_shape)) != (old.kind, old.window_shape):
        raise ContractError(
            "dataset.kind",
            f"The source holds {reader.kind} items {tuple(reader.window_shape)}, the dataset "
            f"{old.kind} items {old.window_shape}.",
            remedy="Import it as a dataset of its own.",
        )


def _put(objects: ObjectStore, manifest: Manifest, report: bytes | None) -> Made:
    data = encode_manifest(manifest)
    if len(data) > MANIFEST_BYTES_MAX:
        raise ContractError(
            "dataset.too_many",
            f"The list of items would be over {MANIFEST_BYTES_MAX} bytes.",
            remedy="Import the source as several datasets.",
        )
    digest = digest_of(data)
    if report is not None:
        objects.put(report_path(digest), report)
    objects.put(manifest_path(digest), data)
    return Made(facts=facts_of_manifest(manifest, digest))


def _failed(error: IsthmusError, folder: Path) -> Made:
    """Return an error as it is told; paths within the hub's own folder say nothing to people."""
    text = error.message
    for inner in (folder / UNPACKED, folder):
        text = text.replace(f"{inner}/", "").replace(str(inner), "The source")
    return Made(problem=Problem(type(error).__name__, error.code, text, error.remedy))


if __name__ == "__main__":
    main()
