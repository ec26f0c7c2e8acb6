"""Pictures and messages with the file of a label tool: COCO, CVAT for images, Label Studio.

1. A source is that file, with the pictures in its folder or below, or the folder.
2. A picture is found by the path its label file tells, seen from that file, from the source, or
   from a folder `images`; else by its mere name, if only one file has it.
3. A folder named train, val or test, or such a word in the label file's name, tells the part.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from cloud_hub.datasets.label_tools.coco_format import JSON_BYTES_MAX, decode_coco
from cloud_hub.datasets.label_tools.cvat_format import XML_BYTES_MAX, decode_cvat
from cloud_hub.datasets.label_tools.label_studio_format import decode_label_studio
from cloud_hub.datasets.label_tools.labelled import LabelFile, Labelled
from cloud_hub.datasets.manifest import ITEMS_MAX, ItemKind, Part
from cloud_hub.datasets.raw_item import Broken, RawItem
from cloud_hub.datasets.readers.file_source import Source, limited, required, wrong_layout
from cloud_hub.datasets.readers.file_yolo import is_picture
from cloud_hub.datasets.readers.item_bytes import checked_picture, checked_text
from cloud_hub.datasets.readers.options import ReaderOptions, SourceLayout
from cloud_hub.datasets.readers.raw_texts import part_named, short_name

FILES_MAX = 64  # Of labels
SEVERAL = ""  # Several files have this name
REMEDY = "Give the label tool's file and the pictures, all in one folder."

Decode = Callable[..., LabelFile]


@dataclass(frozen=True, slots=True)
class _Told:
    """One file of labels."""

    name: str
    file: LabelFile


@dataclass(frozen=True, slots=True)
class LabelledReader:
    """Items of a label tool; see the rules above."""

    source: Source
    told: tuple[_Told, ...]
    classes: tuple[str, ...]
    kind: ItemKind
    window_shape: tuple[int, ...] = ()

    def items(self) -> Iterator[RawItem | Broken]:
        """Yield every item, file by file in its order."""
        another = limited(ITEMS_MAX, self.source.root)
        places = _places(self.source) if self.kind is ItemKind.IMAGE else {}
        for told in self.told:
            for item in told.file.items:
                another()
                yield self._item(told.name, item, places)

    def _item(self, told: str, item: Labelled, places: dict[str, str]) -> RawItem | Broken:
        if item.problem:
            return Broken(short_name(item.file), item.problem)
        if self.kind is ItemKind.TEXT:
            data = checked_text((item.text or "").encode("utf-8", "replace"), item.file)
            name = item.file
        else:
            found = self._place(told, item.file, places)
            if isinstance(found, Broken):
                return found
            name = found
            read = self.source.read(name)
            data = read if isinstance(read, Broken) else checked_picture(read, name)
        if isinstance(data, Broken):
            return data
        part = _part(name) or _part(told)
        return RawItem(data, short_name(name), label=item.label, boxes=item.boxes, part=part)

    def _place(self, told: str, file: str, places: dict[str, str]) -> str | Broken:
        """Return where a picture lies; see rule 2."""
        path = unquote(file.partition("?d=")[2] or file).removeprefix("./")
        folder = told.rpartition("/")[0]
        folders = [f"{folder}/" if folder else "", "", "images/"]
        for candidate in (f"{start}{path}" for start in folders):
            if self.source.has(candidate):
                return candidate
        found = places.get(path.rpartition("/")[2])
        if found is None:
            return Broken(short_name(file), "is named by the labels, and there is no such file")
        if found == SEVERAL:
            return Broken(short_name(file), "is named by the labels, and several files have it")
        return found


def open_labelled(path: Path, layout: SourceLayout) -> LabelledReader:
    """Return the reader of a label tool's files. Raises ContractError `dataset.layout`."""
    source = Source.at(path)
    decode, suffix, bytes_max = _FORMATS[layout]
    names = [n for n in source.names() if isinstance(n, str) and n.lower().endswith(suffix)]
    if not 0 < len(names) <= FILES_MAX:
        reason = f"there are {len(names)} {suffix} files, not 1 to {FILES_MAX}"
        raise wrong_layout(layout, path, reason, REMEDY)
    told = []
    for name in names:
        data = required(source, name, layout, bytes_max=bytes_max, remedy=REMEDY)
        told.append(_Told(name, decode(data, where=str(source.root / name))))
    classes = dict.fromkeys(name for one in told for name in one.file.classes)
    items = [item for one in told for item in one.file.items]
    is_text = bool(items) and all(item.text is not None for item in items)
    kind = ItemKind.TEXT if is_text else ItemKind.IMAGE
    return LabelledReader(Source(source.root), tuple(told), tuple(classes), kind)


def open_coco(path: Path, options: ReaderOptions) -> LabelledReader:
    """Return the reader of COCO detection JSON and its pictures."""
    del options
    return open_labelled(path, SourceLayout.COCO)


def open_cvat(path: Path, options: ReaderOptions) -> LabelledReader:
    """Return the reader of CVAT for images 1.1 and its pictures."""
    del options
    return open_labelled(path, SourceLayout.CVAT)


def open_label_studio(path: Path, options: ReaderOptions) -> LabelledReader:
    """Return the reader of Label Studio's JSON and its pictures, or messages."""
    del options
    return open_labelled(path, SourceLayout.LABEL_STUDIO)


_FORMATS: dict[SourceLayout, tuple[Decode, str, int]] = {
    SourceLayout.COCO: (decode_coco, ".json", JSON_BYTES_MAX),
    SourceLayout.CVAT: (decode_cvat, ".xml", XML_BYTES_MAX),
    SourceLayout.LABEL_STUDIO: (decode_label_studio, ".json", JSON_BYTES_MAX),
}


def _places(source: Source) -> dict[str, str]:
    """Return where each picture lies, by its mere name; SEVERAL where that says too little."""
    found: dict[str, str] = {}
    for name in source.names():
        if isinstance(name, str) and is_picture(name):
            short = name.rpartition("/")[2]
            found[short] = SEVERAL if short in found else name
    return found


def _part(name: str) -> Part | None:
    """Return the part that a path tells: "train/1.png", "instances_val2017.json"."""
    words = [word for piece in name.split("/") for word in re.split(r"[^A-Za-z]+", piece)]
    *folders, file = name.split("/")
    parts = [part_named(folder.rstrip("0123456789")) for folder in folders]
    if file.endswith((".json", ".xml")):
        parts += [part_named(word) for word in words]
    return next((part for part in parts if part is not None), None)
