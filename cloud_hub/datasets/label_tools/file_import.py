"""Labels back from a tool: its file, or a folder with its files, into changes of a version.

The pictures need not come back; for YOLO, a picture that does without a .txt lost its labels.
"""

from collections.abc import Callable
from pathlib import Path

from cloud_hub.datasets.label_tools.changes import LabelChanges, changes_of
from cloud_hub.datasets.label_tools.coco_format import JSON_BYTES_MAX, decode_coco
from cloud_hub.datasets.label_tools.cvat_format import XML_BYTES_MAX, decode_cvat
from cloud_hub.datasets.label_tools.label_studio_format import decode_label_studio
from cloud_hub.datasets.label_tools.labelled import LabelFile, Labelled, LabelTool
from cloud_hub.datasets.label_tools.refusals import wrong_file
from cloud_hub.datasets.label_tools.yolo_format import TXT_BYTES_MAX, decode_boxes
from cloud_hub.datasets.manifest import Manifest
from cloud_hub.datasets.raw_item import Broken
from cloud_hub.datasets.readers.file_source import Source
from cloud_hub.datasets.readers.file_yolo import (
    CLASSES_TXT,
    classes_of,
    is_picture,
    labels_name,
)
from cloud_hub.datasets.readers.options import ReaderOptions

FILES_MAX = 64

Decode = Callable[..., LabelFile]
_FORMATS: dict[LabelTool, tuple[Decode, str, int]] = {
    LabelTool.COCO: (decode_coco, ".json", JSON_BYTES_MAX),
    LabelTool.CVAT: (decode_cvat, ".xml", XML_BYTES_MAX),
    LabelTool.LABEL_STUDIO: (decode_label_studio, ".json", JSON_BYTES_MAX),
}


def import_labels(tool: LabelTool, path: Path, manifest: Manifest) -> LabelChanges:
    """Return what a tool's file or folder changes in a version.

    Raises ContractError `dataset.layout` (naming file and line or field), `dataset.missing`.
    """
    return changes_of(read_label_file(tool, path, manifest.classes), manifest)


def read_label_file(tool: LabelTool, path: Path, classes: tuple[str, ...]) -> LabelFile:
    """Return what a tool's file, or all of its files in a folder, say. Raises as import_labels.

    Args:
        tool: whose.
        path: the file or folder.
        classes: of the version, for YOLO folders that name none.
    """
    source = Source.at(path)
    if tool is LabelTool.YOLO:
        return _yolo(source, path, classes)
    decode, suffix, bytes_max = _FORMATS[tool]
    names = [n for n in source.names() if isinstance(n, str) and n.lower().endswith(suffix)]
    if source.only:
        names = [source.only]  # Whatever it is called
    if not 0 < len(names) <= FILES_MAX:
        reason = f"there are {len(names)} {suffix} files, not 1 to {FILES_MAX}"
        raise wrong_file(tool, str(path), reason)
    files = []
    for name in names:
        data = source.read(name, bytes_max)
        if isinstance(data, Broken):
            raise wrong_file(tool, str(source.root / name), data.reason)
        files.append(decode(data, where=str(source.root / name)))
    told = dict.fromkeys(name for file in files for name in file.classes)
    return LabelFile(tuple(told), tuple(item for file in files for item in file.items))


def _yolo(source: Source, path: Path, classes: tuple[str, ...]) -> LabelFile:
    if source.only:
        raise wrong_file("yolo", str(path), "it is a file, not a folder")
    found = classes_of(source, ReaderOptions(classes=classes), path)
    names = [name for name in source.names() if isinstance(name, str)]
    texts = {name for name in names if name.lower().endswith(".txt") and name != CLASSES_TXT}
    items = []
    for name in names:
        if not is_picture(name):
            continue
        text = labels_name(name)
        items.append(_boxed(source, name, text if text in texts else None, found))
        texts.discard(text)
    for text in sorted(texts):
        if items and "labels" not in text.split("/"):
            continue  # Notes beside the pictures
        stem = text.rpartition(".")[0]
        file = "/".join("images" if part == "labels" else part for part in stem.split("/"))
        items.append(_boxed(source, file, text, found))
    return LabelFile(found, tuple(items))


def _boxed(source: Source, file: str, text: str | None, classes: tuple[str, ...]) -> Labelled:
    if text is None:
        return Labelled(file)
    data = source.read(text, TXT_BYTES_MAX)
    boxes = data.reason if isinstance(data, Broken) else decode_boxes(data, classes)
    return Labelled(file, problem=boxes) if isinstance(boxes, str) else Labelled(file, boxes=boxes)
