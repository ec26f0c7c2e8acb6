"""LabelDraft: labels that a person has given and not yet saved as a version. Pure.

1. A draft belongs to one operator and one dataset. Of each item it keeps what the operator said and
   how the item was labelled when they first said something of it.
2. Saving goes by item, onto the newest version. An item that nobody else has changed since takes
   the operator's label. One that somebody else has changed otherwise is a conflict: the operator
   decides, and until then nothing is saved.
3. What the newest version says already, and items that it does not have, change nothing.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from cloud_hub.datasets.manifest import Item, Manifest
from cloud_hub.datasets.raw_item import RawBox
from cloud_hub.datasets.relabelling import LabelChange


@dataclass(frozen=True, slots=True)
class ItemLabel:
    """All that is said of an item."""

    label: str | None = None
    boxes: tuple[RawBox, ...] | None = None

    @property
    def is_given(self) -> bool:
        """Return whether anybody has said anything."""
        return self.label is not None or self.boxes is not None

    def after(self, change: LabelChange) -> "ItemLabel":
        """Return what is said after a change; see relabelling.py."""
        if change is None:
            return ItemLabel()
        if isinstance(change, str):
            return ItemLabel(change, self.boxes)
        return ItemLabel(self.label, change)


@dataclass(frozen=True, slots=True)
class DraftEntry:
    """What an operator said of one item."""

    digest: str
    change: LabelChange
    was: ItemLabel  # When they first said something of it

    @property
    def said(self) -> ItemLabel:
        """Return what the operator saw after saying it."""
        return self.was.after(self.change)


@dataclass(frozen=True, slots=True)
class Conflict:
    """An item that somebody else has changed since the operator looked at it."""

    index: int  # In the newest version
    name: str
    entry: DraftEntry
    now: ItemLabel


@dataclass(frozen=True, slots=True)
class Merge:
    """What a draft changes in the newest version."""

    changes: Mapping[str, LabelChange]
    conflicts: tuple[Conflict, ...]
    gone_count: int  # Items that the version does not have


def label_of(item: Item, classes: Sequence[str]) -> ItemLabel:
    """Return what a version says of an item, classes by name."""
    boxes = None
    if item.boxes is not None:
        boxes = tuple(
            RawBox(classes[box.class_index], box.left, box.top, box.right, box.bottom)
            for box in item.boxes
        )
    return ItemLabel(None if item.label is None else classes[item.label], boxes)


def merge(
    entries: Collection[DraftEntry],
    newest: Manifest,
    *,
    mine: Collection[str] = (),
    theirs: Collection[str] = (),
) -> Merge:
    """Return what saving a draft changes.

    Args:
        entries: the draft.
        newest: the version it goes onto.
        mine: digests of items of which the operator's label counts, whatever others said.
        theirs: those of which the newest version's label stays.
    """
    by_digest = {entry.digest: entry for entry in entries}
    changes: dict[str, LabelChange] = {}
    conflicts: list[Conflict] = []
    found: set[str] = set()
    for index, item in enumerate(newest.items):
        entry = by_digest.get(item.digest)
        if entry is None or item.digest in found:
            continue
        found.add(item.digest)
        now = label_of(item, newest.classes)
        if now.after(entry.change) == now or item.digest in theirs:
            continue
        if now == entry.was or item.digest in mine:
            changes[item.digest] = entry.change
        else:
            conflicts.append(Conflict(index, item.name, entry, now))
    return Merge(changes, tuple(conflicts), len(by_digest) - len(found))


def change_in_count(entries: Collection[DraftEntry]) -> int:
    """Return by how many items a draft changes the number of those that are labelled."""
    return sum(entry.said.is_given - entry.was.is_given for entry in entries)
