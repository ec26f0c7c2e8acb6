"""Class folders: pictures, or messages as .txt files, below a folder per class.

1. `<class>/...`, or `train/<class>/...` beside `val` (valid, validation) and `test`. Files that lie
   right in the source or in a part are not labelled.
2. `metadata.csv` in the source, with a column `file`, may tell label, device, site, captured_ms,
   group and part of any of them; a cell that is empty tells nothing. It wins over the folders.
3. What is neither a picture (a .txt file) nor metadata is Broken, but for the notes people keep
   beside their data (.md, .json, .csv, .xml, .yaml, and .txt beside pictures).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cloud_hub.datasets.manifest import ITEMS_MAX, ItemKind, Part
from cloud_hub.datasets.raw_item import Broken, RawItem
from cloud_hub.datasets.readers.file_metadata import NAME as METADATA
from cloud_hub.datasets.readers.file_metadata import NO_FACTS, FileFacts, read_metadata
from cloud_hub.datasets.readers.file_source import Source, limited, wrong_layout
from cloud_hub.datasets.readers.item_bytes import checked_picture, checked_text
from cloud_hub.datasets.readers.raw_texts import class_name, part_named, short_name

PICTURES = frozenset({".png", ".jpg", ".jpeg", ".webp"})
TEXTS = frozenset({".txt"})
NOTES = frozenset({".md", ".json", ".csv", ".xml", ".yaml", ".yml", ".txt", ".gz", ".pdf"})
REMEDY = "Put the files into one folder per class, perhaps below train/, val/ and test/."
LOOKS_MAX = 10_000  # Files looked at to tell what a folder holds


@dataclass(frozen=True, slots=True)
class FolderReader:
    """A source of class folders; see the rules above."""

    source: Source
    kind: ItemKind
    classes: tuple[str, ...]
    facts: dict[str, FileFacts]
    window_shape: tuple[int, ...] = ()

    def items(self) -> Iterator[RawItem | Broken]:
        """Yield every file in the order of the names."""
        another = limited(ITEMS_MAX, self.source.root)
        for name in self.source.names():
            if isinstance(name, Broken):
                another()
                yield name
            elif (found := self._item(name)) is not None:
                another()
                yield found

    def _item(self, name: str) -> RawItem | Broken | None:
        suffix = _suffix(name)
        wanted = PICTURES if self.kind is ItemKind.IMAGE else TEXTS
        if suffix not in wanted:
            return None if suffix in NOTES else Broken(short_name(name), _unwanted(self.kind))
        data = self.source.read(name)
        if isinstance(data, Broken):
            return data
        check = checked_picture if self.kind is ItemKind.IMAGE else checked_text
        checked = check(data, name)
        return checked if isinstance(checked, Broken) else self._labelled(name, checked)

    def _labelled(self, name: str, data: bytes) -> RawItem | Broken:
        part, label = told_by_folders(name)
        facts = self.facts.get(name, NO_FACTS)
        text = facts.label if facts.label is not None else label
        clean = class_name(text) if text is not None else None
        if text is not None and clean is None:
            return Broken(short_name(name), "its class has no usable name")
        return RawItem(
            data,
            short_name(name),
            label=clean,
            device=facts.device,
            site=facts.site,
            captured_ms=facts.captured_ms,
            group=facts.group,
            part=facts.part or part,
        )


def open_folder(path: Path, *, kind: ItemKind | None = None) -> FolderReader:
    """Return the reader of class folders. Raises ContractError `dataset.layout`."""
    source = Source.at(path)
    if source.only:
        raise wrong_layout("folder", path, "it is a file", REMEDY)
    found = _kind(source)
    if found is None:
        raise wrong_layout("folder", path, "it holds no PNG, JPEG, WebP or .txt file", REMEDY)
    facts = read_metadata(source) if source.has(METADATA) else {}
    return FolderReader(source, kind or found, _classes(source), facts)


def _kind(source: Source) -> ItemKind | None:
    """Return what the folder holds: pictures where there is one among the first files."""
    has_texts = False
    for index, name in enumerate(source.names()):
        if isinstance(name, Broken) or index >= LOOKS_MAX:
            continue
        if _suffix(name) in PICTURES:
            return ItemKind.IMAGE
        has_texts = has_texts or (_suffix(name) in TEXTS and "/" in name)
    return ItemKind.TEXT if has_texts else None


def _classes(source: Source) -> tuple[str, ...]:
    """Return the names of the folders that stand for classes, of all parts, in order."""
    found: set[str] = set()
    for folder in source.folders():
        inner = source.folders(folder) if part_named(folder) is not None else [folder]
        found.update(name for name in map(class_name, inner) if name is not None)
    return tuple(sorted(found))


def told_by_folders(name: str) -> tuple[Part | None, str | None]:
    """Return the part and the class that a file's folders tell."""
    folders = name.split("/")[:-1]
    part = part_named(folders[0]) if folders else None
    if part is not None:
        folders = folders[1:]
    return part, folders[0] if folders else None


def _suffix(name: str) -> str:
    stem, dot, suffix = name.rpartition("/")[2].rpartition(".")
    return f".{suffix.lower()}" if dot and stem else ""


def _unwanted(kind: ItemKind) -> str:
    return "is no PNG, JPEG or WebP" if kind is ItemKind.IMAGE else "is no .txt file"
