"""CleaningTable: what cleaning remembers of each item, as columns of numbers. Pure.

Two million items cost some 100 bytes each here, and their names; objects would cost ten times that.
"""

from array import array
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from cloud_hub.datasets.cleaning_facts import Facts
from cloud_hub.datasets.manifest import Part
from cloud_hub.datasets.raw_item import RawItem

NONE = -1
PART_CODES = {None: NONE, Part.TRAIN: 0, Part.VALIDATION: 1, Part.TEST: 2}


class CleaningTable:
    """One row per item that can be used."""

    def __init__(self, facts_count: int) -> None:
        self._facts_count = facts_count
        self._digests = bytearray()
        self._looks = bytearray()
        self._values = array("f")
        self._is_blank = bytearray()
        self._labels = array("i")
        self._answers = array("q")
        self._groups = array("i")
        self._parts = array("b")
        self._names = bytearray()
        self._name_ends = array("q")
        self._group_indices: dict[str, int] = {}
        self._label_indices: dict[str, int] = {}

    def __len__(self) -> int:
        """Return how many items there are."""
        return len(self._labels)

    def add(self, item: RawItem, digest: str, facts: Facts) -> None:
        """Remember one item."""
        assert len(facts.values) == self._facts_count, "facts of another kind"
        self._digests += bytes.fromhex(digest[:32])
        self._looks += (facts.look or 0).to_bytes(16, "big")
        self._values.extend(facts.values)
        self._is_blank.append(facts.is_blank or facts.look is None)
        self._labels.append(self._index(self._label_indices, item.label))
        self._answers.append(_answer(item))
        self._groups.append(self._index(self._group_indices, item.group or None))
        self._parts.append(PART_CODES[item.part])
        self._names += item.name.encode("utf-8", "replace")
        self._name_ends.append(len(self._names))

    def name(self, index: int) -> str:
        """Return an item's name."""
        start = self._name_ends[index - 1] if index else 0
        return self._names[start : self._name_ends[index]].decode("utf-8")

    @property
    def digests(self) -> NDArray[np.uint64]:
        """(N, 2): the first 128 bits of each digest."""
        return np.frombuffer(bytes(self._digests), ">u8").reshape(-1, 2).astype(np.uint64)

    @property
    def looks(self) -> NDArray[np.uint64]:
        """(N, 2): the 128 bits of each look."""
        return np.frombuffer(bytes(self._looks), ">u8").reshape(-1, 2).astype(np.uint64)

    @property
    def values(self) -> NDArray[np.float32]:
        """(N, facts)."""
        return np.array(self._values, np.float32).reshape(-1, self._facts_count)

    @property
    def is_blank(self) -> NDArray[np.bool_]:
        """(N,): the look says nothing."""
        return np.array(self._is_blank, np.bool_)

    @property
    def answers(self) -> NDArray[np.int64]:
        """(N,): equal where label and boxes are; NONE where there are neither."""
        return np.array(self._answers, np.int64)

    @property
    def groups(self) -> NDArray[np.int32]:
        """(N,): which group; NONE: the item stands alone."""
        return np.array(self._groups, np.int32)

    @property
    def parts(self) -> NDArray[np.int8]:
        """(N,): 0 train, 1 validation, 2 test, NONE."""
        return np.array(self._parts, np.int8)

    @staticmethod
    def _index(indices: dict[str, int], name: str | None) -> int:
        return NONE if name is None else indices.setdefault(name, len(indices))


def _answer(item: RawItem) -> int:
    """Return a number that two items with the same label and boxes share."""
    if item.label is None and item.boxes is None:
        return NONE
    boxes = sorted((b.class_name, b.left, b.top, b.right, b.bottom) for b in item.boxes or ())
    text = repr((item.label, boxes)).encode("utf-8", "replace")
    return crc32(text) << 20 | len(text) & 0xFFFFF
