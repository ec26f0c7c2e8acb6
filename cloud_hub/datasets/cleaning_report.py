"""CleaningReport: what is wrong with a dataset, and what to do about it. Values only.

It is kept with the version, answered by the API and shown on the dashboard.
"""

from collections.abc import Mapping
from enum import StrEnum

import msgspec

from shared.wire.limits import Count, LongText, ShortText

EXAMPLES_MAX = 20


class FindingCode(StrEnum):
    """What may be wrong; the most urgent first, which is the order in a report."""

    LEAK_DIGEST = "leak_digest"  # The same bytes in two parts
    LEAK_GROUP = "leak_group"  # One group in two parts
    LABEL_CONFLICT = "label_conflict"  # The same bytes, labelled differently
    BROKEN = "broken"
    DUPLICATE = "duplicate"
    NEAR_DUPLICATE = "near_duplicate"
    IMBALANCE = "imbalance"
    RARE_CLASS = "rare_class"
    EMPTY_CLASS = "empty_class"
    UNLABELLED = "unlabelled"
    OUTLIER = "outlier"
    BLANK = "blank"  # Pictures of one colour
    DEAD_CHANNEL = "dead_channel"  # The same value in every window
    FLAT_CHANNEL = "flat_channel"  # Constant within many windows
    BOX_OUTSIDE = "box_outside"
    BOX_DEGENERATE = "box_degenerate"
    BOX_TINY = "box_tiny"


class Finding(msgspec.Struct, frozen=True):
    """One thing that is wrong: how often, where for instance, and the remedy."""

    code: FindingCode
    count: Count
    examples: tuple[str, ...]  # At most EXAMPLES_MAX names
    sentence: LongText  # For people, with the remedy
    detail: ShortText = ""  # What the sentence is about: the reason, class or channel


class FactRange(msgspec.Struct, frozen=True):
    """How one simple fact of the items lies: "brightness", "width", "channel 3 mean"."""

    fact: ShortText
    median: float
    deviation: float  # 1.4826 x the median of the distances to the median
    low: float
    high: float


class CleaningReport(msgspec.Struct, frozen=True):
    """All that was found; `findings` in the order of FindingCode."""

    items_count: Count  # That can be used
    broken_count: Count
    labelled_count: Count
    duplicates_count: Count
    counts_by_class: Mapping[str, int]  # Labelled items; of detection the boxes
    imbalance_ratio: float | None  # Largest to smallest class that has any; None below two
    findings: tuple[Finding, ...] = ()
    facts: tuple[FactRange, ...] = ()
