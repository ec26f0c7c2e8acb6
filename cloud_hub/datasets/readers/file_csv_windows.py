"""CSV files of sensor rows, cut into windows: one file or a folder of them, gzip or not.

1. Every file has the value columns of the first; one that lacks some is Broken as a whole.
2. Rows of one device, group and part are one series, also where devices alternate in a file.
3. Without a label column, a folder above the file names the class (and train/val/test the part),
   as with pictures.
4. A row with a cell that is no number is Broken, and counts as missing.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from cloud_hub.datasets.manifest import ITEM_BYTES_MAX, ITEMS_MAX, ItemKind
from cloud_hub.datasets.raw_item import Broken, RawItem
from cloud_hub.datasets.readers.file_csv_rows import BadCsvError, CsvFile, Row, is_csv_name
from cloud_hub.datasets.readers.file_folder import told_by_folders
from cloud_hub.datasets.readers.file_metadata import BadCellError, FactColumns, FileFacts
from cloud_hub.datasets.readers.file_source import Source, limited, too_many, wrong_layout
from cloud_hub.datasets.readers.options import CHANNELS_MAX, ReaderOptions, TimeUnit
from cloud_hub.datasets.readers.raw_texts import class_name, short_key, short_name
from cloud_hub.datasets.readers.sensor_times import USUAL_NAMES, to_ms
from cloud_hub.datasets.readers.sensor_windows import Reading, Window, WindowCutter

SERIES_MAX = 10_000  # Of one file
LOOK_ROWS_MAX = 200  # Looked at to tell which columns hold numbers
MISSING = frozenset({"", "na", "nan", "n/a", "null", "none", "-", "?"})
VALUE_MAX = 1e18
REMEDY = "Name the columns of values (`value_columns`) and of time (`time_columns`)."


@dataclass(frozen=True, slots=True)
class CsvWindowReader:
    """Windows of rows of sensors; see the rules above."""

    source: Source
    names: tuple[str, ...]
    columns: tuple[str, ...]  # Of values, in the order of the channels
    options: ReaderOptions
    # Another way to tell a row's label, of the file and the moment (NAB's are windows of time).
    label_at: Callable[[str, int | None], str | None] | None = None
    classes: tuple[str, ...] = ()
    kind: ItemKind = ItemKind.WINDOW

    @property
    def window_shape(self) -> tuple[int, ...]:
        """Return (T, C)."""
        return (self.options.window, len(self.columns))

    def items(self) -> Iterator[RawItem | Broken]:
        """Yield every window, file by file."""
        another = limited(ITEMS_MAX, self.source.root)
        for name in self.names:
            try:
                table = _Table(self, name)
            except BadCsvError as error:
                yield Broken(short_name(name), str(error))
                continue
            for found in table.items():
                if isinstance(found, RawItem):
                    another()
                yield found


class _Table:
    """One file, being cut."""

    def __init__(self, reader: CsvWindowReader, name: str) -> None:
        self._reader = reader
        self._options = reader.options
        self._name = name
        self._table = CsvFile(reader.source, name, delimiter=reader.options.delimiter)
        self._values = _indices(self._table, reader.columns)
        self._times = _time_indices(self._table, self._options)
        self._unit = self._options.time_unit
        if len(self._times) == 1 and self._table.header[self._times[0]].endswith("_ms"):
            self._unit = TimeUnit.MILLISECONDS
        self._facts = FactColumns(self._table, self._options)
        self._part, self._label = told_by_folders(name)
        self._series: dict[tuple[str, str, str], WindowCutter] = {}

    def items(self) -> Iterator[RawItem | Broken]:
        for row in self._table.rows():
            if isinstance(row, Broken):
                self._interrupt()
                yield row
                continue
            try:
                facts = self._facts.of(row.cells)
            except BadCellError as error:
                self._interrupt()
                yield Broken(short_name(f"{self._name}, line {row.line}"), str(error))
                continue
            values, problem = self._values_of(row)
            if problem:
                yield Broken(short_name(f"{self._name}, line {row.line}"), problem)
            cutter = self._cutter(facts)
            captured_ms = self._captured_ms(row)
            window = cutter.push(
                Reading(row.line, values, captured_ms, self._label_of(facts, captured_ms))
            )
            if window is not None:
                yield self._item(window, facts, has_group=cutter.has_groups)

    def _cutter(self, facts: FileFacts) -> WindowCutter:
        key = (facts.device, facts.group, facts.part or "")
        cutter = self._series.get(key)
        if cutter is None:
            if len(self._series) >= SERIES_MAX:
                raise too_many(self._name, SERIES_MAX, "devices and groups")
            cutter = self._series[key] = WindowCutter(self._options)
        return cutter

    def _interrupt(self) -> None:
        """Nobody knows whose row cannot be read: no window of any series crosses it."""
        for cutter in self._series.values():
            cutter.interrupt()

    def _values_of(self, row: Row) -> tuple[Sequence[float | None], str]:
        """Return a row's values, and what is wrong with the first that is missing."""
        values = [_number(row.cells[index]) for index in self._values]
        if None not in values:
            return values, ""
        first = values.index(None)
        is_empty = row.cells[self._values[first]].strip().lower() in MISSING
        word = "value" if is_empty else "finite number"
        return values, f"has no {word} for {self._reader.columns[first][:60]}"

    def _captured_ms(self, row: Row) -> int | None:
        if not self._times:
            return None
        return to_ms([row.cells[index] for index in self._times], self._unit)

    def _label_of(self, facts: FileFacts, captured_ms: int | None) -> str | None:
        if self._reader.label_at is not None:
            return self._reader.label_at(self._name, captured_ms)
        return facts.label if facts.label is not None else self._label

    def _item(self, window: Window, facts: FileFacts, *, has_group: bool) -> RawItem | Broken:
        name = short_name(f"{self._name}, line {window.line}")
        label = class_name(window.label) if window.label is not None else None
        if window.label is not None and label is None:
            return Broken(name, "its class has no usable name")
        group = facts.group
        if not group and has_group:
            group = short_key(f"{self._name} {facts.device} {window.segment}")
        return RawItem(
            window.data,
            name,
            label=label,
            device=facts.device,
            site=facts.site,
            captured_ms=window.captured_ms,
            group=group,
            part=facts.part or self._part,
        )


def open_csv_windows(path: Path, options: ReaderOptions) -> CsvWindowReader:
    """Return the reader of windows. Raises ContractError `dataset.layout`."""
    source = Source.at(path)
    names = tuple(n for n in source.names() if isinstance(n, str) and is_csv_name(n))
    if not names:
        raise wrong_layout("csv", path, "there is no .csv, .tsv or .csv.gz file", REMEDY)
    try:
        table = CsvFile(source, names[0], delimiter=options.delimiter)
        columns = options.value_columns or _number_columns(table, options)
        indices = _indices(table, columns)
        _time_indices(table, options)
    except BadCsvError as error:
        raise wrong_layout("csv", source.root / names[0], str(error), REMEDY) from error
    if not indices or len(indices) > CHANNELS_MAX:
        reason = f"it has {len(indices)} columns of numbers, not 1 to {CHANNELS_MAX}"
        raise wrong_layout("csv", source.root / names[0], reason, REMEDY)
    if 4 * options.window * len(indices) > ITEM_BYTES_MAX:
        reason = f"a window of {options.window} x {len(indices)} is over {ITEM_BYTES_MAX} bytes"
        raise wrong_layout("csv", path, reason, "Make `window` shorter.")
    return CsvWindowReader(source, names, tuple(columns), options)


def _indices(table: CsvFile, columns: Sequence[str]) -> list[int]:
    found = [table.index_of(column) for column in columns]
    for column, index in zip(columns, found, strict=True):
        if index is None:
            raise BadCsvError(f"its header has no column {column[:60]!r}")
    return [index for index in found if index is not None]


def _time_indices(table: CsvFile, options: ReaderOptions) -> list[int]:
    if options.time_columns:
        return _indices(table, options.time_columns)
    usual = (table.index_of(column) for column in (*USUAL_NAMES, options.captured_column))
    return [index for index in usual if index is not None][:1]


def _number_columns(table: CsvFile, options: ReaderOptions) -> list[str]:
    """Return the columns that are not named in the options and hold numbers."""
    named = {table.index_of(column) for column in _named(options)} | {
        *_time_indices(table, options)
    }
    wanted = [index for index, name in enumerate(table.header) if name and index not in named]
    has_number = dict.fromkeys(wanted, False)
    has_text = dict.fromkeys(wanted, False)
    for count, row in enumerate(table.rows()):
        if count >= LOOK_ROWS_MAX:
            break
        if isinstance(row, Broken):
            continue
        for index in wanted:
            cell = row.cells[index].strip().lower()
            is_number = cell not in MISSING and _is_number(cell)
            has_number[index] |= is_number
            has_text[index] |= not is_number and cell not in MISSING
    return [table.header[index] for index in wanted if has_number[index] and not has_text[index]]


def _named(options: ReaderOptions) -> tuple[str, ...]:
    return (
        options.label_column,
        options.device_column,
        options.site_column,
        options.group_column,
        options.part_column,
        options.captured_column,
    )


def _number(cell: str) -> float | None:
    """Return a cell's number, None if it holds none that a model could take."""
    try:
        number = float(cell)
    except ValueError:
        return None
    return number if abs(number) <= VALUE_MAX else None  # Not a number is not below it either


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True
