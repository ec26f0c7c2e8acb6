"""Exports of a version for label tools: labels in the tool's own files, and the items beside.

1. Label Studio: tasks.json and labelling.xml (the project's set-up); pictures below items/, windows
   as CSV there, messages within the tasks. Classes or boxes.
2. CVAT: annotations.xml, pictures below images/. Classes (tags) or boxes.
3. COCO: annotations/instances_<part>.json, pictures below images/<part>/. Boxes only.
4. YOLO: data.yaml, images/<part>/, labels/<part>/. Boxes only.
5. Device, site, moment and group are in none of them: they stay with the item, which its digest in
   the file's name finds again (item_names.py).
"""

import csv
import io
import sys
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cloud_hub.datasets.label_tools.changes import boxes_of
from cloud_hub.datasets.label_tools.coco_format import encode_coco
from cloud_hub.datasets.label_tools.cvat_format import encode_cvat
from cloud_hub.datasets.label_tools.file_sink import Sink, open_sink
from cloud_hub.datasets.label_tools.item_names import exported_name
from cloud_hub.datasets.label_tools.label_studio_format import (
    encode_label_studio,
    labelling_setup,
)
from cloud_hub.datasets.label_tools.labelled import LabelFile, Labelled, LabelTool
from cloud_hub.datasets.label_tools.refusals import cannot_hold
from cloud_hub.datasets.label_tools.yolo_format import encode_boxes, encode_names
from cloud_hub.datasets.manifest import Item, ItemKind, Manifest, Part
from cloud_hub.datasets.readers.image_header import read_header
from shared.errors import RefusedError

EXPORT_ITEMS_MAX = 500_000
LOCAL_FILES = "/data/local-files/?d="  # Label Studio's own way to files it is given

ItemBytes = Callable[[int], bytes]


@dataclass(frozen=True, slots=True)
class _Chosen:
    """What is exported."""

    manifest: Manifest
    indices: Sequence[int]
    item_bytes: ItemBytes
    item_url: Callable[[int], str] | None
    has_boxes: bool

    def item(self, index: int) -> Item:
        return self.manifest.items[index]


def export_labels(
    tool: LabelTool,
    manifest: Manifest,
    item_bytes: ItemBytes,
    target: Path,
    *,
    indices: Sequence[int] | None = None,
    item_url: Callable[[int], str] | None = None,
    has_boxes: bool | None = None,
) -> int:
    """Write items and what is known of their labels; return how many items.

    Args:
        tool: for which.
        manifest: of the version.
        item_bytes: the bytes of the item at an index of the manifest.
        target: a folder that is not there yet, or a .zip.
        indices: which items; None for all.
        item_url: Label Studio only: where it finds an item, instead of a file beside the tasks.
        has_boxes: whether boxes are drawn (or classes chosen); None: as the labels there are.

    Raises:
        RefusedError: `dataset.label_tool`, the tool cannot hold this; `dataset.export_exists`;
            `dataset.export_too_many`. What `item_bytes` raises.
        TransientError: `dataset.export_failed`.
    """
    wanted = range(len(manifest.items)) if indices is None else indices
    if len(wanted) > EXPORT_ITEMS_MAX:
        raise RefusedError(
            "dataset.export_too_many",
            f"{len(wanted)} items are over {EXPORT_ITEMS_MAX} in one export.",
            remedy="Export those without labels, or one part after another.",
        )
    items = [manifest.items[index] for index in wanted]
    boxed = any(item.boxes is not None for item in items) if has_boxes is None else has_boxes
    _check(tool, manifest, items)
    chosen = _Chosen(manifest, wanted, item_bytes, item_url, boxed)
    with open_sink(target) as sink:
        _WRITERS[tool](chosen, sink)
    return len(items)


def _check(tool: LabelTool, manifest: Manifest, items: Sequence[Item]) -> None:
    if tool is LabelTool.LABEL_STUDIO:
        return
    if manifest.kind is not ItemKind.IMAGE:
        raise cannot_hold(tool, f"{manifest.kind} items", "Export for Label Studio.")
    if tool is LabelTool.CVAT:
        return
    if any(item.label is not None for item in items):
        instead = "Export for Label Studio or CVAT; these files are for boxes."
        raise cannot_hold(tool, "classes of whole pictures", instead)


def _write_label_studio(chosen: _Chosen, sink: Sink) -> None:
    labelled, shown = [], []
    manifest = chosen.manifest
    for index in chosen.indices:
        item = chosen.item(index)
        url = chosen.item_url(index) if chosen.item_url is not None else None
        match manifest.kind:
            case ItemKind.IMAGE:
                data = chosen.item_bytes(index)
                found = _picture(manifest, item, data)
                datum: dict[str, object] = {"image": url or f"{LOCAL_FILES}items/{found.file}"}
            case ItemKind.WINDOW:
                data = _window_csv(chosen.item_bytes(index), manifest.window_shape)
                found = _labelled(manifest, item, exported_name(item, ".csv"))
                datum = {"csv": url or f"{LOCAL_FILES}items/{found.file}"}
            case ItemKind.TEXT:
                data = b""
                found = _labelled(manifest, item, exported_name(item, ".txt"))
                datum = {"text": chosen.item_bytes(index).decode("utf-8", "replace")}
        if data and url is None:
            sink.write(f"items/{found.file}", data)
        labelled.append(found)
        shown.append(datum)
    file = LabelFile(manifest.classes, tuple(labelled))
    sink.write("tasks.json", encode_label_studio(file, shown))
    channels = manifest.window_shape[1] if manifest.window_shape else 0
    setup = labelling_setup(
        manifest.kind, manifest.classes, has_boxes=chosen.has_boxes, channels=channels
    )
    sink.write("labelling.xml", setup.encode())


def _write_cvat(chosen: _Chosen, sink: Sink) -> None:
    labelled = []
    for index in chosen.indices:
        data = chosen.item_bytes(index)
        found = _picture(chosen.manifest, chosen.item(index), data)
        sink.write(f"images/{found.file}", data)
        labelled.append(found)
    sink.write("annotations.xml", encode_cvat(LabelFile(chosen.manifest.classes, tuple(labelled))))


def _write_coco(chosen: _Chosen, sink: Sink) -> None:
    by_part: dict[Part, list[Labelled]] = {}
    for index in chosen.indices:
        item = chosen.item(index)
        data = chosen.item_bytes(index)
        found = _picture(chosen.manifest, item, data)
        sink.write(f"images/{item.part}/{found.file}", data)
        by_part.setdefault(item.part, []).append(found)
    for part, labelled in sorted(by_part.items()):
        file = LabelFile(chosen.manifest.classes, tuple(labelled))
        sink.write(f"annotations/instances_{part}.json", encode_coco(file))


def _write_yolo(chosen: _Chosen, sink: Sink) -> None:
    classes = chosen.manifest.classes
    parts: set[Part] = set()
    for index in chosen.indices:
        item = chosen.item(index)
        data = chosen.item_bytes(index)
        found = _picture(chosen.manifest, item, data)
        parts.add(item.part)
        sink.write(f"images/{item.part}/{found.file}", data)
        if found.boxes is not None:
            name = found.file.rpartition(".")[0] + ".txt"
            sink.write(f"labels/{item.part}/{name}", encode_boxes(found.boxes, classes))
    sink.write("data.yaml", encode_names(classes, sorted(parts)))


_WRITERS: dict[LabelTool, Callable[[_Chosen, Sink], None]] = {
    LabelTool.LABEL_STUDIO: _write_label_studio,
    LabelTool.CVAT: _write_cvat,
    LabelTool.COCO: _write_coco,
    LabelTool.YOLO: _write_yolo,
}


def _picture(manifest: Manifest, item: Item, data: bytes) -> Labelled:
    header = read_header(data)
    if header is None:
        raise RefusedError(
            "dataset.label_tool",
            f"{item.name} says no size of itself.",
            remedy="Take it out of the dataset: it is no PNG, JPEG or WebP.",
        )
    name = exported_name(item, header.suffix)
    return _labelled(manifest, item, name, width=header.width, height=header.height)


def _labelled(
    manifest: Manifest, item: Item, file: str, *, width: int = 0, height: int = 0
) -> Labelled:
    label = None if item.label is None else manifest.classes[item.label]
    return Labelled(file, width, height, label=label, boxes=boxes_of(item, manifest.classes))


def _window_csv(data: bytes, shape: tuple[int, ...]) -> bytes:
    """Return float32 (T, C) samples as a CSV file with a column `row`."""
    samples = array("f", data)  # Without numpy, which the hub's own process does without
    if sys.byteorder == "big":
        samples.byteswap()
    channels = shape[1]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["row", *(f"channel_{index}" for index in range(channels))])
    for number in range(shape[0]):
        writer.writerow([number, *samples[number * channels : (number + 1) * channels]])
    return text.getvalue().encode()
