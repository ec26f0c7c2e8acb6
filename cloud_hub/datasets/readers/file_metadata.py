"""metadata.csv: what is known of files beside their bytes."""

from collections.abc import Sequence
from dataclasses import dataclass

from cloud_hub.datasets.manifest import ITEMS_MAX, Part
from cloud_hub.datasets.raw_item import Broken
from cloud_hub.datasets.readers.file_csv_rows import BadCsvError, CsvFile
from cloud_hub.datasets.readers.file_source import Source, too_many, wrong_layout
from cloud_hub.datasets.readers.options import ReaderOptions
from cloud_hub.datasets.readers.raw_texts import part_named, short_key

NAME = "metadata.csv"
CAPTURED_MS_MAX = 2**53
REMEDY = "Write a first line such as file,label,device,site,captured_ms,group,part."


@dataclass(frozen=True, slots=True)
class FileFacts:
    """What a row tells of an item; empty or None where it tells nothing."""

    label: str | None = None
    device: str = ""
    site: str = ""
    captured_ms: int | None = None
    group: str = ""
    part: Part | None = None


NO_FACTS = FileFacts()


class BadCellError(ValueError):
    """A cell is not what its column holds; the text says which and why."""


class FactColumns:
    """Where in a CSV file's rows the facts of an item stand."""

    def __init__(self, table: CsvFile, options: ReaderOptions) -> None:
        """Look the columns up in the header; those it lacks tell nothing."""
        self._label = table.index_of(options.label_column)
        self._device = table.index_of(options.device_column)
        self._site = table.index_of(options.site_column)
        self._captured = table.index_of(options.captured_column)
        self._group = table.index_of(options.group_column)
        self._part = table.index_of(options.part_column)
        told = (self._label, self._device, self._site, self._captured, self._group, self._part)
        self._told = [index for index in told if index is not None]
        self._last: tuple[list[str], FileFacts] = ([], NO_FACTS)

    def of(self, cells: Sequence[str]) -> FileFacts:
        """Return the facts in a row. Raises BadCellError."""
        key = [cells[index] for index in self._told]
        if key != self._last[0]:  # Sensors say the same row after row
            self._last = (key, self._read(cells))
        return self._last[1]

    def _read(self, cells: Sequence[str]) -> FileFacts:
        label = _cell(cells, self._label)
        part = _cell(cells, self._part)
        if part and part_named(part) is None:
            raise BadCellError("its part is not train, validation or test")
        return FileFacts(
            label=label or None,
            device=short_key(_cell(cells, self._device)),
            site=short_key(_cell(cells, self._site)),
            captured_ms=_captured_ms(_cell(cells, self._captured)),
            group=short_key(_cell(cells, self._group)),
            part=part_named(part),
        )


def read_metadata(source: Source) -> dict[str, FileFacts]:
    """Return what metadata.csv tells, by file. Raises ContractError `dataset.layout`."""
    try:
        table = CsvFile(source, NAME)
    except BadCsvError as error:
        raise wrong_layout("folder", source.root / NAME, str(error), REMEDY) from error
    file_index = table.index_of("file")
    if file_index is None:
        raise wrong_layout("folder", source.root / NAME, "it has no column `file`", REMEDY)
    columns = FactColumns(table, ReaderOptions())
    found: dict[str, FileFacts] = {}
    for row in table.rows():
        if isinstance(row, Broken):
            raise wrong_layout("folder", row.name, row.reason, "Correct that line.")
        try:
            found[row.cells[file_index].strip()] = columns.of(row.cells)
        except BadCellError as error:
            where = f"{NAME}, line {row.line}"
            raise wrong_layout("folder", where, str(error), "Correct that cell.") from error
        if len(found) > ITEMS_MAX:
            raise too_many(source.root / NAME, ITEMS_MAX, "rows")
    return found


def _cell(cells: Sequence[str], index: int | None) -> str:
    return "" if index is None else cells[index].strip()


def _captured_ms(text: str) -> int | None:
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= 16):
        raise BadCellError("its captured_ms is no whole number of milliseconds since 1970")
    number = int(text)
    if number > CAPTURED_MS_MAX:
        raise BadCellError("its captured_ms is too large")
    return number
