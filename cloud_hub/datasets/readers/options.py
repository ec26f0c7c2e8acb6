"""ReaderOptions: what a person may say about a source that the source does not say itself.

All fields have a default with which a well-formed source is read. What must not live here: reading.
"""

from enum import StrEnum
from typing import Annotated

from msgspec import Meta

from shared.settings import Settings
from shared.wire.limits import ShortText

WINDOW_SAMPLES_MAX = 16_384
CHANNELS_MAX = 512
CLASS_NAMES_MAX = 10_000

Samples = Annotated[int, Meta(ge=1, le=WINDOW_SAMPLES_MAX)]
Rows = Annotated[int, Meta(ge=0, le=10_000_000)]


class SourceLayout(StrEnum):
    """How a source is laid out."""

    FOLDER = "folder"  # Pictures below a folder per class, perhaps below train/, val/, test/
    TEXT = "text"  # The same with .txt files, one message each
    CSV = "csv"  # A row per item, or rows of sensors cut into windows
    IDX = "idx"  # MNIST's own files
    COCO = "coco"
    YOLO = "yolo"
    NPZ = "npz"
    NAB = "nab"  # Numenta Anomaly Benchmark: data/, labels/combined_windows.json
    LABEL_STUDIO = "label-studio"
    CVAT = "cvat"
    ARRIVALS = "arrivals"  # What devices have sent, as the hub keeps it


class LabelRule(StrEnum):
    """Which label a window gets from its rows."""

    MAJORITY = "majority"  # The most frequent; of equals the first in the alphabet
    ANY = "any"  # The most frequent but `normal_label`, if any row has one
    LAST = "last"  # That of the newest row


class MissingRule(StrEnum):
    """What a row without a value does to windows."""

    BREAK = "break"  # No window holds that row
    HOLD = "hold"  # The value before it stands in, at most `hold_rows_max` rows long


class TimeUnit(StrEnum):
    """What a number in a time column counts, since 1970 UTC."""

    SECONDS = "s"
    MILLISECONDS = "ms"
    MICROSECONDS = "us"
    NANOSECONDS = "ns"


class ReaderOptions(Settings, frozen=True):
    """See the fields; a layout reads only those that concern it."""

    # IDX, npz and YOLO without names: what the class numbers mean.
    classes: Annotated[tuple[ShortText, ...], Meta(max_length=CLASS_NAMES_MAX)] = ()

    # CSV, both forms. A column that the header lacks is as if it were not named.
    delimiter: Annotated[str, Meta(max_length=1)] = ""  # Empty: the one the header shows
    label_column: str = "label"
    device_column: str = "device"
    site_column: str = "site"
    group_column: str = "group"
    part_column: str = "part"
    captured_column: str = "captured_ms"

    # CSV, a row per item.
    file_column: str = "file"
    text_column: str = "text"

    # CSV, rows of sensors. One time column holds ISO 8601 (UTC where no zone is told) or a number;
    # three to six hold year, month, day, hour, minute, second. Empty: a column of the usual names.
    time_columns: Annotated[tuple[str, ...], Meta(max_length=6)] = ()
    time_unit: TimeUnit = TimeUnit.SECONDS
    # Empty: every column not named above whose first values are numbers.
    value_columns: Annotated[tuple[str, ...], Meta(max_length=CHANNELS_MAX)] = ()
    window: Samples = 64
    stride: Annotated[int, Meta(ge=0, le=WINDOW_SAMPLES_MAX)] = 0  # 0: a window's length
    # A longer step in time ends a window, as one backwards always does; 0: any step is fine.
    gap_s_max: Annotated[float, Meta(ge=0.0, le=1e9)] = 0.0
    # No window crosses a border between so many rows, and those within are one group; 0: none.
    block_rows: Rows = 0
    missing: MissingRule = MissingRule.BREAK
    hold_rows_max: Rows = 3
    label_rule: LabelRule = LabelRule.MAJORITY
    normal_label: ShortText = "normal"
