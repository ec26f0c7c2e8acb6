"""NAB: the Numenta Anomaly Benchmark's folders; its series of one value cut into windows.

1. `data/<category>/<series>.csv` has the columns timestamp and value; the category is the site, the
   series the group: windows of one series never lie in two parts.
2. `labels/combined_windows.json` tells from when to when a series is anomalous. A window is
   `anomaly` where any of its rows is, else `normal`.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta
from msgspec.structs import replace as replace_fields

from cloud_hub.datasets.manifest import ItemKind
from cloud_hub.datasets.raw_item import Broken, RawItem
from cloud_hub.datasets.readers.file_csv_windows import CsvWindowReader, open_csv_windows
from cloud_hub.datasets.readers.file_source import Source, required, wrong_layout
from cloud_hub.datasets.readers.options import LabelRule, ReaderOptions, TimeUnit
from cloud_hub.datasets.readers.raw_texts import short_key
from cloud_hub.datasets.readers.sensor_times import to_ms

DATA, LABELS = "data", "labels/combined_windows.json"
LABELS_BYTES_MAX = 16 << 20
NORMAL, ANOMALY = "normal", "anomaly"
REMEDY = "Give the folder that holds NAB's data/ and labels/ (github.com/numenta/NAB)."

Spans = tuple[tuple[int, int], ...]
_Pair = Annotated[tuple[str, ...], Meta(min_length=2, max_length=2)]
_DECODER = msgspec.json.Decoder(dict[str, tuple[_Pair, ...]])


@dataclass(frozen=True, slots=True)
class NabReader:
    """Windows of NAB's series; see the rules above."""

    windows: CsvWindowReader
    classes: tuple[str, ...] = (NORMAL, ANOMALY)
    kind: ItemKind = ItemKind.WINDOW

    @property
    def window_shape(self) -> tuple[int, ...]:
        """Return (T, 1)."""
        return self.windows.window_shape

    def items(self) -> Iterator[RawItem | Broken]:
        """Yield every window, series by series."""
        for found in self.windows.items():
            if isinstance(found, Broken):
                yield found
                continue
            series = found.name.partition(",")[0].removeprefix("…").removeprefix(f"{DATA}/")
            site = short_key(series.partition("/")[0])
            yield replace(found, site=site, group=short_key(series), part=None)


def open_nab(path: Path, options: ReaderOptions) -> NabReader:
    """Return the reader of NAB's folders. Raises ContractError `dataset.layout`."""
    source = Source.at(path)
    data = required(source, LABELS, "nab", bytes_max=LABELS_BYTES_MAX, remedy=REMEDY)
    spans = _spans(data, source.root / LABELS)
    wanted = replace_fields(
        options,
        value_columns=("value",),
        time_columns=("timestamp",),
        label_rule=LabelRule.ANY,
        normal_label=NORMAL,
    )
    inner = open_csv_windows(source.root / DATA, wanted)

    def label_at(name: str, captured_ms: int | None) -> str:
        found = spans.get(name, ()) if captured_ms is not None else ()
        is_in = any(start <= (captured_ms or 0) <= end for start, end in found)
        return ANOMALY if is_in else NORMAL

    return NabReader(replace(inner, label_at=label_at))


def _spans(data: bytes, where: Path) -> Mapping[str, Spans]:
    try:
        told = _DECODER.decode(data)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise wrong_layout("nab", where, str(error), REMEDY) from error
    found: dict[str, Spans] = {}
    for name, pairs in told.items():
        moments = [[to_ms([text], TimeUnit.SECONDS) for text in pair] for pair in pairs]
        spans = [(a, b) for a, b in moments if a is not None and b is not None]
        if len(spans) != len(pairs):
            raise wrong_layout("nab", where, f"{name[:60]!r} has a time that is none", REMEDY)
        found[name] = tuple(spans)
    return found
