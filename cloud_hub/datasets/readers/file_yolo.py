"""YOLO: pictures below images/, a .txt with boxes for each below labels/, classes in data.yaml.

1. A picture's labels lie where its path has `labels` for (the last) `images`, else beside it.
2. The first folder in the path named train, val, valid, validation or test tells the part.
3. Without data.yaml the classes are the lines of classes.txt, or those of the options.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cloud_hub.datasets.label_tools.yaml_subset import BYTES_MAX
from cloud_hub.datasets.label_tools.yolo_format import TXT_BYTES_MAX, decode_boxes, decode_names
from cloud_hub.datasets.manifest import ITEMS_MAX, ItemKind, Part
from cloud_hub.datasets.raw_item import Broken, RawItem
from cloud_hub.datasets.readers.file_folder import PICTURES
from cloud_hub.datasets.readers.file_source import Source, limited, required, wrong_layout
from cloud_hub.datasets.readers.item_bytes import checked_picture
from cloud_hub.datasets.readers.options import ReaderOptions
from cloud_hub.datasets.readers.raw_texts import class_name, part_named, short_name

YAML_NAMES = ("data.yaml", "data.yml", "dataset.yaml")
CLASSES_TXT = "classes.txt"
REMEDY = "Put a data.yaml with `names` into the folder, above images/ and labels/."


@dataclass(frozen=True, slots=True)
class YoloReader:
    """Pictures with boxes; see the rules above."""

    source: Source
    classes: tuple[str, ...]
    kind: ItemKind = ItemKind.IMAGE
    window_shape: tuple[int, ...] = ()

    def items(self) -> Iterator[RawItem | Broken]:
        """Yield every picture in the order of the names."""
        another = limited(ITEMS_MAX, self.source.root)
        for name in self.source.names():
            if isinstance(name, Broken):
                another()
                yield name
            elif is_picture(name):
                another()
                yield self._item(name)

    def _item(self, name: str) -> RawItem | Broken:
        data = self.source.read(name)
        checked = data if isinstance(data, Broken) else checked_picture(data, name)
        if isinstance(checked, Broken):
            return checked
        labels = labels_name(name)
        boxes = None
        if self.source.has(labels):
            text = self.source.read(labels, TXT_BYTES_MAX)
            if isinstance(text, Broken):
                return Broken(short_name(name), f"has labels that cannot be read: {text.reason}")
            told = decode_boxes(text, self.classes)
            if isinstance(told, str):
                return Broken(short_name(name), told)
            boxes = told
        return RawItem(checked, short_name(name), boxes=boxes, part=_part(name))


def open_yolo(path: Path, options: ReaderOptions) -> YoloReader:
    """Return the reader of a YOLO folder. Raises ContractError `dataset.layout`."""
    source = Source.at(path)
    if source.only:
        source = Source(source.root)  # data.yaml itself was named
    return YoloReader(source, classes_of(source, options, path))


def labels_name(picture: str) -> str:
    """Return where a picture's boxes lie; see rule 1."""
    folders = picture.split("/")
    for index in range(len(folders) - 2, -1, -1):
        if folders[index].lower() == "images":
            folders[index] = "labels"
            break
    return "/".join(folders).rpartition(".")[0] + ".txt"


def is_picture(name: str) -> bool:
    """Return whether a file's name says that it is a picture."""
    return Path(name).suffix.lower() in PICTURES


def _part(name: str) -> Part | None:
    parts = (part_named(folder) for folder in name.split("/")[:-1])
    return next((part for part in parts if part is not None), None)


def classes_of(source: Source, options: ReaderOptions, path: Path) -> tuple[str, ...]:
    """Return the classes by rule 3. Raises ContractError `dataset.layout`."""
    for name in YAML_NAMES:
        if source.has(name):
            data = required(source, name, "yolo", bytes_max=BYTES_MAX, remedy=REMEDY)
            return decode_names(data, where=str(source.root / name))
    if source.has(CLASSES_TXT):
        data = required(source, CLASSES_TXT, "yolo", bytes_max=BYTES_MAX, remedy=REMEDY)
        lines = data.decode("utf-8", "replace").splitlines()
        names = tuple(line.strip() for line in lines if line.strip())
        if names and all(class_name(name) == name for name in names):
            return names
        raise wrong_layout("yolo", source.root / CLASSES_TXT, "it holds no class names", REMEDY)
    if options.classes:
        return options.classes
    raise wrong_layout("yolo", path, "there is no data.yaml and no classes.txt", REMEDY)
