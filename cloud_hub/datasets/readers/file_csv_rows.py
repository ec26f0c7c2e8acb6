"""CSV files as rows of texts: bounded, streamed, unpacked where they are gzip.

1. A row that cannot be read is Broken; the next one is read all the same.
2. Names of columns are compared without regard to case and surrounding blanks.
"""

import csv
import io
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass

from cloud_hub.datasets.raw_item import Broken
from cloud_hub.datasets.readers.file_source import DAMAGES, Source, too_many
from cloud_hub.datasets.readers.raw_texts import short_name

ROWS_MAX = 100_000_000  # Of one file
COLUMNS_MAX = 2_000
LINE_CHARS_MAX = 1 << 20
DELIMITERS = (",", ";", "\t", "|")
SUFFIXES = (".csv", ".csv.gz", ".tsv", ".tsv.gz")


class BadCsvError(Exception):
    """The file is no CSV at all, or its header is not one; the text says why."""


@dataclass(frozen=True, slots=True)
class Row:
    """One line under the header; shorter than the header is refused, longer too."""

    line: int  # Where it ends, from 1
    cells: Sequence[str]


class CsvFile:
    """One open CSV file: its header, then its rows."""

    def __init__(self, source: Source, name: str, *, delimiter: str = "") -> None:
        """Read the header. Raises BadCsvError."""
        self._source = source
        self._name = name
        self._delimiter = delimiter
        with closing(self._lines()) as lines:
            first = _first_line(lines)
            self._delimiter = delimiter or max(DELIMITERS, key=first.count)
            try:
                header = next(csv.reader([first], delimiter=self._delimiter), [])
            except csv.Error as error:
                raise BadCsvError(f"line 1: {error}") from error
        if not any(cell.strip() for cell in header) or len(header) > COLUMNS_MAX:
            raise BadCsvError(f"line 1 is no header of 1 to {COLUMNS_MAX} columns")
        self.header = tuple(cell.strip() for cell in header)
        self._indices = {cell.lower(): index for index, cell in enumerate(self.header) if cell}

    def index_of(self, column: str) -> int | None:
        """Return where a column stands, or None."""
        return self._indices.get(column.strip().lower())

    def rows(self) -> Iterator[Row | Broken]:
        """Yield the rows under the header."""
        with closing(self._lines()) as lines:
            try:
                _first_line(lines)
            except BadCsvError as error:  # It changed since its header was read
                yield self._broken(1, str(error))
                return
            parsed = csv.reader(lines, delimiter=self._delimiter)
            while True:
                try:
                    cells = next(parsed)
                except StopIteration:
                    return
                except csv.Error as error:
                    yield self._broken(parsed.line_num + 1, str(error))
                    continue
                except (OSError, BadCsvError, *DAMAGES) as error:
                    yield self._broken(parsed.line_num + 1, f"the rest cannot be read ({error})")
                    return
                if parsed.line_num > ROWS_MAX:
                    raise too_many(self._name, ROWS_MAX, "rows")
                if cells:
                    yield self._checked(parsed.line_num + 1, cells)

    def _checked(self, line: int, cells: list[str]) -> Row | Broken:
        if len(cells) != len(self.header):
            return self._broken(line, "has another number of cells than the header")
        try:
            "".join(cells).encode()
        except UnicodeEncodeError:
            return self._broken(line, "is not UTF-8")
        return Row(line, cells)

    def _broken(self, line: int, reason: str) -> Broken:
        return Broken(short_name(f"{self._name}, line {line}"), reason)

    def _lines(self) -> Generator[str, None, None]:
        opened = self._source.open_unpacked(self._name)
        if isinstance(opened, Broken):
            raise BadCsvError(opened.reason)
        with (
            closing(opened),
            io.TextIOWrapper(
                opened, encoding="utf-8-sig", errors="surrogateescape", newline=""
            ) as texts,
        ):
            while line := texts.readline(LINE_CHARS_MAX + 1):
                if len(line) > LINE_CHARS_MAX:
                    raise BadCsvError(f"a line is over {LINE_CHARS_MAX} characters")
                yield line


def is_csv_name(name: str) -> bool:
    """Return whether a file's name says that it is CSV."""
    return name.lower().endswith(SUFFIXES)


def _first_line(lines: Iterator[str]) -> str:
    try:
        return next(lines, "")
    except (OSError, *DAMAGES) as error:
        raise BadCsvError(str(error)) from error
