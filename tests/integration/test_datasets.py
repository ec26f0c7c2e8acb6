"""Datasets: what comes in, what it becomes, and what is left of what was removed."""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import msgspec
import numpy as np
import pytest

from cloud_hub.datasets.item_page import ItemFilter
from cloud_hub.datasets.making import ImportRule
from cloud_hub.datasets.manifest import Item, ItemKind, Part, pack_path
from cloud_hub.datasets.object_packs import packs_of
from cloud_hub.datasets.opencv_arrays import load_arrays
from cloud_hub.datasets.raw_item import RawBox
from cloud_hub.datasets.readers.options import SourceLayout
from cloud_hub.datasets.service import DatasetService
from cloud_hub.datasets.settings import DatasetSettings
from cloud_hub.datasets.splits import SplitBy, SplitRule, check_leaks
from cloud_hub.object_store import ObjectStore
from cloud_hub.sql_database import Database
from shared.errors import ContractError, IntegrityError, IsthmusError, RefusedError
from shared.model.spec import ModelSpec, parse_spec
from tests.support.manual_clock import ManualClock
from tests.support.s3_server import S3Server
from tests.support.shape_sources import (
    CLASSES,
    SIDE,
    picture,
    tarred,
    write_pictures,
    write_windows,
    zipped,
)

pytestmark = pytest.mark.slow  # What comes in is read by a process of its own.


# What does not differ between databases is seen once.
only_sqlite = pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)


class Shelf:
    """A service with its folders."""

    def __init__(
        self, database: Database, folder: Path, settings: DatasetSettings | None = None
    ) -> None:
        self.folder = folder
        self.objects = ObjectStore(str(folder / "objects"))
        self.service = DatasetService(
            database, self.objects, ManualClock(), settings, folder=folder / "datasets"
        )
        self.service.open()

    def files(self) -> set[str]:
        """Return every object there is."""
        return set(self.objects.paths("datasets"))

    def work(self) -> list[Path]:
        return list((self.folder / "datasets" / "work").iterdir())


@pytest.fixture
def shelf(database: Database, tmp_path: Path) -> Shelf:
    return Shelf(database, tmp_path)


def image_spec(*classes: str, **changes: object) -> ModelSpec:
    spec = parse_spec(
        b"""
model = "shapes"
task = "classification"
input = {kind = "image", width = 8, height = 8}
output = {decoder = "logits", classes = ["circle"]}
"""
    )
    output = msgspec.structs.replace(spec.output, classes=classes)
    return msgspec.structs.replace(spec, output=output, **changes)


def code_of(error: pytest.ExceptionInfo[IsthmusError]) -> str:
    return error.value.code


def test_a_zip_of_class_folders_becomes_a_version_that_can_be_loaded(
    shelf: Shelf, tmp_path: Path
) -> None:
    folder = write_pictures(tmp_path / "shapes")
    (folder / "circle" / "0000-copy.png").write_bytes(picture(0))
    (folder / "circle" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    cut = picture(7)
    (folder / "square" / "cut.png").write_bytes(cut[: len(cut) // 2])
    (folder / "square" / "empty.png").write_bytes(b"")
    imported = shelf.service.import_file("shapes", zipped(folder, tmp_path / "s.zip"), by="anna")

    version = imported.version
    assert (version.version, version.parent, version.created_by) == (1, None, "anna")
    assert (version.items_count, version.labelled_count) == (40, 40)
    assert imported.duplicates_count == 1
    assert imported.broken_count >= 2
    assert version.counts_by_class == {"circle": 20, "square": 20}
    assert version.counts_by_part == {Part.TRAIN: 28, Part.VALIDATION: 6, Part.TEST: 6}
    report = shelf.service.report(version)
    assert report is not None
    assert report.broken_count == imported.broken_count
    manifest = shelf.service.manifest(version)
    check_leaks(manifest.items)

    # The model's classes stand in another order than the dataset's: they meet by name.
    arrays = load_arrays(shelf.objects, manifest, image_spec("square", "circle"))
    assert arrays.items.shape == (40, 8, 8, 3)
    for index, item in enumerate(manifest.items):
        data = np.frombuffer(shelf.service.item_bytes(manifest, index), np.uint8)
        pixels = cv2.imdecode(data, cv2.IMREAD_COLOR)
        wanted = cv2.resize(pixels, (8, 8), interpolation=cv2.INTER_LINEAR)
        assert (arrays.items[index] == wanted).all()
        label = item.label
        assert label is not None
        assert arrays.labels[index] == 1 - label
        assert item.name.startswith(manifest.classes[label])
    assert shelf.work() == []


@only_sqlite
def test_the_same_source_again_is_the_same_version_whatever_it_is_packed_in(
    shelf: Shelf, tmp_path: Path
) -> None:
    folder = write_pictures(tmp_path / "shapes", count=4)
    first = shelf.service.import_file("shapes", zipped(folder, tmp_path / "s.zip"), by="anna")
    again = shelf.service.import_file("shapes", tarred(folder, tmp_path / "s.tar.gz"), by="bob")
    assert again.version == first.version
    assert len(shelf.service.versions("shapes")) == 1


@only_sqlite
def test_items_that_are_added_join_what_is_there_and_old_ones_keep_their_parts(
    shelf: Shelf, tmp_path: Path
) -> None:
    service = shelf.service
    old = service.import_file("shapes", write_pictures(tmp_path / "a"), by="anna").version
    more = write_pictures(tmp_path / "b", count=10, first=50)
    (more / "circle" / "known.png").write_bytes(picture(0))
    (more / "triangle").mkdir()
    (more / "triangle" / "new.png").write_bytes(picture(999))
    added = service.import_file("shapes", more, by="bob", is_added=True)
    assert (added.added_count, added.duplicates_count) == (21, 1)
    new = added.version
    assert (new.version, new.parent, new.lineage_id) == (2, 1, old.lineage_id)
    before, after = service.manifest(old).items, service.manifest(new).items
    assert after[:40] == before
    assert service.manifest(new).classes == (*CLASSES, "triangle")
    check_leaks(after)
    with pytest.raises(RefusedError) as caught:
        service.import_file("nothing", more, by="bob", is_added=True)
    assert code_of(caught) == "dataset.unknown"
    windows = write_windows(tmp_path / "w.csv")
    rule = _windows_rule()
    with pytest.raises(ContractError) as refused:
        service.import_file("shapes", windows, rule, by="bob", is_added=True)
    assert code_of(refused) == "dataset.kind"


def _windows_rule(**changes: object) -> ImportRule:
    return msgspec.convert(
        {"layout": "csv", "options": {"window": 4, "value_columns": ["x", "y"]}, **changes},
        ImportRule,
    )


@only_sqlite
def test_windows_are_scaled_by_their_training_part_and_devices_stay_whole(
    shelf: Shelf, tmp_path: Path
) -> None:
    rule = _windows_rule(split_by="device", train=0.5, validation=0.25, test=0.25)
    table = write_windows(tmp_path / "shaft.csv")
    version = shelf.service.import_file("shaft", table, rule, by="anna").version
    manifest = shelf.service.manifest(version)
    assert (manifest.kind, manifest.window_shape) == (ItemKind.WINDOW, (4, 2))
    parts_by_device: dict[str, set[Part]] = {}
    for item in manifest.items:
        parts_by_device.setdefault(item.device, set()).add(item.part)
    assert len(parts_by_device) == 4
    assert all(len(parts) == 1 for parts in parts_by_device.values())
    _check_statistics(shelf, manifest.items, manifest.channel_means, manifest.channel_deviations)

    other = shelf.service.resplit("shaft", SplitRule(by=SplitBy.DEVICE, seed=3), by="bob")
    moved = shelf.service.manifest(other)
    assert (other.version, other.parent, other.lineage_id) == (2, 1, version.lineage_id)
    assert [i.digest for i in moved.items] == [i.digest for i in manifest.items]
    _check_statistics(shelf, moved.items, moved.channel_means, moved.channel_deviations)


def _check_statistics(
    shelf: Shelf, items: tuple[Item, ...], means: tuple[float, ...], deviations: tuple[float, ...]
) -> None:
    training = [
        np.frombuffer(
            shelf.objects.get_range(  # type: ignore[union-attr]  # It is there
                pack_path(item.pack), start=item.start, end=item.start + item.bytes_count
            ).data,
            "<f4",
        ).reshape(4, 2)
        for item in items
        if item.part is Part.TRAIN
    ]
    rows = np.concatenate(training).astype(np.float64)
    assert np.allclose(means, rows.mean(axis=0), rtol=1e-9)
    assert np.allclose(deviations, rows.std(axis=0), rtol=1e-6)


def test_labels_make_another_version_and_the_old_one_stays(shelf: Shelf, tmp_path: Path) -> None:
    service = shelf.service
    first = service.import_file(
        "shapes", write_pictures(tmp_path / "a", count=4), by="anna"
    ).version
    items = service.manifest(first).items
    changes = {
        items[0].digest: "oval",
        items[1].digest: None,
        items[2].digest: (RawBox("circle", 0.1, 0.2, 0.5, 0.75), RawBox("oval", 0, 0, 1, 1)),
    }
    second = service.relabel("shapes", changes, by="bob")
    assert (second.version, second.parent, second.note) == (2, 1, "3 labels by bob")
    manifest = service.manifest(second)
    assert manifest.classes == (*CLASSES, "oval")
    assert manifest.items[0].label == 2
    assert manifest.items[1].label is None
    assert [box.class_index for box in manifest.items[2].boxes or ()] == [0, 2]
    assert service.manifest(service.version("shapes", 1)).items == items
    assert second.labelled_count == 7
    page = service.items(second, ItemFilter(is_labelled=False))
    assert [index for index, _ in page.items] == [1]
    # What changes nothing is no version.
    assert service.relabel("shapes", {items[1].digest: None}, by="bob") == second
    for bad, code in (
        ({"0" * 64: "oval"}, "dataset.item"),
        ({items[0].digest: "\x00"}, "dataset.label"),
        ({items[0].digest: (RawBox("oval", 0.5, 0.5, 0.5, 0.5),)}, "dataset.label"),
    ):
        with pytest.raises(ContractError) as caught:
            service.relabel("shapes", bad, by="bob")
        assert code_of(caught) == code


def test_two_people_who_label_at_once_lose_nothing(shelf: Shelf, tmp_path: Path) -> None:
    service = shelf.service
    version = service.import_file(
        "shapes", write_pictures(tmp_path / "a", count=4), by="anna"
    ).version
    items = service.manifest(version).items
    threads = [
        threading.Thread(
            target=service.relabel,
            args=("shapes", {item.digest: f"class {number}"}),
            kwargs={"by": "bob"},
        )
        for number, item in enumerate(items)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    newest = service.version("shapes")
    assert newest.version == 1 + len(items)
    manifest = service.manifest(newest)
    labels = [manifest.classes[item.label or 0] for item in manifest.items]
    assert labels == [f"class {number}" for number in range(len(items))]


def test_what_is_removed_takes_only_what_nobody_else_needs(shelf: Shelf, tmp_path: Path) -> None:
    service = shelf.service
    folder = write_pictures(tmp_path / "a", count=4)
    service.import_file("shapes", folder, by="anna")
    other = service.import_file("copy", folder, by="anna").version
    more = service.import_file(
        "shapes", write_pictures(tmp_path / "b", count=3, first=70), by="bob", is_added=True
    ).version
    packs = packs_of(service.manifest(more)) - packs_of(service.manifest(other))
    assert packs
    assert {pack_path(pack) for pack in packs} <= shelf.files()
    service.remove("shapes", 2)
    assert not {pack_path(pack) for pack in packs} & shelf.files()
    assert service.version("shapes").version == 1
    # A number is never given again.
    again = service.import_file(
        "shapes", write_pictures(tmp_path / "c", count=3, first=90), by="bob", is_added=True
    ).version
    assert (again.version, again.parent) == (3, 1)
    service.remove("shapes", None)
    manifest = service.manifest(other)
    assert [service.item_bytes(manifest, index) for index in range(8)]
    with pytest.raises(RefusedError) as caught:
        service.get("shapes")
    assert code_of(caught) == "dataset.unknown"
    service.remove("copy", 1)
    assert shelf.files() == set()
    assert service.get("copy").newest is None
    with pytest.raises(RefusedError) as gone:
        service.version("copy")
    assert code_of(gone) == "dataset_version.unknown"


def test_limits_are_told_by_their_names(database: Database, tmp_path: Path) -> None:
    settings = DatasetSettings(datasets_max=1, versions_max=2, bytes_max=1 << 20)
    service = Shelf(database, tmp_path, settings).service
    service.import_file("shapes", write_pictures(tmp_path / "a", count=3), by="anna")
    with pytest.raises(RefusedError) as caught:
        service.import_file("others", tmp_path / "a", by="anna")
    assert code_of(caught) == "dataset.too_many"
    big = tmp_path / "big"
    big.mkdir()
    for index in range(3):
        (big / f"{index}.png").write_bytes(picture(500 + index, side=400))
    with pytest.raises(RefusedError) as full:
        service.import_file("shapes", big, by="anna", is_added=True)
    assert code_of(full) == "dataset.full"
    item = service.manifest(service.version("shapes")).items[0]
    service.relabel("shapes", {item.digest: "other"}, by="anna")
    with pytest.raises(RefusedError) as versions:
        service.relabel("shapes", {item.digest: "third"}, by="anna")
    assert code_of(versions) == "dataset.too_many"


@only_sqlite
def test_folders_of_this_machine_are_read_only_below_those_that_are_named(
    database: Database, tmp_path: Path
) -> None:
    root = tmp_path / "allowed"
    write_pictures(root / "shapes", count=3)
    outside = write_pictures(tmp_path / "outside", count=3)
    (root / "way-out").symlink_to(outside)
    service = Shelf(database, tmp_path, DatasetSettings(import_roots=(str(root),))).service
    done = service.import_folder("shapes", str(root / "shapes"), by="anna")
    assert done.added_count == 6
    for path in (outside, root / "way-out", root / ".." / "outside", root / "nothing", "\x00"):
        with pytest.raises(RefusedError) as caught:
            service.import_folder("other", str(path), by="anna")
        assert code_of(caught) == "dataset.root"


@only_sqlite
def test_damaged_bytes_are_never_given_out(shelf: Shelf, tmp_path: Path) -> None:
    service = shelf.service
    folder = write_pictures(tmp_path / "a", count=3)
    version = service.import_file("shapes", folder, by="anna").version
    manifest = service.manifest(version)
    pack = pack_path(manifest.items[0].pack)
    data = bytearray(shelf.objects.get(pack) or b"")
    data[manifest.items[2].start + 5] ^= 1
    shelf.objects.put(pack, bytes(data))
    assert service.item_bytes(manifest, 0)
    with pytest.raises(IntegrityError) as caught:
        service.item_bytes(manifest, 2)
    assert code_of(caught) == "dataset.damaged"
    with pytest.raises(IntegrityError, match=manifest.items[2].name):
        load_arrays(shelf.objects, manifest, image_spec(*CLASSES))
    shelf.objects.delete(pack)
    with pytest.raises(IntegrityError):
        load_arrays(shelf.objects, manifest, image_spec(*CLASSES))


@only_sqlite
def test_decoded_items_are_kept_checked_and_made_again(shelf: Shelf, tmp_path: Path) -> None:
    folder = write_pictures(tmp_path / "a", count=5)
    manifest = shelf.service.manifest(
        shelf.service.import_file("shapes", folder, by="anna").version
    )
    spec, cache = image_spec(*CLASSES), tmp_path / "cache"
    fresh = load_arrays(shelf.objects, manifest, spec)
    cold = load_arrays(shelf.objects, manifest, spec, cache=cache)
    assert (cold.items == fresh.items).all()
    (entry,) = cache.iterdir()
    for path in list(shelf.files()):
        shelf.objects.delete(path)  # What is cached needs no packs any more
    warm = load_arrays(shelf.objects, manifest, spec, cache=cache)
    assert isinstance(warm.items, np.memmap)
    warm.items[0] = 0  # Changes nobody else's
    assert (load_arrays(shelf.objects, manifest, spec, cache=cache).items == fresh.items).all()
    # Other labels and classes of the same items find the same entry.
    mirrored = load_arrays(shelf.objects, manifest, image_spec(*reversed(CLASSES)), cache=cache)
    assert (mirrored.labels == 1 - fresh.labels).all()
    file = entry / "items.npy"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(IntegrityError):  # It is found damaged, and there is nothing to make it of
        load_arrays(shelf.objects, manifest, spec, cache=cache)
    shelf.service.import_file("again", folder, by="anna")
    assert (load_arrays(shelf.objects, manifest, spec, cache=cache).items == fresh.items).all()
    assert [path.name for path in cache.iterdir()] == [entry.name]


@only_sqlite
def test_several_who_decode_the_same_at_once_all_get_it(shelf: Shelf, tmp_path: Path) -> None:
    folder = write_pictures(tmp_path / "a", count=10)
    manifest = shelf.service.manifest(
        shelf.service.import_file("shapes", folder, by="anna").version
    )
    spec, cache = image_spec(*CLASSES), tmp_path / "cache"
    wanted = load_arrays(shelf.objects, manifest, spec).items
    with ThreadPoolExecutor(6) as pool:
        futures = [
            pool.submit(load_arrays, shelf.objects, manifest, spec, cache=cache) for _ in range(12)
        ]
        assert all((future.result().items == wanted).all() for future in futures)
    (entry,) = cache.iterdir()
    assert not entry.name.startswith("tmp-")


@only_sqlite
def test_items_of_a_known_device_join_its_part_without_being_told(
    shelf: Shelf, tmp_path: Path
) -> None:
    rule = _windows_rule(split_by="device", train=0.5, validation=0.25, test=0.25)
    table = write_windows(tmp_path / "shaft.csv")
    first = shelf.service.import_file("shaft", table, rule, by="anna").version
    more = write_windows(tmp_path / "more.csv", seed=1)
    added = shelf.service.import_file("shaft", more, _windows_rule(), by="bob", is_added=True)
    assert added.added_count == 40
    parts_by_device: dict[str, set[Part]] = {}
    for item in shelf.service.manifest(added.version).items:
        parts_by_device.setdefault(item.device, set()).add(item.part)
    assert all(len(parts) == 1 for parts in parts_by_device.values())
    doubled = {part: 2 * count for part, count in first.counts_by_part.items()}
    assert added.version.counts_by_part == doubled


@only_sqlite
def test_boxes_meet_the_model_in_its_own_input(shelf: Shelf, tmp_path: Path) -> None:
    folder = tmp_path / "wide"
    folder.mkdir()
    pixels = np.full((10, 20, 3), 200, np.uint8)
    (folder / "wide.png").write_bytes(cv2.imencode(".png", pixels)[1].tobytes())
    (folder / "other.png").write_bytes(picture(3, side=SIDE))
    (folder / "third.png").write_bytes(picture(4, side=SIDE))
    service = shelf.service
    manifest = service.manifest(service.import_file("boxes", folder, by="anna").version)
    index = next(i for i, item in enumerate(manifest.items) if "wide" in item.name)
    box = (RawBox("thing", 0.25, 0.0, 0.75, 1.0),)
    version = service.relabel("boxes", {manifest.items[index].digest: box}, by="anna")
    spec = parse_spec(
        b"""
model = "finder"
task = "detection"
input = {kind = "image", width = 8, height = 8, resize = "letterbox"}
output = {decoder = "yolo", classes = ["other", "thing"]}
"""
    )
    arrays = load_arrays(shelf.objects, service.manifest(version), spec)
    assert arrays.boxes is not None
    found = arrays.boxes[index]
    assert found is not None
    assert found.classes.tolist() == [1]
    # 20 x 10 lies in the middle half of 8 x 8.
    assert np.allclose(found.corners, [[0.25, 0.25, 0.75, 0.75]])
    assert arrays.labels.tolist() == [0 if i == index else -1 for i in range(3)]
    assert all((boxes is None) == (i != index) for i, boxes in enumerate(arrays.boxes))


@only_sqlite
def test_a_model_that_cannot_take_the_items_is_told_why(shelf: Shelf, tmp_path: Path) -> None:
    manifest = shelf.service.manifest(
        shelf.service.import_file("shapes", write_pictures(tmp_path / "a"), by="anna").version
    )
    with pytest.raises(ContractError, match="'square'") as caught:
        load_arrays(shelf.objects, manifest, image_spec("circle"))
    assert code_of(caught) == "dataset.classes"
    windows = parse_spec(
        b"""
model = "shaft"
task = "classification"
input = {kind = "window", samples = 8, channels = 2}
output = {decoder = "logits", classes = ["circle", "square"]}
"""
    )
    with pytest.raises(ContractError) as kind:
        load_arrays(shelf.objects, manifest, windows)
    assert code_of(kind) == "dataset.kind"
    shaft = shelf.service.manifest(
        shelf.service.import_file(
            "shaft", write_windows(tmp_path / "w.csv"), _windows_rule(), by="anna"
        ).version
    )
    with pytest.raises(ContractError) as shape:
        load_arrays(shelf.objects, shaft, windows)
    assert code_of(shape) == "dataset.shape"


@only_sqlite
def test_texts_are_loaded_as_the_tokens_a_model_takes(shelf: Shelf, tmp_path: Path) -> None:
    folder = tmp_path / "notes"
    for name, texts in (("good", ("fine", "all is well", "ok")), ("bad", ("it grinds", "Lärm"))):
        (folder / name).mkdir(parents=True)
        for index, text in enumerate(texts):
            (folder / name / f"{index}.txt").write_text(text)
    rule = ImportRule(layout=SourceLayout.TEXT, split_by=SplitBy.ITEM)
    version = shelf.service.import_file("notes", folder, rule, by="anna").version
    spec = parse_spec(
        b"""
model = "notes"
task = "classification"
input = {kind = "text", length = 6}
output = {decoder = "logits", classes = ["good", "bad"]}
"""
    )
    manifest = shelf.service.manifest(version)
    arrays = load_arrays(shelf.objects, manifest, spec, cache=tmp_path / "cache")
    assert (arrays.items.dtype, arrays.items.shape) == (np.int64, (5, 6))
    found = {
        bytes(int(token) - 1 for token in row if token): label
        for row, label in zip(arrays.items, arrays.labels.tolist(), strict=True)
    }
    wanted = {b"fine": 0, b"all is": 0, b"ok": 0, b"it gri": 1, "Lärm".encode(): 1}
    assert found == wanted


@only_sqlite
def test_a_store_that_is_no_folder_does_as_well(
    database: Database, tmp_path: Path, s3_server: S3Server
) -> None:
    objects = ObjectStore(s3_server.new_place())
    service = DatasetService(database, objects, ManualClock(), folder=tmp_path / "datasets")
    service.open()
    folder = write_pictures(tmp_path / "a", count=3)
    version = service.import_file("shapes", folder, by="anna").version
    arrays = load_arrays(objects, service.manifest(version), image_spec(*CLASSES))
    assert sorted(arrays.labels.tolist()) == [0, 0, 0, 1, 1, 1]
    service.remove("shapes", None)
    assert objects.paths("datasets") == ()
