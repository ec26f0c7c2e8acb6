"""CSV files: a row per item (a column `file` or `text`), or rows of sensors cut into windows.

1. `file` holds names relative to the CSV file's folder; a row without such a file is Broken.
2. `text` holds one message.
3. Neither: file_csv_windows.py.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cloud_hub.datasets.manifest import ITEMS_MAX, ItemKind
from cloud_hub.datasets.raw_item import Broken, RawItem, Reader
from cloud_hub.datasets.readers.file_csv_rows import BadCsvError, CsvFile, Row, is_csv_name
from cloud_hub.datasets.readers.file_csv_windows import open_csv_windows
from cloud_hub.datasets.readers.file_metadata import BadCellError, FactColumns
from cloud_hub.datasets.readers.file_source import Source, limited, wrong_layout
from cloud_hub.datasets.readers.item_bytes import checked_picture, checked_text
from cloud_hub.datasets.readers.options import ReaderOptions
from cloud_hub.datasets.readers.raw_texts import class_name, short_name

REMEDY = "Give a CSV file with a header; name its columns in the options."


@dataclass(frozen=True, slots=True)
class CsvRowReader:
    """A row per item; see the rules above."""

    source: Source
    names: tuple[str, ...]
    kind: ItemKind
    options: ReaderOptions
    classes: tuple[str, ...] = ()
    window_shape: tuple[int, ...] = ()

    def items(self) -> Iterator[RawItem | Broken]:
        """Yield an item for every row, file by file."""
        another = limited(ITEMS_MAX, self.source.root)
        for name in self.names:
            for found in self._of(name):
                another()
                yield found

    def _of(self, name: str) -> Iterator[RawItem | Broken]:
        try:
            table = CsvFile(self.source, name, delimiter=self.options.delimiter)
        except BadCsvError as error:
            yield Broken(short_name(name), str(error))
            return
        index = table.index_of(self._column())
        if index is None:
            yield Broken(short_name(name), f"has no column {self._column()[:60]!r}")
            return
        columns = FactColumns(table, self.options)
        for row in table.rows():
            yield row if isinstance(row, Broken) else self._item(name, row, index, columns)

    def _column(self) -> str:
        is_text = self.kind is ItemKind.TEXT
        return self.options.text_column if is_text else self.options.file_column

    def _item(self, csv_name: str, row: Row, index: int, columns: FactColumns) -> RawItem | Broken:
        cell = row.cells[index]
        where = f"{csv_name}, line {row.line}"
        try:
            facts = columns.of(row.cells)
        except BadCellError as error:
            return Broken(short_name(where), str(error))
        label = class_name(facts.label) if facts.label is not None else None
        if facts.label is not None and label is None:
            return Broken(short_name(where), "its class has no usable name")
        if self.kind is ItemKind.TEXT:
            name, data = where, checked_text(cell.encode(), where)
        else:
            name, data = self._picture(csv_name, cell.strip(), where)
        if isinstance(data, Broken):
            return data
        return RawItem(
            data,
            short_name(name),
            label=label,
            device=facts.device,
            site=facts.site,
            captured_ms=facts.captured_ms,
            group=facts.group,
            part=facts.part,
        )

    def _picture(self, csv_name: str, cell: str, where: str) -> tuple[str, bytes | Broken]:
        folder = csv_name.rpartition("/")[0]
        name = f"{folder}/{cell}" if folder and cell else cell
        # The source is the CSV file's folder here, whether or not that file alone was named.
        data = Source(self.source.root).read(name or where)
        return name, data if isinstance(data, Broken) else checked_picture(data, name)


def open_csv(path: Path, options: ReaderOptions) -> Reader:
    """Return the reader of CSV files. Raises ContractError `dataset.layout`."""
    source = Source.at(path)
    names = tuple(n for n in source.names() if isinstance(n, str) and is_csv_name(n))
    if not names:
        raise wrong_layout("csv", path, "there is no .csv, .tsv or .csv.gz file", REMEDY)
    try:
        table = CsvFile(source, names[0], delimiter=options.delimiter)
    except BadCsvError as error:
        raise wrong_layout("csv", source.root / names[0], str(error), REMEDY) from error
    if table.index_of(options.text_column) is not None:
        return CsvRowReader(source, names, ItemKind.TEXT, options)
    if table.index_of(options.file_column) is not None:
        return CsvRowReader(source, names, ItemKind.IMAGE, options)
    return open_csv_windows(path, options)
