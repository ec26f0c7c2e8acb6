"""Cleaner: sees every item of an import, or of a version, and says what is wrong with them. Pure.

1. `see` once for every item that can be used, in order; `see_broken` for every other. `report` at
   the end; with `parts` after a split, without them the parts the source itself told.
2. Nothing is removed here: what to leave out is the importer's and a person's business.
3. Memory: some 100 bytes and the name of each item (cleaning_table.py).
"""

from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

from cloud_hub.datasets.cleaning_boxes import box_fault
from cloud_hub.datasets.cleaning_facts import Facts, fact_names
from cloud_hub.datasets.cleaning_report import (
    EXAMPLES_MAX,
    CleaningReport,
    FactRange,
    Finding,
    FindingCode,
)
from cloud_hub.datasets.cleaning_rules import (
    duplicates,
    mixed,
    mixed_groups,
    near_duplicates,
    outliers,
)
from cloud_hub.datasets.cleaning_sentences import sentence_on
from cloud_hub.datasets.cleaning_table import PART_CODES, CleaningTable
from cloud_hub.datasets.manifest import ItemKind, Part
from cloud_hub.datasets.raw_item import Broken, RawItem

IMBALANCE_MAX = 10.0
RARE_ITEMS_MAX = 10
REASONS_MAX = 40  # Different reasons that are told apart
TONES = 2  # Brightness and contrast, the first facts of a picture
FLAT_SHARE_MAX = 0.5  # Of the windows in which a channel may be constant
TEXT_CHARS_MAX = 120

Order = list(FindingCode).index


class Cleaner:
    """See the rules above."""

    def __init__(
        self, kind: ItemKind, *, classes: Sequence[str] = (), channels: Sequence[str] | int = ()
    ) -> None:
        """Begin.

        Args:
            kind: of all items.
            classes: those the dataset should have; one that no item has is a finding.
            channels: of windows, their names or how many they are.
        """
        self._kind = kind
        self._classes = tuple(classes)
        self._channels = (
            tuple(f"channel {index}" for index in range(channels))
            if isinstance(channels, int)
            else tuple(channels)
        )
        assert (kind is ItemKind.WINDOW) == bool(self._channels), (
            "windows, and only they, have some"
        )
        self._fact_names = fact_names(kind, len(self._channels))
        self._table = CleaningTable(len(self._fact_names))
        self._tallies: dict[tuple[FindingCode, str], tuple[int, list[str]]] = {}
        self._broken_count = 0
        self._labelled_count = 0
        self._counts: Counter[str] = Counter()
        self._lows = np.full(len(self._channels), np.inf)
        self._highs = np.full(len(self._channels), -np.inf)
        self._flat_counts = np.zeros(len(self._channels), np.int64)

    def see(self, item: RawItem, digest: str, facts: Facts) -> None:
        """Take one item that can be used.

        Args:
            item: as it was read.
            digest: of its bytes, SHA-256.
            facts: opencv_facts.facts_of of its bytes.
        """
        self._table.add(item, digest, facts)
        if item.label is None and item.boxes is None:
            self._tally(FindingCode.UNLABELLED, "", item.name)
        else:
            self._labelled_count += 1
        if item.label is not None:
            self._counts[item.label] += 1
        for box in item.boxes or ():
            self._counts[box.class_name] += 1
        for fault in {box_fault(box) for box in item.boxes or ()} - {None}:
            assert fault is not None
            self._tally(fault, "", item.name)
        if self._kind is ItemKind.IMAGE and facts.is_blank:
            self._tally(FindingCode.BLANK, "", item.name)
        if facts.lows:
            self._see_channels(facts)

    def see_broken(self, broken: Broken) -> None:
        """Take one thing that is no item."""
        self._broken_count += 1
        reason = broken.reason[:TEXT_CHARS_MAX]
        reasons = sum(code is FindingCode.BROKEN for code, _ in self._tallies)
        if reasons >= REASONS_MAX and (FindingCode.BROKEN, reason) not in self._tallies:
            reason = "other reasons"
        self._tally(FindingCode.BROKEN, reason, broken.name)

    def report(self, parts: Iterable[Part] | None = None) -> CleaningReport:
        """Return what was found.

        Args:
            parts: of all items that were seen, in order, once a split was made.
        """
        found = self._tallied()
        found += self._of_columns(parts)
        found += self._of_classes()
        found += self._of_channels()
        ranges = self._add_outliers(found)
        copies = sum(f.count for f in found if f.code is FindingCode.DUPLICATE)
        return CleaningReport(
            items_count=len(self._table),
            broken_count=self._broken_count,
            labelled_count=self._labelled_count,
            duplicates_count=copies,
            counts_by_class={name: self._counts[name] for name in self._names_of_classes()},
            imbalance_ratio=self._imbalance(),
            findings=tuple(sorted(found, key=lambda finding: Order(finding.code))),
            facts=tuple(ranges),
        )

    def _tally(self, code: FindingCode, detail: str, name: str) -> None:
        count, examples = self._tallies.get((code, detail), (0, []))
        if len(examples) < EXAMPLES_MAX:
            examples.append(name)
        self._tallies[code, detail] = (count + 1, examples)

    def _tallied(self) -> list[Finding]:
        return [
            _finding(code, count, examples, detail)
            for (code, detail), (count, examples) in self._tallies.items()
        ]

    def _of_columns(self, parts: Iterable[Part] | None) -> list[Finding]:
        table = self._table
        if not len(table):
            return []
        codes = table.parts
        if parts is not None:
            codes = np.fromiter((PART_CODES[part] for part in parts), np.int8, count=len(table))
        digests = table.digests
        copies = duplicates(digests)
        found = [
            self._found(FindingCode.DUPLICATE, copies),
            self._found(FindingCode.LABEL_CONFLICT, mixed(digests, table.answers)),
            self._found(FindingCode.LEAK_DIGEST, mixed(digests, codes.astype(np.int64))),
            self._found(FindingCode.LEAK_GROUP, mixed_groups(table.groups, codes)),
        ]
        if self._kind is ItemKind.IMAGE:
            tones = table.values[:, :TONES]
            alike = np.setdiff1d(near_duplicates(table.looks, tones, table.is_blank), copies)
            found.append(self._found(FindingCode.NEAR_DUPLICATE, alike))
        return [finding for finding in found if finding.count]

    def _add_outliers(self, found: list[Finding]) -> list[FactRange]:
        """Add what lies far out to `found`; return how every fact lies."""
        ranges = []
        values = self._table.values
        for column, fact in enumerate(self._fact_names if len(values) else ()):
            far, median, deviation = outliers(values[:, column])
            low, high = float(values[:, column].min()), float(values[:, column].max())
            ranges.append(FactRange(fact, median, deviation, low, high))
            if len(far):
                found.append(self._found(FindingCode.OUTLIER, far, fact))
        return ranges

    def _found(self, code: FindingCode, indices: np.ndarray, detail: str = "") -> Finding:
        examples = [self._table.name(int(index)) for index in indices[:EXAMPLES_MAX]]
        return _finding(code, len(indices), examples, detail)

    def _names_of_classes(self) -> list[str]:
        return [*self._classes, *sorted(set(self._counts) - set(self._classes))]

    def _imbalance(self) -> float | None:
        counts = [count for count in self._counts.values() if count]
        return max(counts) / min(counts) if len(counts) > 1 else None

    def _of_classes(self) -> list[Finding]:
        found = []
        if not self._counts:
            return []
        ratio = self._imbalance()
        if ratio is not None and ratio > IMBALANCE_MAX:
            ordered = [f"{name} ({count})" for name, count in self._counts.most_common()]
            ends = ordered if len(ordered) <= EXAMPLES_MAX else [ordered[0], ordered[-1]]
            found.append(_finding(FindingCode.IMBALANCE, len(ordered), ends, f"{ratio:.1f}"))
        for code, names in (
            (FindingCode.EMPTY_CLASS, [n for n in self._classes if not self._counts[n]]),
            (FindingCode.RARE_CLASS, [n for n, c in self._counts.items() if c <= RARE_ITEMS_MAX]),
        ):
            if names:
                found.append(_finding(code, len(names), sorted(names)[:EXAMPLES_MAX], ""))
        return found

    def _see_channels(self, facts: Facts) -> None:
        lows, highs = np.array(facts.lows), np.array(facts.highs)
        np.minimum(self._lows, lows, out=self._lows)
        np.maximum(self._highs, highs, out=self._highs)
        self._flat_counts += lows == highs

    def _of_channels(self) -> list[Finding]:
        count = len(self._table)
        dead = self._lows == self._highs
        flat = ~dead & (self._flat_counts > FLAT_SHARE_MAX * count)
        found = []
        for code, is_so in ((FindingCode.DEAD_CHANNEL, dead), (FindingCode.FLAT_CHANNEL, flat)):
            names = [self._channels[index] for index in np.flatnonzero(is_so)]
            if names and count:
                found.append(_finding(code, len(names), names[:EXAMPLES_MAX], ""))
        return found


def _finding(code: FindingCode, count: int, examples: list[str], detail: str) -> Finding:
    sentence = sentence_on(code, count, detail)
    return Finding(code, count, tuple(examples), sentence, detail[:TEXT_CHARS_MAX])
