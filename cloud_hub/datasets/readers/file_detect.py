"""open_source: the reader for whatever lies at a path, told or found out."""

from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from types import MappingProxyType

from cloud_hub.datasets.manifest import ItemKind
from cloud_hub.datasets.raw_item import Broken, Reader
from cloud_hub.datasets.readers import file_nab
from cloud_hub.datasets.readers.file_arrivals import open_arrivals
from cloud_hub.datasets.readers.file_csv import open_csv
from cloud_hub.datasets.readers.file_csv_rows import BadCsvError, CsvFile, is_csv_name
from cloud_hub.datasets.readers.file_folder import open_folder
from cloud_hub.datasets.readers.file_idx import open_idx
from cloud_hub.datasets.readers.file_labelled import open_coco, open_cvat, open_label_studio
from cloud_hub.datasets.readers.file_metadata import NAME as METADATA
from cloud_hub.datasets.readers.file_npz import open_npz
from cloud_hub.datasets.readers.file_source import Source, wrong_layout
from cloud_hub.datasets.readers.file_yolo import YAML_NAMES, is_picture, open_yolo
from cloud_hub.datasets.readers.options import ReaderOptions, SourceLayout
from shared.errors import ContractError

Opener = Callable[[Path, ReaderOptions], Reader]

LOOKS_MAX = 10_000  # Files looked at
LABEL_FILES_MAX = 64
HEAD_BYTES = 4_096
HEADS = (
    (b"[", (b'"data"', b'"annotations"', b'"file_upload"'), SourceLayout.LABEL_STUDIO),
    (b"{", (b'"images"', b'"annotations"', b'"info"', b'"licenses"'), SourceLayout.COCO),
    (b"<", (b"<annotations",), SourceLayout.CVAT),
)

OPENERS: Mapping[SourceLayout, Opener] = MappingProxyType(
    {
        SourceLayout.FOLDER: lambda path, _: open_folder(path, kind=ItemKind.IMAGE),
        SourceLayout.TEXT: lambda path, _: open_folder(path, kind=ItemKind.TEXT),
        SourceLayout.CSV: open_csv,
        SourceLayout.IDX: open_idx,
        SourceLayout.COCO: open_coco,
        SourceLayout.YOLO: open_yolo,
        SourceLayout.NPZ: open_npz,
        SourceLayout.NAB: file_nab.open_nab,
        SourceLayout.LABEL_STUDIO: open_label_studio,
        SourceLayout.CVAT: open_cvat,
        SourceLayout.ARRIVALS: lambda path, _: open_arrivals(path),
    }
)


def open_source(
    path: Path, *, layout: str | None = None, options: ReaderOptions | None = None
) -> Reader:
    """Return the reader of a source.

    Args:
        path: a folder or a file; nothing outside it is read.
        layout: a SourceLayout; None to look what it is (see `detect`).
        options: what the source itself does not say.

    Raises:
        ContractError: `dataset.missing`; `dataset.layout`, the source is not of that layout, or of
            none that is known; `dataset.too_many`.
    """
    found = detect(path) if layout is None else _told(layout)
    return OPENERS[found](path, options or ReaderOptions())


def detect(path: Path) -> SourceLayout:
    """Return the layout a source has by the names of its files. Raises as open_source."""
    source = Source.at(path)
    found = _of_file(source, source.only) if source.only else _of_folder(source)
    if found is None:
        raise wrong_layout(
            "any",
            path,
            "nothing in it says what it is",
            f"Name its layout, one of: {', '.join(SourceLayout)}.",
        )
    return found


def _of_file(source: Source, name: str) -> SourceLayout | None:
    lower = name.lower()
    if _is_idx(lower):
        return SourceLayout.IDX
    if is_csv_name(lower):
        return SourceLayout.CSV
    match Path(lower).suffix:
        case ".npz":
            return SourceLayout.NPZ
        case ".json" | ".xml":
            return _by_head(source, name)
        case ".yaml" | ".yml":
            return SourceLayout.YOLO
        case _:
            return None


def _of_folder(source: Source) -> SourceLayout | None:
    top = source.files()
    if any(_is_idx(name.lower()) for name in top):
        return SourceLayout.IDX
    if source.has(file_nab.LABELS):
        return SourceLayout.NAB
    if any(name in YAML_NAMES for name in top):
        return SourceLayout.YOLO
    names = _first_names(source)
    has_pictures = any(map(is_picture, names))
    beside = [name for name in names if _tells_labels(name)]
    told = (_of_file(source, name) for name in beside[:LABEL_FILES_MAX])
    if (found := next((layout for layout in told if layout is not None), None)) is not None:
        return found
    tables = [name for name in names if is_csv_name(name) and name != METADATA]
    if has_pictures:
        is_table = any(_names_files(source, name) for name in tables[:1])
        return SourceLayout.CSV if is_table else SourceLayout.FOLDER
    if tables:
        return SourceLayout.CSV
    if any(name.lower().endswith(".npz") for name in top):
        return SourceLayout.NPZ
    return SourceLayout.TEXT if any(name.lower().endswith(".txt") for name in names) else None


def _first_names(source: Source) -> list[str]:
    names = []
    for index, name in enumerate(source.names()):
        if index >= LOOKS_MAX:
            break
        if isinstance(name, str):
            names.append(name)
    return names


def _tells_labels(name: str) -> bool:
    """Return whether a file is a label tool's by its name: .json and .xml, not deep in a folder."""
    return name.count("/") <= 1 and name.lower().endswith((".json", ".xml"))


def _by_head(source: Source, name: str) -> SourceLayout | None:
    """Return whose JSON or XML it is, by how it begins; None: a note that is no labels."""
    opened = source.open(name)
    if isinstance(opened, Broken):
        return None
    with closing(opened):
        head = opened.read(HEAD_BYTES).lstrip(b"\xef\xbb\xbf \t\r\n")
    for start, words, layout in HEADS:
        if head.startswith(start) and any(word in head for word in words):
            return layout
    return None


def _names_files(source: Source, name: str) -> bool:
    try:
        return CsvFile(source, name).index_of("file") is not None
    except BadCsvError:
        return False


def _is_idx(name: str) -> bool:
    return "images" in name and "idx3" in name


def _told(layout: str) -> SourceLayout:
    try:
        return SourceLayout(layout)
    except ValueError as error:
        raise ContractError(
            "dataset.layout",
            f"There is no layout {layout[:40]!r}.",
            remedy=f"It is one of: {', '.join(SourceLayout)}.",
        ) from error
